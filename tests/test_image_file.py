"""Whatever an image file claims or holds: it is decoded in little memory, or refused in a sentence."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from conftest import peak
from PIL import Image

from flows.commands import predict
from flows.data import class_folders, image_file
from flows.params.sections import Limits
from flows.project.errors import InputError

MIB = 1 << 20
SMALL = Limits(image_pixels=64)
RIGHT = Limits()


def chunk(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return struct.pack(">I", length) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *more: bytes, pixels: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", pixels) if pixels else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + data + chunk(b"IEND", b"")


def tiff(*tags: tuple[int, int, int], data: bytes) -> bytes:
    """8×8, grey, packed by deflate; a value of None is where the data lie."""
    given = [(256, 4, 8), (257, 4, 8), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1), *tags]
    at = 8 + 2 + 12 * len(given) + 4
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, at if value is None else value) for tag, kind, value in given)
    return b"II*\0" + struct.pack("<IH", 8, len(given)) + entries + struct.pack("<I", 0) + data


def tiles(side: int, kind: int = 4) -> list[tuple]:
    return [(322, kind, side), (323, kind, side), (324, 4, None), (325, 4, 1 << 20)]


def encoded(form: str, size: tuple[int, int] = (8, 8), **options) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size).save(stream, form, **options)
    return stream.getvalue()


def scans(count: int) -> bytes:
    """A progressive JPEG with its last scan again and again."""
    whole = encoded("JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


DECODERS = ["added", "sources", "predict"]


def decode(which: str, file, limits: Limits):
    """As each of the three commands does that read image files."""
    if which == "added":
        return image_file.decode(file, (8, 8, 3), limits)
    if which == "sources":
        return class_folders.decode_files([file], file.parent, limits)[0][0]
    return predict.fitted(predict.read_image(file, limits), [8, 8, 3])


@pytest.fixture
def file(project):
    return project / "sources" / "folder" / "image.png"


@pytest.mark.parametrize("which", DECODERS)
@pytest.mark.parametrize(
    ("content", "limits", "said"),
    [
        (png(60_000, 60_000), RIGHT, "has more than the 100,000,000 pixels of limits.image_pixels"),
        (png(9, 8), SMALL, "has more than the 64 pixels of limits.image_pixels"),
        (encoded("WEBP", (20, 20)), SMALL, "has more than the 64 pixels of limits.image_pixels"),
        (encoded("PNG"), Limits(image_bytes=20), "bytes, and limits.image_bytes in params.yaml allows 20"),
        (tiff(*tiles(50_000), data=b""), RIGHT, "has tiles of 50000×50000, more than the 100,000,000 pixels"),
        (tiff(*tiles(16), *tiles(50_000), data=b""), RIGHT, "repeated tags"),
        (tiff(*tiles(50_000, kind=17), data=b""), RIGHT, "of an unknown type"),
        (tiff((273, 4, None), data=b"")[:60], RIGHT, "is no readable image"),
        (scans(600), RIGHT, "has more than 500 scans"),
        (png(8, 8, chunk(b"tEXt", b"", length=2 << 30)), RIGHT, "is no readable image"),
        (b"RIFF\xff\xff\xff\x7fWEBPVP8 ", RIGHT, "is no readable image"),
        (b"GIF89a\x1b[31m", RIGHT, "is no readable image"),
    ],
    ids=[
        "a claim", "a limit", "webp", "bytes", "tiles", "two tiles", "odd tiles", "cut", "scans", "chunk", "riff", "-",
    ],
)  # fmt: skip
def test_what_claims_too_much_is_refused_in_a_sentence(file, which, content, limits, said):
    file.write_bytes(content)
    with pytest.raises(InputError) as refused:
        decode(which, file, limits)
    assert said in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("which", DECODERS)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "is a named pipe"),
        (os.mkdir, "is a folder"),
        (lambda path: os.symlink("/dev/zero", path), "a device"),
    ],
    ids=["pipe", "folder", "device"],
)
def test_what_is_no_plain_file_is_refused_and_not_waited_for(file, which, make, said):
    make(file)
    with pytest.raises(InputError, match=said):
        decode(which, file, RIGHT)


def test_a_file_that_becomes_a_pipe_as_it_is_opened_is_not_waited_for(file, monkeypatch):
    file.write_bytes(encoded("PNG"))
    status = os.stat

    def late(path, **named):
        found = status(path, **named)
        if path == file:
            file.unlink()
            os.mkfifo(file)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", late)
        with pytest.raises(InputError, match="is a named pipe"):
            image_file.content(file, RIGHT)


@pytest.mark.parametrize("which", DECODERS)
def test_a_file_with_holes_counts_with_them(file, which):
    file.write_bytes(png(8, 8, chunk(b"tEXt", b"", length=2 << 30)))
    os.truncate(file, 3 << 30)
    with pytest.raises(InputError, match=r"has 3,221,225,472 bytes, and limits\.image_bytes .* allows 100,000,000"):
        decode(which, file, RIGHT)


@pytest.mark.parametrize(("form", "mode"), [(f, m) for f in ("PNG", "TIFF", "BMP") for m in ("L", "RGB")])
def test_a_valid_image_is_decoded_to_what_pillow_decodes(file, form, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, form)
    expected = np.asarray(Image.open(file).convert("RGB"))
    for which in DECODERS:
        np.testing.assert_array_equal(np.broadcast_to(decode(which, file, RIGHT), (8, 8, 3)), expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
@pytest.mark.parametrize("size", [(101, 67), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_resized_as_a_whole(file, mode, size, channels):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(file)
    whole = Image.open(file).convert("L" if channels == 1 else "RGB").resize((8, 8), Image.Resampling.LANCZOS)
    shape = (8, 8, channels)
    found = image_file.resized(file.read_bytes(), shape, RIGHT)
    np.testing.assert_array_equal(found, np.asarray(whole).reshape(shape))


@pytest.mark.parametrize(
    ("form", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "L"), ("JPEG", "RGB")]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_image_that_is_drawn_down_looks_the_same(tmp_path, monkeypatch, form, mode, channels):
    """Drawn down in strips, and as if it were small."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(noise).resize((1003, 1201)).convert(mode).save(tmp_path / "image", form)
    content, shape = (tmp_path / "image").read_bytes(), (8, 8, channels)
    whole = image_file.resized(content, shape, RIGHT).astype(int)
    monkeypatch.setattr(image_file, "LARGE", 10_000)
    drawn = image_file.resized(content, shape, RIGHT).astype(int)
    assert abs(drawn - whole).max() < 20
    assert abs(drawn - whole).mean() < 2


def test_a_large_image_is_decoded_in_the_memory_of_its_pixels_and_a_jpeg_in_less(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # With colour tables and transparency: what is converted takes as much again, if it is converted as a whole.
    Image.new("P", (6000, 6000)).save("image.png")
    Image.new("RGB", (6000, 6000)).save("image.jpg")
    resized = (
        "import sys; from flows.data import image_file; from flows.params.sections import Limits; import PIL.Image\n"
        "for name in sys.argv[1:]:\n"
        "    image_file.resized(image_file.content(name, Limits()), (8, 8, 3), Limits())\n"
    )
    nothing = peak(resized)
    assert peak(resized, "image.jpg", "image.jpg", "image.jpg") - nothing < 30 * MIB
    assert peak(resized, "image.png", "image.png", "image.png") - nothing < 70 * MIB


def test_a_tile_larger_than_its_image_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(MIB)) for _ in range(400)) + packer.flush()
    (tmp_path / "bomb.tif").write_bytes(
        tiff((322, 4, 20_480), (323, 4, 20_480), (324, 4, None), (325, 4, len(data)), data=data)
    )
    tried = (
        "from pathlib import Path; from flows.data import image_file; from flows.params.sections import Limits\n"
        "from flows.project.errors import InputError\n"
        "try: image_file.decode(Path('bomb.tif'), (8, 8, 1), Limits())\n"
        "except InputError as error: assert 'tiles of 20480×20480' in str(error), error\n"
        "else: raise SystemExit('decoded')\n"
    )
    assert peak(tried) < 200 * MIB
