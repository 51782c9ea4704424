"""Files in data/incoming/: opened, moved and put right without following links or losing one."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from flows.params.sections import Limits
from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.untrusted import plain_files
from flows.untrusted.escaping import printable

if TYPE_CHECKING:
    import numpy as np


def reasons_file() -> Path:
    """time, file (below data/rejected/), was (below data/incoming/), reason: a line for each file that was refused."""
    return paths.rejected_folder() / "reasons.csv"


def journal() -> Path:
    """What was decided since `forget`, batch by batch."""
    return paths.root() / ".trainyard" / "incoming.json"


def note_of_look() -> Path:
    """Which file is being looked at; empty between two of them."""
    return paths.root() / ".trainyard" / "incoming.look"


@dataclass(frozen=True)
class Waiting:
    """A file of data/incoming/, as it was when it was found.

    folder: the open folder that it lies in; path: below data/incoming/; found: of the file itself, where it is a link.
    """

    folder: int
    name: str
    path: str
    found: os.stat_result

    @property
    def is_plain(self) -> bool:
        return stat.S_ISREG(self.found.st_mode)

    @property
    def identity(self) -> list:
        return [self.path, self.found.st_ino, self.found.st_size, self.found.st_mtime_ns]

    def pixels(self, shape: tuple[int, ...], limits: Limits) -> "np.ndarray":
        """As `image_file.decode`, and meanwhile noted as looked at. Raises InputError with a sentence about "it"."""
        from flows.data import image_file

        note_of_look().parent.mkdir(parents=True, exist_ok=True)
        note_of_look().write_text(json.dumps(self.identity))
        try:
            return image_file.decode(self.name, shape, limits, self.folder)
        except InputError as error:
            raise InputError(f"it {error}") from None
        finally:  # what interrupts a run with an exception is nothing that the file has done
            os.truncate(note_of_look(), 0)

    def remove(self) -> None:
        """Unless somebody has put another file there: that is for the next run."""
        with contextlib.suppress(FileNotFoundError):
            now = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
            if os.path.samestat(now, self.found) and now.st_mtime_ns == self.found.st_mtime_ns:
                os.unlink(self.name, dir_fd=self.folder)


@contextlib.contextmanager
def found(file: str) -> Iterator[Waiting | None]:
    """A file of data/incoming/; None where there is none, in folders that are no links."""
    *folders, name = file.split("/")
    with contextlib.ExitStack() as closing:
        try:
            place = os.open(paths.incoming_folder(), os.O_RDONLY | os.O_DIRECTORY)
            closing.callback(os.close, place)
            for folder in folders:
                place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
                closing.callback(os.close, place)
            status = os.stat(name, dir_fd=place, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            yield None
            return
        yield None if stat.S_ISDIR(status.st_mode) else Waiting(place, name, file, status)


def suffix(there: Waiting) -> str:
    """Of the name that a refused file gets."""
    from flows.data.image_file import SUFFIXES

    if not there.is_plain:
        return ".txt"  # which says what it was
    own = os.path.splitext(there.name)[1].lower()
    return own if own in SUFFIXES else ""


def free_place(stem: str, suffix: str, taken: set[str]) -> str:
    """A place below data/rejected/ where nothing is."""
    number = len(taken) + 1
    while (place := f"{stem}-{number}{suffix}") in taken or os.path.lexists(paths.rejected_folder() / place):
        number += 1
    return place


def move(there: Waiting, target: Path) -> None:
    """Renames; copies and then removes where that leads to another file system, or it is no plain file."""
    if there.is_plain:
        try:
            os.replace(there.name, target, src_dir_fd=there.folder)
        except FileNotFoundError:
            return  # taken away meanwhile
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            put_right(there, target)
            return
    try:
        with file_io.whole(target, part(target), synced=True) as unfinished:
            if there.is_plain:
                with opened(there) as source, unfinished.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
            else:
                unfinished.write_text(said_of(there), encoding="utf-8")
    except (FileNotFoundError, InputError):  # it is another one, or gone
        return
    file_io.sync(target)
    there.remove()


def part(target: Path) -> Path:
    """The one name under which a refused file is written: the next run takes it where this one is killed."""
    return target.with_name(f".{target.name}.part")


def put_right(there: Waiting, target: Path) -> None:
    """What was renamed may be what somebody put in the file's place a moment ago: no link stays in data/rejected/, and
    a folder goes back."""
    mode = target.lstat().st_mode
    if stat.S_ISDIR(mode):
        with contextlib.suppress(OSError):  # there is a third one by now
            os.rename(target, there.name, dst_dir_fd=there.folder)
    elif not stat.S_ISREG(mode):
        to = os.readlink(target) if stat.S_ISLNK(mode) else None
        with file_io.whole(target, part(target)) as unfinished:
            unfinished.write_text(said(mode, to), encoding="utf-8")


def opened(there: Waiting) -> BufferedReader:
    return plain_files.opened(there.name, sys.maxsize, there.folder)


def said_of(there: Waiting) -> str:
    """What is kept of what is no plain file. Raises FileNotFoundError where it is another one by now."""
    is_link = stat.S_ISLNK(there.found.st_mode)
    try:
        return said(there.found.st_mode, os.readlink(there.name, dir_fd=there.folder) if is_link else None)
    except OSError as error:  # such as EINVAL
        raise FileNotFoundError(errno.ENOENT, error.strerror, there.path) from None


def said(mode: int, link: str | None) -> str:
    if link is not None:
        return f"a symbolic link to {printable(link)}\n"
    return f"{plain_files.kind(mode)}, and no file\n"


def is_copy(there: Waiting, target: Path) -> bool:
    """Whether the target was made of the file, by a run that ended before it could remove that."""
    try:
        if not there.is_plain:
            return target.read_text(encoding="utf-8") == said_of(there)
        if there.found.st_size != target.stat().st_size:
            return False
        with opened(there) as source, target.open("rb") as copy:
            return hashlib.file_digest(source, "sha256").digest() == hashlib.file_digest(copy, "sha256").digest()
    except (FileNotFoundError, InputError):
        return False
