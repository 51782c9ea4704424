"""Decodes image files from other people, and writes our own; nothing else in this project does.

A file has to be plain, and within the bytes and pixels that `limits` in params.yaml allows. The header is read first,
and a file that claims too much is not decoded. It is decoded from memory, so the decoded bytes are the checked ones,
whatever happens to the file meanwhile.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flows.params.sections import DEFAULT_LIMITS, Limits
from flows.project.errors import InputError
from flows.untrusted import plain_files

# Not Pillow's other readers: some start other programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
GREY_MODES = {"1", "L", "LA"}
WIDE_MODES = ("I", "F")  # more than 8 bits a channel: "I", "I;16", "I;16B", "F"
# The modes of Pillow to which an image can be decoded, by number of channels.
MODES = {1: "L", 3: "RGB"}

MOST_SCANS = 500  # of a JPEG: each takes as long as a whole image; a real JPEG has about ten
TILE = (322, 323)  # TIFF's tags for width and height of a tile, which may be larger than the image
TYPES = {*range(1, 14), 16}  # the types of TIFF tags that Pillow knows
SCAN = b"\xff\xda"
LARGE = 1 << 24  # pixels: a larger image is reduced strip by strip
STRIP = 1 << 20  # pixels of a strip
FINE = 4  # a reduced image has at least so many times the wanted size a side, before it is resized


@dataclass(frozen=True)
class Header:
    """The header of an image file. size: width and height; mode: Pillow's mode."""

    size: tuple[int, int]
    mode: str

    @property
    def is_grey(self) -> bool:
        return self.mode in GREY_MODES


def header(file: Path, limits: Limits) -> Header:
    """Reads the header of an image file; decodes nothing.

    Raises:
        InputError: it is no usable image; the message continues the file's name, or "it".
    """
    with as_input_errors(), plain_files.opened(file, limits.image_bytes) as stream, image(stream, limits) as found:
        return Header(found.size, found.mode)


def content(file: Path | str, limits: Limits, folder: int | None = None) -> bytes:
    """The bytes of a file, unchecked except for their number. Raises InputError like `header`.

    Args:
        folder: see `plain_files.opened`.
    """
    with as_input_errors():
        return plain_files.content(file, limits.image_bytes, folder)


def decode(
    file: Path | str, shape: tuple[int, ...], limits: Limits = DEFAULT_LIMITS, folder: int | None = None
) -> np.ndarray:
    """An image file of exactly this height, width and channels as uint8, H×W×C.

    Args:
        folder: the open folder that `file` is a name in; see `plain_files.opened`.

    Raises:
        InputError: it is no image of that shape; the message continues the file's name, or "it".
    """
    return pixels(content(file, limits, folder), shape, limits)


def pixels(content: bytes, shape: tuple[int, ...], limits: Limits) -> np.ndarray:
    """What `decode` makes of the bytes of a file. Neither resized, which would change contrast and sharpness, nor made
    grey."""
    height, width, channels = shape
    if channels not in MODES:
        raise InputError(f"has 1 or 3 channels, as image files have here, but the dataset's images have {channels}")
    with as_input_errors(), image(io.BytesIO(content), limits) as found:
        if found.size != (width, height):
            raise InputError(f"is {found.size[0]}×{found.size[1]}, not {width}×{height} (width×height)")
        if channels == 1 and found.mode not in GREY_MODES:
            raise InputError(f"has colour ({found.mode}), but the dataset is grey")
        return np.asarray(found.convert(MODES[channels]), np.uint8).reshape(shape)


def resized(content: bytes, shape: tuple[int, ...], limits: Limits) -> np.ndarray:
    """Decodes any image to uint8, H×W×C of the given shape, and resizes it where it has another size.

    A large image takes no more memory than its decoded pixels, a large JPEG less.

    Raises:
        InputError: it is no image; the message continues the file's name, or "it".
    """
    from PIL import Image

    height, width, channels = shape
    mode = MODES[channels]
    with as_input_errors(), image(io.BytesIO(content), limits) as found:
        box = None
        if found.width * found.height > LARGE:
            least = (FINE * width, FINE * height)
            drafted = found.draft(None, least)  # a JPEG is decoded to no more than is needed
            extent = drafted[1][2:] if drafted else found.size
            found, box = reduced(found, extent, mode, least)
        elif found.mode != mode:
            found = found.convert(mode)
        if found.size != (width, height):
            found = found.resize((width, height), Image.Resampling.LANCZOS, box)
        return np.asarray(found, np.uint8).reshape(shape)


def encode(image: np.ndarray, file: Path) -> None:
    """Writes uint8 H×W×C as PNG: lossless."""
    from PIL import Image

    pixels: Any = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(pixels).save(file, format="PNG")


def reduced(large: Any, extent: tuple[float, ...], mode: str, least: tuple[int, int]) -> tuple[Any, tuple]:
    """Reduces the image by the largest whole factor that leaves `least` pixels a side, and converts it to `mode`.

    It works strip by strip, to save memory.

    Args:
        extent: width and height that the image really fills: the last pixels of a JPEG reduced by `draft` are partial.

    Returns:
        The smaller image, and the box in it that `extent` fills.
    """
    from PIL import Image

    factor = max(1, min(large.width // least[0], large.height // least[1]))
    small = Image.new(mode, (-(-large.width // factor), -(-large.height // factor)))
    rows = max(1, STRIP // (large.width * factor))
    for top in range(0, small.height, rows):
        strip = large.crop((0, top * factor, large.width, min((top + rows) * factor, large.height)))
        small.paste(strip.convert(mode).reduce(factor), (0, top))
    return small, (0, 0, extent[0] / factor, extent[1] / factor)


@contextmanager
def image(stream: BinaryIO, limits: Limits) -> Iterator[Any]:
    """Yields Pillow's image. Its header was read and is within the limits; its pixels are not decoded."""
    from PIL import Image

    pillows = Image.MAX_IMAGE_PIXELS
    try:
        # Some of Pillow's readers allocate the image when they open it, so Pillow has to know the limit. It refuses
        # an image of more than twice this, and warns above this.
        Image.MAX_IMAGE_PIXELS = limits.image_pixels / 2  # type: ignore[assignment]  # Pillow only compares it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            found = Image.open(stream, formats=FORMATS)
        with found:
            check(found, stream, limits)
            yield found
    except Image.DecompressionBombError:
        raise too_many_pixels("", limits) from None
    finally:
        Image.MAX_IMAGE_PIXELS = pillows


def check(found: Any, stream: BinaryIO, limits: Limits) -> None:
    """Raises InputError for an image that claims more than is allowed, or has more than 8 bits a channel."""
    if found.mode.startswith(WIDE_MODES):
        raise InputError(f"has more than 8 bits a channel ({found.mode}): save it with 8")
    if found.format == "TIFF":
        width, height = (found.tag_v2.get(tag, 1) for tag in TILE)
        if not (isinstance(width, int) and isinstance(height, int)):
            raise InputError("is a TIFF whose tiles have no size: save it anew")
        if width * height > limits.image_pixels:
            raise too_many_pixels(f"tiles of {width}×{height}, ", limits)
    if isinstance(stream, io.BytesIO):
        if found.format == "TIFF":
            refuse_odd_tags(stream.getvalue())
        if found.format in ("JPEG", "MPO") and stream.getvalue().count(SCAN) > MOST_SCANS:
            raise InputError(f"has more than {MOST_SCANS} scans, and a progressive JPEG ten")


def refuse_odd_tags(content: bytes) -> None:
    """Raises InputError for a TIFF with repeated tags, or tags of an unknown type.

    libtiff takes the first of two equal tags, and Pillow the last; each knows types that the other does not. So the
    size that Pillow reports for such a file may not be the size that is decoded.
    """
    order = "<" if content[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", content, 2)[0] == 43
    [start] = struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, 8 if big else 4)
    [count] = struct.unpack_from(f"{order}{'Q' if big else 'H'}", content, start)
    first, size = start + (8 if big else 2), 20 if big else 12
    places = range(first, first + size * min(count, 1 << 16), size)
    entries = [struct.unpack_from(f"{order}HH", content, place) for place in places]
    if len({tag for tag, _ in entries}) < len(entries) or not {kind for _, kind in entries} <= TYPES:
        raise InputError("is a TIFF with repeated tags, or tags of an unknown type: save it anew")


def too_many_pixels(where: str, limits: Limits) -> InputError:
    return InputError(f"has {where}more than the {limits.image_pixels:,} pixels of limits.image_pixels in params.yaml")


@contextmanager
def as_input_errors() -> Iterator[None]:
    """Turns any error about a damaged file into an InputError, see `plain_files.as_input_errors`."""
    from PIL import UnidentifiedImageError

    with plain_files.as_input_errors("is no readable image ({})"):
        try:
            yield
        except FileNotFoundError:
            raise InputError("does not exist") from None
        except UnidentifiedImageError:  # its own message names a Python object
            raise InputError(f"is no readable image (readable are {', '.join(FORMATS)})") from None
