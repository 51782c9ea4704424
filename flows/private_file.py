"""Files that hold secrets: for the eyes of this user alone."""

import os
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """A file that this user alone can read, whole or not at all; so is the folder that it makes for it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(f"{text}\n")
    os.replace(temporary, path)
