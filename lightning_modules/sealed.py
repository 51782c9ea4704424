"""Files that carry the SHA-256 of their own content, so that what is read is what was written."""

import hashlib
import json
import os
from pathlib import Path

from lightning_modules.errors import DamagedError

# What stands at the end of a sealed file, before the digest in hex. What reads ZIP archives, as checkpoints are, looks
# for their end from behind, and passes over it.
MARK = b"\ntrainyard sha256 "
DIGITS = 64
KEY = "sha256"  # of a sealed card, for the digest of all else in it


def seal(file: Path) -> None:
    """Adds the digest of the file's content at its end."""
    with file.open("r+b") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0, os.SEEK_END)
        stream.write(MARK + digest.encode())


def is_whole(file: Path) -> bool:
    """Whether the file is as it was sealed. False too for one that never was."""
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
    """Of all that the card says, in whatever way it is written down; but for a digest that it carries."""
    content = {name: value for name, value in card.items() if name != KEY}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sealed(card: dict) -> dict:
    """The card with its digest."""
    return card | {KEY: digest(card)}


def opened(card: dict, file: Path) -> dict:
    """The card that was sealed, without its digest; one from before there were digests as it is.

    Raises:
        DamagedError: it is another one than was sealed.
    """
    if KEY not in card:
        return card
    if card[KEY] != digest(card):
        raise DamagedError(file, "is not what was written to it (changed or damaged)")
    return {name: value for name, value in card.items() if name != KEY}
