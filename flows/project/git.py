"""Everything that is asked of git."""

import os
import subprocess
from pathlib import Path

from flows.project import messages, paths


def commit(root: Path) -> str:
    """Git's short name of the current commit; empty outside a repository."""
    try:
        asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    except OSError:
        return ""
    return asked.stdout.strip()


def git_state() -> tuple[str, bool]:
    """The commit ("none" outside git) and whether the tree differs from it in more than what stages write."""

    def git(*arguments: str) -> subprocess.CompletedProcess:
        english = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(["git", *arguments], cwd=paths.root(), env=english, capture_output=True, text=True)

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--", ".", ":!dvc.lock", ":!metrics").stdout
    except FileNotFoundError:
        return "none", True
    if commit.returncode:
        if "dubious ownership" in commit.stderr:
            messages.warn_once(
                f"git says nothing of the commit, so runs are without one: {' '.join(commit.stderr.split())}"
            )
        return "none", True
    return commit.stdout.strip(), bool(changed)
