"""Refuses named pipes and devices where DVC looks for files: it opens what it finds there, and would wait for ever."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from flows.project.errors import InputError, shown
from flows.untrusted import plain_files

# What stages read and write. DVC does not look at what has just come in, which `flows.retraining.incoming` refuses.
FOLDERS = (
    "data", "ensembles", "flows", "lightning_modules", "metrics", "models", "plots", "predictions", "settings",
    "sources",
)  # fmt: skip
OTHERS = ("data/incoming", "data/rejected")


def refuse(root: Path) -> None:
    """To be called before DVC is.

    Raises:
        InputError: there is one.
    """
    for place, mode in special(root):
        raise InputError(
            f"{shown(place, 200)} is {plain_files.kind(mode)}, and no plain file: DVC would wait for it "
            "for ever. Remove it"
        )


def special(root: Path) -> Iterator[tuple[str, int]]:
    """The place in the project and the mode of each file that is none. Links are followed, as DVC does."""
    seen: set[tuple[int, int]] = set()  # folders behind links, which may lead round in circles
    left = [name for name in FOLDERS if (root / name).is_dir()]
    while left:
        folder = left.pop()
        with os.scandir(root / folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            place = os.path.join(folder, entry.name)
            if entry.is_file(follow_symlinks=False):  # known without asking the disk once more
                continue
            try:
                about = entry.stat()
            except OSError:  # a link to nothing, which DVC names itself
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
