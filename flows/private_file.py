"""Files that hold secrets: for the eyes of this user alone."""

import contextlib
import os
import stat
from pathlib import Path

OTHERS = 0o077  # the bits of a mode that are about anybody else


def write_private(path: Path, text: str) -> None:
    """A file that this user alone can read, whole or not at all; so is the folder that it makes for it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(f"{text}\n")
    os.replace(temporary, path)


def is_private(path: Path) -> bool:
    """Whether nobody else can read it or write to it."""
    return not path.stat().st_mode & OTHERS


def hide(path: Path) -> None:
    """Makes a file of this user's private, where there is one."""
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        if found.st_mode & OTHERS and found.st_uid == os.geteuid():
            path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
