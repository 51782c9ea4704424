"""Reads arrays from .npz files of other people: checks each array's header before reading its values.

numpy.load would allocate an array of any shape that a header names, and unpack any compression.
"""

import hashlib
import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import psutil
from numpy.lib import format as npy

from flows.params.sections import Limits
from flows.project.errors import InputError
from flows.untrusted import plain_files
from flows.untrusted.escaping import printable

CONTENTS = 1 << 20  # bytes of the archive's table of contents; numpy writes about a hundred an array
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy.savez and savez_compressed write
ENCRYPTED = 1
UNREADABLE = "is no .npz file of plain arrays: {}"


@dataclass(frozen=True)
class Header:
    """The header of an array: what it claims to be."""

    shape: tuple[int, ...]
    dtype: np.dtype
    in_columns: bool  # Fortran's order
    start: int  # offset of its values from the beginning of the zip member, in bytes

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Archive:
    """An open .npz file.

    headers: the header of each array, by name.

    The messages of all errors continue the file's name.
    """

    def __init__(self, stream: BufferedReader, limits: Limits) -> None:
        self.stream, self.begun = stream, os.fstat(stream.fileno())
        with plain_files.as_input_errors(UNREADABLE):
            self.zip = zipfile.ZipFile(Contents(stream))
            members = self.zip.infolist()
            self.headers = {member.filename.removesuffix(".npy"): self.header(member) for member in members}
        if len(self.headers) < len(members):
            raise InputError("has two arrays of one name")
        claimed = sum(header.bytes for header in self.headers.values())
        if claimed > limits.array_bytes:
            raise InputError(
                f"unpacks to {claimed:,} bytes, and limits.array_bytes in params.yaml allows {limits.array_bytes:,}"
            )

    def header(self, member: zipfile.ZipInfo) -> Header:
        """The header of one array. Raises InputError where numpy would not write it, or its size is wrong."""
        array = f"has the array {printable(member.filename)}"
        if member.flag_bits & ENCRYPTED:
            raise InputError(f"{array} encrypted: save it without a password")
        if member.compress_type not in PACKED:
            raise InputError(f"{array} packed in a way that numpy does not know: save it with numpy.savez_compressed")
        with self.zip.open(member) as file:
            version = npy.read_magic(file)
            if version not in HEADERS:
                raise InputError(f"{array} in version {version[0]} of numpy's format: save it with numpy.savez")
            shape, in_columns, dtype = HEADERS[version](file)
            start = file.tell()
        if dtype.hasobject:
            raise InputError(f"is no .npz file of plain arrays: {printable(member.filename)} holds Python's objects")
        header = Header(shape, dtype, in_columns, start)
        if min(shape, default=0) < 0 or header.bytes != member.file_size - start:
            sides = "×".join(map(str, shape)) or "one"
            raise InputError(f"{array} of {sides} {dtype}, but {member.file_size - start:,} bytes of them")
        return header

    def read(self, name: str) -> np.ndarray:
        """A whole array. Raises InputError where it does not fit into free memory."""
        needed, free = self.headers[name].bytes, psutil.virtual_memory().available
        if needed > free:
            raise InputError(
                f"has {needed / 2**30:.1f} GiB in array {printable(name)}, and {free / 2**30:.1f} are free in memory"
            )
        with plain_files.as_input_errors(UNREADABLE), self.zip.open(f"{name}.npy") as file:
            return npy.read_array(file, allow_pickle=False)

    def rows(self, name: str, numbers: np.ndarray) -> np.ndarray:
        """Some rows of an array, by sorted indices. Other rows are not kept in memory."""
        header = self.headers[name]
        if header.in_columns:
            return self.read(name)[numbers]
        found = np.empty((len(numbers), *header.shape[1:]), header.dtype)
        size = header.bytes // header.shape[0]
        with plain_files.as_input_errors(UNREADABLE), self.zip.open(f"{name}.npy") as file:
            for row, number in zip(found, numbers.tolist()):
                file.seek(header.start + number * size)
                row[...] = np.frombuffer(file.read(size), header.dtype).reshape(header.shape[1:])
        return found

    def size_and_hash(self) -> dict:
        """Size and SHA-256 of the file. Raises InputError where it was changed since it was opened."""
        self.stream.seek(0)
        found = hashlib.file_digest(self.stream, "sha256").hexdigest()
        now = os.fstat(self.stream.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.begun.st_size, self.begun.st_mtime_ns):
            raise InputError("was changed while it was read: run this again")
        return {"bytes": now.st_size, "sha256": found}


class Contents(io.RawIOBase):
    """The file for zipfile, which refuses to read too much at once.

    zipfile reads the table of contents in one piece, of whatever size the file claims.
    """

    def __init__(self, stream: BufferedReader) -> None:
        self.stream = stream

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size > CONTENTS:
            raise InputError(f"has a table of contents of {size:,} bytes, which is too much for arrays")
        return self.stream.read(size)


@contextmanager
def opened(file: Path, limits: Limits) -> Iterator[Archive]:
    """Yields the open archive.

    Raises:
        InputError: it is no .npz file of plain arrays within the limits; the message continues the file's name.
    """
    with ExitStack() as closing:
        with plain_files.as_input_errors(UNREADABLE):
            stream = plain_files.opened(file, limits.array_bytes, key="limits.array_bytes")
        yield Archive(closing.enter_context(stream), limits)
