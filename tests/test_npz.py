"""An .npz file is read by its headers first: what is absurd, encrypted or damaged is a sentence."""

import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from conftest import peak

from flows.data import image_folder, labelled_arrays, npz
from flows.params.sections import Limits
from flows.project.errors import InputError

MIB = 1 << 20


def header(shape: tuple, dtype: str = "|u1", version: tuple = (1, 0)) -> bytes:
    about = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(about)) + about


def packed(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def encrypted() -> bytes:
    """As if with a password: the flag in both places."""
    content = bytearray(packed(("images.npy", header((8,)) + bytes(8))))
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + at] |= 1
    return bytes(content)


def table_of(size: int) -> bytes:
    """An empty archive whose end claims a table of contents of that size before it."""
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, 0, 0)


BAD = {
    "absurd": (packed(("images.npy", header((10**12, 8, 8)))), "of 1000000000000×8×8 uint8, but 0 bytes of them"),
    "overflowing": (packed(("images.npy", header((2**40, 2**40)))), "but 0 bytes of them"),
    "negative": (packed(("images.npy", header((-1, -8)) + bytes(8))), "of -1×-8 uint8"),
    "too short": (packed(("images.npy", header((9, 8, 8)) + bytes(8))), "of 9×8×8 uint8, but 8 bytes of them"),
    "encrypted": (encrypted(), "encrypted: save it without a password"),
    "lzma": (packed(("images.npy", header((8,)) + bytes(8)), method=zipfile.ZIP_LZMA), "packed in a way"),
    "bzip2": (packed(("images.npy", header((8,)) + bytes(8)), method=zipfile.ZIP_BZIP2), "packed in a way"),
    "objects": (packed(("images.npy", header((1,), "|O") + b"cos\nsystem\n")), "holds Python's objects"),
    "new": (packed(("images.npy", header((8,), version=(3, 0)) + bytes(8))), "in version 3 of numpy's format"),
    "program": (packed(("images.npy", b"\x93NUMPY\x01\0\x1f\0__import__('os').mkdir('ran')  \n")), "is no .npz file"),
    "deep": (packed(("images.npy", b"\x93NUMPY\x01\x00\x00\x20" + b"(" * 8192)), "is no .npz file of plain arrays"),
    "no array": (packed(("images.npy", b"text")), "is no .npz file of plain arrays"),
    "cut": (packed(("images.npy", header((8,)) + bytes(8)))[:-30], "is no .npz file of plain arrays"),
    "damaged": (packed(("images.npy", b"\x93NUMPX"), method=zipfile.ZIP_STORED), "is no .npz file of plain arrays"),
    "empty": (b"", "is no .npz file of plain arrays"),
    "table": (table_of(2**32 - 1) + b"", "is no .npz file of plain arrays"),
}  # fmt: skip


def from_folder(file, limits: Limits):
    return image_folder.from_archive(file, (8, 8, 1), 10, 0, limits)


def from_sources(file, limits: Limits):
    return labelled_arrays.from_archive(file, 0.2, limits)


READERS = [from_folder, from_sources]


@pytest.fixture
def file(project):
    return project / "sources" / "folder" / "images.npz"


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_one_sentence(file, read, name):
    content, said = BAD[name]
    file.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read(file, Limits())
    assert "images.npz " in str(refused.value)
    assert said in str(refused.value)
    assert str(refused.value).isprintable()
    assert not (file.parents[2] / "ran").exists()


def test_a_flipped_bit_is_found(file):
    np.savez(file, images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20) % 2)
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"is no \.npz file of plain arrays: Bad CRC-32"):
        from_sources(file, Limits())


@pytest.mark.parametrize("read", READERS)
def test_two_arrays_of_one_name_are_refused(file, read):
    with pytest.warns(UserWarning, match="Duplicate name"):
        file.write_bytes(packed(*[("images.npy", header((8,)) + bytes(8))] * 2))
    with pytest.raises(InputError, match="two arrays of one name"):
        read(file, Limits())


@pytest.mark.parametrize("read", READERS)
def test_what_unpacks_to_more_than_the_limit_is_refused(file, read):
    np.savez_compressed(file, images=np.zeros((1000, 8, 8), np.uint8), labels=np.zeros(1000, np.int64))
    with pytest.raises(
        InputError, match=r"unpacks to 72,000 bytes, and limits\.array_bytes in params\.yaml allows 71,999"
    ):
        read(file, Limits(array_bytes=71_999))


@pytest.mark.parametrize("read", READERS)
def test_an_archive_that_is_no_plain_file_or_has_holes_is_refused(file, read):
    os.mkfifo(file)
    with pytest.raises(InputError, match="is a named pipe, and no plain file"):
        read(file, Limits())
    file.unlink()
    file.touch()
    os.truncate(file, 1 << 40)
    with pytest.raises(
        InputError, match=r"has 1,099,511,627,776 bytes, and limits\.array_bytes in params\.yaml allows"
    ):
        read(file, Limits())


def test_a_large_table_of_contents_is_not_read(file):
    with file.open("wb") as stream:
        stream.truncate(1 << 30)
        stream.seek(1 << 30)
        stream.write(table_of(1 << 30))
    with pytest.raises(InputError, match="has a table of contents of 1,073,741,824 bytes"):
        from_sources(file, Limits())


def test_an_archive_that_is_changed_meanwhile_is_refused(file):
    np.savez(file, images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20) % 2)
    with npz.opened(file, Limits()) as archive:
        os.utime(file, (0, 0))
        with pytest.raises(InputError, match="was changed while it was read"):
            archive.size_and_hash()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_are_those_of_the_array(file, save, order):
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 3), np.uint8)
    save(file, images=np.asarray(images, order=order))
    numbers = np.array([0, 7, 8, 30, 49])
    with npz.opened(file, Limits()) as archive:
        np.testing.assert_array_equal(archive.rows("images", numbers), images[numbers])
        np.testing.assert_array_equal(archive.read("images"), images)


def test_of_a_large_archive_a_sample_takes_the_memory_of_a_sample(file, monkeypatch):
    """400 MiB of images in less than one: of them ten are read."""
    monkeypatch.chdir(file.parent)
    count, packer = 400 * MIB // 64, zlib.compressobj(9, wbits=-15)
    data, crc = [packer.compress(header((count, 8, 8)))], zlib.crc32(header((count, 8, 8)))
    for _ in range(400):
        data.append(packer.compress(bytes(MIB)))
        crc = zlib.crc32(bytes(MIB), crc)
    body, size, name = b"".join([*data, packer.flush()]), len(header((count, 8, 8))) + 400 * MIB, b"images.npy"
    about = (20, 0, 8, 0, 0, crc, len(body), size, len(name))
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", *about, 0) + name + body
    central = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, *about, 0, 0, 0, 0, 0, 0) + name
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)
    file.write_bytes(local + central + end)
    read = (
        "from pathlib import Path; from flows.data import image_folder\n"
        "found = image_folder.read(Path('images.npz'), (8, 8, 1), 10, 0)\n"
        f"assert (found.images.shape, found.found) == ((10, 8, 8, 1), {count})\n"
    )
    assert peak(read) < 200 * MIB
