"""Opens files from other people: only plain files, only up to a size, and without ever waiting for one."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from flows.project.errors import InputError, our_mistake, sentence
from flows.untrusted.escaping import printable

KINDS = {
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFLNK: "a link",
    stat.S_IFSOCK: "a socket",
}


def kind(mode: int) -> str:
    """The kind of a file that is no plain file, in words."""
    return KINDS.get(stat.S_IFMT(mode), "something else")


def opened(file: Path | str, most: int, folder: int | None = None, key: str = "limits.image_bytes") -> BufferedReader:
    """The file, open for reading.

    Args:
        most: the largest allowed size in bytes. The size that the file claims counts: a file with holes takes less on
            the disk.
        folder: descriptor of the open folder that `file` is a name in; links are then refused. Without it links are
            followed, since DVC makes them too.
        key: the key of params.yaml that `most` comes from.

    Raises:
        InputError: it is no plain file, or too large; the message continues the file's name, or "it".
        OSError: it does not exist, or may not be read.
    """
    check(os.stat(file, dir_fd=folder, follow_symlinks=folder is None), most, key)
    # The file may have been replaced since. Opening a named pipe without O_NONBLOCK would wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | (0 if folder is None else os.O_NOFOLLOW)
    descriptor = os.open(file, flags, dir_fd=folder)
    try:
        check(os.fstat(descriptor), most, key)
        return os.fdopen(descriptor, "rb")
    except BaseException:  # an interrupt as well
        os.close(descriptor)
        raise


def check(found: os.stat_result, most: int, key: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"is {kind(found.st_mode)}, and no plain file")
    if found.st_size > most:
        raise too_large(f"{found.st_size:,}", most, key)


def too_large(size: str, most: int, key: str) -> InputError:
    return InputError(f"has {size} bytes, and {key} in params.yaml allows {most:,}")


def content(file: Path | str, most: int, folder: int | None = None) -> bytes:
    """All bytes of a file. See `opened` for `folder` and what it raises."""
    with opened(file, most, folder) as stream:
        found = stream.read(most + 1)
    if len(found) > most:  # it grew meanwhile
        raise too_large(f"over {most:,}", most, "limits.image_bytes")
    return found


@contextmanager
def as_input_errors(message: str) -> Iterator[None]:
    """Turns any error of a library that reads such a file into an InputError: on damaged files it raises a dozen kinds.

    Args:
        message: continues the file's name, or "it"; {} stands for what the library says.
    """
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError("needs more memory than there is") from None
    except Exception as error:  # of any reader, on bytes that a stranger chose
        if our_mistake(error):
            raise
        said = error.strerror if isinstance(error, OSError) and error.strerror else sentence(error, 200)
        raise InputError(message.format(printable(said))) from None
