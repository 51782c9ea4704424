"""Opens files that somebody else put there: plain ones alone, of a size that is allowed, and never waiting for one."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from flows.project.errors import InputError

KINDS = {
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFLNK: "a link",
    stat.S_IFSOCK: "a socket",
}


def kind(mode: int) -> str:
    """What a file is that is no plain one, in words."""
    return KINDS.get(stat.S_IFMT(mode), "something else")


def opened(file: Path | str, most: int, folder: int | None = None, setting: str = "limits.image_bytes") -> BinaryIO:
    """The file, open for reading.

    Args:
        most: bytes that it may have. A file with holes claims more than it takes on the disk: what it claims counts.
        folder: the open folder that `file` is a name in, which then is followed to no other place. Without it links
            are followed, as DVC makes them too.
        setting: the key of params.yaml that `most` comes from.

    Raises:
        InputError: it is no plain file, or larger; the message goes on after the file's name, or "it".
        OSError: it is not there, or may not be read.
    """
    check(os.stat(file, dir_fd=folder, follow_symlinks=folder is None), most, setting)
    # What is there may be another one by now. A named pipe would hold up a plain open until somebody writes to it.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | (0 if folder is None else os.O_NOFOLLOW)
    descriptor = os.open(file, flags, dir_fd=folder)
    try:
        check(os.fstat(descriptor), most, setting)
        return os.fdopen(descriptor, "rb")
    except BaseException:  # an interrupt as well
        os.close(descriptor)
        raise


def check(found: os.stat_result, most: int, setting: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"is {kind(found.st_mode)}, and no plain file")
    if found.st_size > most:
        raise too_large(f"{found.st_size:,}", most, setting)


def too_large(size: str, most: int, setting: str) -> InputError:
    return InputError(f"has {size} bytes, and {setting} in params.yaml allows {most:,}")


def content(file: Path | str, most: int, folder: int | None = None) -> bytes:
    """All of it. Raises as `opened` does."""
    with opened(file, most, folder) as stream:
        found = stream.read(most + 1)
    if len(found) > most:  # it grew meanwhile
        raise too_large(f"over {most:,}", most, "limits.image_bytes")
    return found
