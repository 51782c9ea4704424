"""Sealed files and cards: they contain the SHA-256 of their own content, so that damage is seen when they are read."""

import hashlib
import json
import os
from pathlib import Path

from lightning_modules.errors import DamagedError

# The end of a sealed file: MARK, then the digest in hex. Checkpoints are ZIP archives, whose readers search the end of
# the archive backwards, and skip this.
MARK = b"\ntrainyard sha256 "
DIGITS = 64
KEY = "sha256"  # key of the digest in a sealed card


def seal(file: Path) -> None:
    """Appends the digest of the file's content."""
    with file.open("r+b") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0, os.SEEK_END)
        stream.write(MARK + digest.encode())


def is_whole(file: Path) -> bool:
    """Whether the file is unchanged since it was sealed. False if it never was."""
    size = file.stat().st_size - len(MARK) - DIGITS
    if size < 0:
        return False
    digest, left = hashlib.sha256(), size
    with file.open("rb") as stream:
        while left and (piece := stream.read(min(left, 2**20))):
            digest.update(piece)
            left -= len(piece)
        return not left and stream.read() == MARK + digest.hexdigest().encode()


def digest(card: dict) -> str:
    """SHA-256 of the card's values, independent of their order and of the card's own digest."""
    content = {name: value for name, value in card.items() if name != KEY}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sealed(card: dict) -> dict:
    """The card with its digest."""
    return card | {KEY: digest(card)}


def opened(card: dict, file: Path) -> dict:
    """The card without its digest, after a check. A card without a digest, from an old version, is returned unchecked.

    Raises:
        DamagedError: the card is not the one that was sealed.
    """
    if KEY not in card:
        return card
    if card[KEY] != digest(card):
        raise DamagedError(file, "is not what was written to it (changed or damaged)")
    return {name: value for name, value in card.items() if name != KEY}
