"""Whether a file of the project was touched since DVC last said that nothing is stale.

At a thousand stages DVC takes seconds to say so: it locks and looks up each of them. That it said so is remembered
together with size, times and inode of every file, by which DVC itself knows a file again that it has hashed. As long
as these are the same, so is the answer. Where something outside of the project counts, nothing is remembered.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# What cannot change DVC's answer: its own notes, those of other tools, and what .dvcignore names.
LEFT_OUT = {".git", ".venv", ".trainyard", "__pycache__", "mlartifacts", "mlruns", os.path.join(".dvc", "tmp")}
STORE = "mlflow.db"  # with its lock and journals
# DVC looks whether a file is in its cache: a folder's own times tell whether one came or went.
CACHE = os.path.join(".dvc", "cache")
OUTSIDE = re.compile(r"^\s*(?:- )?(?:path|url): *['\"]?(?:/|~|\.\.|\w+://)", re.MULTILINE)
OTHER_CACHE = re.compile(r"^\s*\[cache\]", re.MULTILINE)


def since_nothing_was_stale(root: Path) -> bool:
    """Whether what DVC would be asked about is as it was when it last said that nothing is stale."""
    try:
        return note(root).read_text(encoding="utf-8") == look(root)
    except OSError:
        return False


def remember(root: Path, before: str | None) -> None:
    """Notes that nothing was stale, unless a file was touched since the look `before` DVC was asked."""
    # A file that is written to twice within one tick of the clock looks the same: DVC took longer than that.
    with suppress(OSError):  # a folder that cannot be written to, or a file that goes meanwhile: DVC is asked again
        if before and before == look(root) and not outside_counts(root):
            note(root).parent.mkdir(exist_ok=True)
            note(root).write_text(before, encoding="utf-8")


def note(root: Path) -> Path:
    return root / ".trainyard" / "nothing-stale"


def look(root: Path) -> str | None:
    """A digest of the files' names, sizes, times and inodes; None where one cannot be looked at, or goes meanwhile."""
    digest = hashlib.sha256()
    try:
        for place, entry in entries(os.fspath(root)):
            about = entry.stat()
            numbers = (about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)
            digest.update(f"{place} {numbers}\n".encode("utf-8", "surrogateescape"))
    except OSError:
        return None
    return digest.hexdigest()


def entries(root: str, folder: str = "") -> Iterator[tuple[str, os.DirEntry]]:
    """The files below a folder by their place in the project; of DVC's cache the folders."""
    with os.scandir(os.path.join(root, folder)) as found:
        inside = sorted(found, key=lambda entry: entry.name)
    for entry in inside:
        place = os.path.join(folder, entry.name)
        if entry.name in LEFT_OUT or place in LEFT_OUT or (not folder and entry.name.startswith(STORE)):
            continue
        below = entry.is_dir(follow_symlinks=False)
        if below == place.startswith(CACHE):
            yield place, entry
        if below:
            yield from entries(root, place)


def outside_counts(root: Path) -> bool:
    """Whether a stage depends on what lies outside of the project, or DVC's cache is there."""
    if not (root / CACHE).is_dir():
        return True
    for place, entry in entries(os.fspath(root)):
        if entry.is_symlink() and entry.is_dir():
            return True
        if entry.name == "dvc.lock" or entry.name.endswith(".dvc"):
            expression = OUTSIDE
        elif place.startswith(os.path.join(".dvc", "config")):
            expression = OTHER_CACHE
        else:
            continue
        if expression.search((root / place).read_text(encoding="utf-8")):
            return True
    return False
