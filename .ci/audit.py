"""`make audit`: looks up known holes of the packages in constraints.txt, by pip-audit, and says which are new.

Those that are known here are in .ci/known-holes.txt: an id a line, and behind it why it does not reach us. Ends with 1
where there are others, and with 0, and a sentence, where the data of known holes cannot be reached.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 600  # seconds
# What pip-audit's errors of a network say.
UNREACHABLE = ("ConnectionError", "Connection", "Timeout", "timed out", "Max retries", "HTTPError", "ServiceError")


def audit(program: str, constraints: Path, known: dict[str, str]) -> int:
    """Returns the exit code.

    Args:
        program: pip-audit.
        known: ids, and why each does not reach us.
    """
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch, "answer.json")
        # What is pinned is all there is: nothing is resolved or installed.
        options = ["--requirement", constraints, "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        try:
            done = subprocess.run(
                [program, *options, "--format", "json", "--output", answer],
                capture_output=True, text=True, timeout=LIMIT,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return unreachable(str(error))
        try:
            packages = json.loads(answer.read_text(encoding="utf-8"))["dependencies"]
        except (OSError, ValueError, KeyError):
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no reason is given"]
            if any(word in done.stderr for word in UNREACHABLE):
                return unreachable(said[-1])
            print(f"audit: pip-audit failed with exit code {done.returncode}: {said[-1]}")
            return 1
    looked_up = [package for package in packages if "skip_reason" not in package]
    if not looked_up:
        return unreachable("it knows none of our packages")
    if missing := len(packages) - len(looked_up):
        print(f"audit: {missing} of {len(packages)} packages could not be looked up")
    found = [(package, hole) for package in looked_up for hole in package["vulns"]]
    new = [(package, hole) for package, hole in found if known.keys().isdisjoint(ids(hole))]
    for package, hole in new:
        fixed = f"; fixed in {', '.join(hole['fix_versions'])}" if hole.get("fix_versions") else "; there is no fix yet"
        print(f"audit: {package['name']} {package['version']} has {', '.join(ids(hole))}{fixed}")
    for gone in known.keys() - {one for _, hole in found for one in ids(hole)}:
        print(f"audit: {gone} is not among the holes of these packages any more: take it out of .ci/known-holes.txt")
    advice = ": raise the pins, or say in .ci/known-holes.txt and docs/security.md why they do not reach us"
    print(
        f"audit: {len(looked_up)} packages, {len(found) - len(new)} known holes that do not reach us, {len(new)} new"
        f"{advice if new else ''}"
    )
    return 1 if new else 0


def ids(hole: dict) -> list[str]:
    return [hole["id"], *hole.get("aliases", [])]


def unreachable(why: str) -> int:
    print(f"audit: the data of known holes cannot be reached from here, so nothing was looked up ({why})")
    return 0


def read_known(file: Path) -> dict[str, str]:
    """Raises ValueError for an id without a reason."""
    known = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, reason = line.partition(" ")
        if not reason.strip():
            raise ValueError(f"{file}: {name} has no reason")
        known[name] = reason.strip()
    return known


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1], ROOT / "constraints.txt", read_known(ROOT / ".ci" / "known-holes.txt")))
