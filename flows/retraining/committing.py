"""What a retrain leaves for git: dvc.lock, the metrics, and the version of the images that were taken in."""

import subprocess
from pathlib import Path

from flows.data import added
from flows.untrusted import masking
from lightning_modules.errors import InputError


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except OSError:
        raise InputError("--commit needs git, which is not installed") from None


def refuse_impossible(root: Path) -> None:
    """Raises InputError where nothing can be committed, with git's own reason: it names the cure, as for a repository
    of another user."""
    done = git(root, "rev-parse", "--git-dir")
    if done.returncode:
        said = " ".join(done.stderr.split())[:500]
        raise InputError(f"--commit needs the project in a git repository that git lets you use: {said}")


def is_possible(root: Path) -> bool:
    """Whether the project lies in a git repository."""
    try:
        return git(root, "rev-parse", "--git-dir").returncode == 0
    except InputError:
        return False


def uncommitted(root: Path, dataset: str) -> list[str]:
    """Those of the files that differ from the last commit."""
    files = [root / "dvc.lock", added.dvc_file(dataset), root / "metrics" / dataset]
    names = [file.relative_to(root).as_posix() for file in files if file.exists()]
    return [name for name in names if git(root, "status", "--porcelain", "--", name).stdout]


def commit(root: Path, names: list[str], message: str) -> str:
    """Commits these files and nothing else, whatever is staged; returns the commit's short name.

    Raises:
        InputError: git refuses. What is staged is as before.
    """
    git(root, "add", "--", *names)  # a file that git does not know cannot be committed by name
    done = git(root, "commit", "--quiet", "--message", message, "--", *names)
    if done.returncode:
        git(root, "reset", "--quiet", "--", *names)
        said = masking.text(" ".join((done.stderr or done.stdout).split()))  # also of hooks
        raise InputError(f"not committed: {said[:500]}")
    return git(root, "rev-parse", "--short", "HEAD").stdout.strip()
