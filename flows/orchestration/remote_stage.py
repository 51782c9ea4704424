"""A stage run in another working copy, perhaps on another machine, with only a DVC remote between the two.

Here     `errand` says what to run, with params.yaml, dvc.lock and what of the results DVC does not keep
There    `run` pulls what the stage needs, runs it with `dvc repro --single-item`, and pushes what it made
Here     `take_back` writes the stage's entry into dvc.lock, as DVC would have; `dvc pull` brings the files

How the errand travels is not known here: see flows/orchestration/cluster.py.
"""

import hashlib
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from flows.graph import code_digest, dvc_command
from flows.graph.repro import Outcome, Repro
from flows.machine import hardware
from flows.machine.processes import ClosedError, Processes
from flows.project import file_io, git
from flows.project.errors import InputError, counted

EMPTY = "schema: '2.0'\nstages: {}\n"  # a dvc.lock
NOTE = "errand.json"  # in .trainyard/: the digests of what errands have written over, by path
LIMIT = 6 * 3600  # seconds for data to be pulled or pushed: a remote that hangs must not hold a flow for ever


@dataclass(frozen=True)
class Errand:
    """What the other working copy has to know.

    Attributes:
        stage: to be run.
        needs: all the stages that it needs, directly or not.
        settings: the texts of params.yaml, dvc.lock and the .dvc files that it needs, by path.
        files: the texts of what the needed stages wrote and DVC does not keep, by path.
        code: the digests of what must be alike, by path.
        uncached: the paths of what the stage will write and DVC does not keep.
    """

    stage: str
    needs: list[str]
    settings: dict[str, str]
    files: dict[str, str]
    code: dict[str, str]
    uncached: list[str]
    force: bool = False
    time_limit: float | None = None


@dataclass(frozen=True)
class Return:
    """What comes back: how it ended and where, the stage's entry in dvc.lock, and the texts of uncached files."""

    outcome: Outcome
    where: str
    entry: dict | None = None  # None where it failed
    files: dict[str, str] = field(default_factory=dict)


def errand(root: Path, stage: str, needs: Iterable[str], uncached: dict[str, list[str]], **options: Any) -> Errand:
    """What the stage's errand has to say, of the project as it lies in `root`.

    Args:
        needs: all the stages that it needs, directly or not.
        uncached: see `dvc_graph.uncached`.
        options: force and time_limit.
    """
    needs = list(needs)
    return Errand(
        stage=stage,
        needs=needs,
        settings={"dvc.lock": EMPTY}
        | texts(root, ["params.yaml", "dvc.lock", *(name for name in needs if name.endswith(".dvc"))]),
        files=texts(root, [path for needed in needs for path in uncached.get(needed, ())]),
        code=code(root, stage),
        uncached=uncached.get(stage, []),
        **options,
    )


def code(root: Path, stage: str) -> dict[str, str]:
    """The digests of what both copies must have alike, by path: a stage runs the code that lies there."""
    return {"dvc.yaml": md5(root / "dvc.yaml")} | code_digest.by_file(stage.partition("@")[0], root)


def md5(file: Path) -> str:
    """As DVC has it in dvc.lock."""
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def texts(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """The files at the paths, and below those that are folders."""
    found = {}
    for path in map(root.joinpath, paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                found[file.relative_to(root).as_posix()] = file.read_text(encoding="utf-8")
    return found


# --- There ---------------------------------------------------------------------------------------------------------


def run(
    task: Errand,
    root: Path,
    processes: Processes,
    log: Callable[[str], None],
    variables: Mapping[str, str] | None = None,
) -> Return:
    """Runs the stage in the working copy `root`, which it brings to the state that the errand describes. One at a
    time: whoever comes second waits. Never raises for what a stage or a remote does.

    Args:
        variables: more of the commands' environment.
    """
    where = f"{socket.gethostname()}:{root}"
    started = time.monotonic()
    remote: dict[str, Any] = {"variables": variables, "time_limit": LIMIT}

    def failed(problem: str) -> Return:
        log(f"FAILED: {problem}")
        return Return(Outcome(task.stage, time.monotonic() - started, problem), where)

    folder = root / ".trainyard"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "errand.lock"):
        try:
            prepare(task, root)
            if task.needs:
                log("dvc pull")
                dvc_command.transfer(root, processes, "pull", "--force", *task.needs, **remote)
            repro = Repro(
                root, processes, lambda stage, line: None,
                force=task.force, time_limit=task.time_limit, jobs={task.stage: hardware.cores()}, variables=variables,
            )  # fmt: skip
            outcome = repro(task.stage, log)
            if outcome.problem:
                return Return(outcome, where)
            note(root, task)
            log("dvc push")
            dvc_command.transfer(root, processes, "push", task.stage, **remote)
            entry = stages_of((root / "dvc.lock").read_text(encoding="utf-8")).get(task.stage)
        except InputError as error:
            return failed(str(error))
        except ClosedError:
            return failed("cancelled")
        return Return(replace(outcome, seconds=time.monotonic() - started), where, entry, texts(root, task.uncached))


def prepare(task: Errand, root: Path) -> None:
    """Writes params.yaml, dvc.lock and the uncached files, and removes what would be taken for a result.

    Raises:
        InputError: this copy has other code, or a person's changes would be lost.
    """
    mine = code(root, task.stage)
    differing = sorted(path for path in task.code.keys() | mine.keys() if task.code.get(path) != mine.get(path))
    if differing:
        more = f" and {counted(len(differing) - 3, 'more file')}" if len(differing) > 3 else ""
        raise InputError(
            f"the working copy {root} on {socket.gethostname()} differs in {', '.join(differing[:3])}{more}: bring it "
            "to the same commit, and commit what you changed"
        )
    refuse_to_lose(root, task)
    for path, text in {**task.settings, **task.files}.items():
        file_io.write_if_changed(root / path, text)
    note(root, task)
    # A folder of which a stage needs all, like models/<dataset>, may hold what other errands left.
    locked = stages_of(task.settings["dvc.lock"])
    made = [out["path"] for name in task.needs for out in locked.get(name, {}).get("outs", ())]
    for folder in {Path(path).parent for path in made if len(Path(path).parts) > 2}:
        keep = {
            Path(path).relative_to(folder).parts[0]
            for path in [*made, *task.files]
            if Path(path).is_relative_to(folder)
        }
        for entry in (root / folder).glob("*"):
            if entry.name not in keep and entry.name != ".gitignore":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def refuse_to_lose(root: Path, task: Errand) -> None:
    """Raises InputError where what the errand writes over is neither what git has nor what an errand left. A copy
    without git has nothing to lose that could be told."""
    left = file_io.read_or_anew(root / ".trainyard" / NOTE, dict, {})
    for name in task.settings:
        path = root / name
        if path.is_file() and md5(path) != left.get(name) and git.differing(root, name):
            raise InputError(
                f"{path} on {socket.gethostname()} has changes that are not committed, over which a stage from "
                "elsewhere would write: commit them, or give workers a working copy of their own"
            )


def note(root: Path, task: Errand) -> None:
    """Notes what errands left, so that the next one may write over it."""
    file = root / ".trainyard" / NOTE
    left = file_io.read_or_anew(file, dict, {})
    file_io.write_json(file, left | {name: md5(root / name) for name in task.settings})


# --- Here ----------------------------------------------------------------------------------------------------------


def stages_of(lock: str) -> dict[str, dict]:
    return (yaml.load(lock, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}).get("stages") or {}


def take_back(root: Path, back: Return, uncached: Iterable[str]) -> None:
    """Writes the stage's entry into dvc.lock, and its uncached files.

    Raises:
        InputError: the stage ran with other files than lie here; nothing is written then.
    """
    lock = root / "dvc.lock"
    content = yaml.safe_load(lock.read_text(encoding="utf-8") if lock.is_file() else EMPTY)
    made = {out["path"] for entry in content["stages"].values() for out in entry.get("outs", ())}
    for dependency in (back.entry or {}).get("deps", ()):
        file = root / dependency["path"]
        # What stages make comes from the remote afterwards, and folders are DVC's to compare.
        if dependency["path"] not in made and file.is_file() and md5(file) != dependency["md5"]:
            raise InputError(f"{back.outcome.stage} ran with another {dependency['path']} at {back.where}")
    for path in uncached:
        target = root / path
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    for path, text in back.files.items():
        file_io.write_if_changed(root / path, text)
    content["stages"][back.outcome.stage] = back.entry
    with file_io.whole(lock) as temporary:
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=2**16)
        temporary.write_text(text, encoding="utf-8")
