"""What a retrain leaves for git: dvc.lock, the metrics, and the version of the images that were taken in."""

from pathlib import Path

from flows.data import added
from flows.project import git
from flows.project.errors import InputError
from flows.untrusted import masking


def refuse_impossible(root: Path) -> None:
    """Raises InputError where nothing can be committed."""
    if reason := git.why_not(root):
        raise InputError(f"--commit needs the project in a git repository that git lets you use: {reason}")


def uncommitted(root: Path, dataset: str) -> list[str]:
    """Those of the files that differ from the last commit; none outside of a repository."""
    files = [root / "dvc.lock", added.dvc_file(dataset), root / "metrics" / dataset]
    return git.differing(root, *(file.relative_to(root).as_posix() for file in files if file.exists()))


def commit(root: Path, names: list[str], message: str) -> str:
    """Commits these files and nothing else; returns the commit's short name. Raises InputError where git refuses."""
    try:
        return git.commit_alone(root, names, message)
    except InputError as error:
        raise InputError(f"not committed: {masking.text(str(error))}") from None  # a hook's words, too
