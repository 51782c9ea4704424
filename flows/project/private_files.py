"""Files that hold secrets: for the eyes of this user alone.

A folder with the setgid bit (`chmod g+s`) is one that people share on purpose: what lies in it its group may go on
using as it may.
"""

import contextlib
import os
import stat
from pathlib import Path


def create(path: Path) -> None:
    """A new, empty file; one that is there is left as it is. SQLite gives the files beside a database its rights."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o660 if is_shared(path.parent) else 0o600))


def make_folder(path: Path) -> None:
    """Or takes from others what they may do with the one that is there. One through which they may only pass stays."""
    try:
        path.mkdir(mode=0o770 if is_shared(path.parent) else 0o700)
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o066:
            tighten(path)


def tighten(path: Path) -> None:
    """Takes from others what they may do with a file or folder, where it is this user's."""
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
    """Whether nobody else may do anything with it."""
    return not path.stat().st_mode & 0o077
