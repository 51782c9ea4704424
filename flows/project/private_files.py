"""Files that hold secrets: this user alone can read them.

People share a folder with the setgid bit (`chmod g+s`) on purpose: its group keeps its rights to what lies in it.
"""

import contextlib
import os
import stat
from pathlib import Path


def create(path: Path) -> None:
    """Makes a private, empty file, unless it exists. SQLite gives a database's rights to the files beside it."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o660 if is_shared(path.parent) else 0o600))


def make_folder(path: Path) -> None:
    """Makes a private folder. An existing one loses other users' rights, unless they may only pass through it."""
    try:
        path.mkdir(mode=0o770 if is_shared(path.parent) else 0o700)
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o066:
            tighten(path)


def tighten(path: Path) -> None:
    """Removes other users' rights to a file or folder, where it belongs to this user."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    kept = 0o770 if is_shared(path.parent) else 0o700
    too_much = stat.S_IMODE(found.st_mode) & 0o777 & ~kept
    if too_much and found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode):
        path.chmod(stat.S_IMODE(found.st_mode) & ~too_much)


def is_shared(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_ISGID)


def is_private(path: Path) -> bool:
    """Whether no other user has any right to it."""
    return not path.stat().st_mode & 0o077
