"""Refuses named pipes and devices in folders that DVC reads: DVC opens every file there, and would wait for ever."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from flows.project.errors import InputError, shown
from flows.untrusted import plain_files

# Folders that stages read and write. DVC does not read the folders of incoming images, where
# `flows.retraining.incoming` refuses such files.
FOLDERS = (
    "data", "ensembles", "flows", "lightning_modules", "metrics", "models", "plots", "predictions", "settings",
    "sources",
)  # fmt: skip
OTHERS = ("data/incoming", "data/rejected")


def refuse(root: Path) -> None:
    """Has to be called before DVC is.

    Raises:
        InputError: there is a named pipe, a device or a socket.
    """
    for place, mode in special(root):
        raise InputError(
            f"{shown(place, 200)} is {plain_files.kind(mode)}, and no plain file: DVC would wait for it "
            "for ever. Remove it"
        )


def special(root: Path) -> Iterator[tuple[str, int]]:
    """The path in the project and the mode of each file that is no plain file. Links are followed, as DVC does."""
    seen: set[tuple[int, int]] = set()  # folders behind links, which may lead round in circles
    left = [name for name in FOLDERS if (root / name).is_dir()]
    while left:
        folder = left.pop()
        with os.scandir(root / folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            place = os.path.join(folder, entry.name)
            if entry.is_file(follow_symlinks=False):  # known from the folder's listing, without another system call
                continue
            try:
                about = entry.stat()
            except OSError:  # a broken link, which DVC reports itself
                continue
            if not stat.S_ISDIR(about.st_mode):
                if not stat.S_ISREG(about.st_mode):
                    yield place, about.st_mode
            elif place not in OTHERS:
                if entry.is_symlink():
                    if (about.st_dev, about.st_ino) in seen:
                        continue
                    seen.add((about.st_dev, about.st_ino))
                left.append(place)
