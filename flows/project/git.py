"""All that is asked of git, which may not be installed."""

import os
import subprocess
from pathlib import Path

from flows.project import messages
from flows.project.errors import InputError

NOT_INSTALLED = 127  # the exit code of a shell that does not find a command


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs git in a folder, with messages in English. Never raises: without git it fails as a shell would."""
    command = ["git", *arguments]
    english = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(command, cwd=root, env=english, capture_output=True, encoding="utf-8", errors="replace")
    except OSError:
        return subprocess.CompletedProcess(command, NOT_INSTALLED, "", "git is not installed")


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What it says on one line, of hooks too."""
    return " ".join((done.stderr or done.stdout).split())[:500]


def commit(root: Path, *, short: bool = False) -> str | None:
    """The name of the current commit; None outside of a repository."""
    done = run(root, "rev-parse", *(["--short"] if short else []), "HEAD")
    if "dubious ownership" in done.stderr:
        messages.warn_once(f"git says nothing of the commit, so runs are without one: {said(done)}")
    return None if done.returncode else done.stdout.strip()


def is_dirty(root: Path) -> bool:
    """Whether more than what stages write differs from the commit; also where git cannot tell."""
    done = run(root, "status", "--porcelain", "--", ".", ":!dvc.lock", ":!metrics", ":!studies/dvc.lock")
    return bool(done.returncode or done.stdout)


def why_not(root: Path) -> str | None:
    """Why git does not work in a folder, in its own words: they name the cure, as for a repository of another user.
    None where it does."""
    done = run(root, "rev-parse", "--git-dir")
    return said(done) if done.returncode else None


def differing(root: Path, *names: str) -> list[str]:
    """Those of the files that differ from the last commit; none where git cannot tell."""
    return [name for name in names if run(root, "status", "--porcelain", "--", name).stdout]


def commit_alone(root: Path, names: list[str], message: str) -> str:
    """Commits these files and nothing else, whatever is staged; returns the commit's short name.

    Raises:
        InputError: git, or a hook, refuses, in its words. What is staged is as before.
    """
    run(root, "add", "--", *names)  # a file that git does not know cannot be committed by name
    done = run(root, "commit", "--quiet", "--message", message, "--", *names)
    if done.returncode:
        run(root, "reset", "--quiet", "--", *names)
        raise InputError(said(done))
    return commit(root, short=True) or "a commit"
