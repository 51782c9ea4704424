"""Whether anything was touched since DVC last said that nothing is stale.

At a thousand stages DVC takes seconds to say so: it locks and looks up each of them. That it said so is remembered
together with what it may have looked at: the names of all files and folders of the project and of DVC's cache; size,
times and inode of each file, and of DVC's configuration outside of the project; and the environment's DVC_* settings.
As long as these are the same, so is the answer. Where something outside of the project counts, or something that is
left out here, nothing is remembered.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from flows import project

DVC = ".dvc"
CACHE = os.path.join(DVC, "cache")
# What changes often and no stage is about: notes of DVC, of Git and of this project, MLflow's store. With the folders
# that .dvcignore lists, it is all that is left out.
NOTES = {".git", ".trainyard", os.path.join(DVC, "tmp"), os.path.join(DVC, "site-cache")}
NOTES |= {f"mlflow.db{more}" for more in ("", ".lock", "-journal", "-shm", "-wal")}
# A line of .dvcignore that names folders, and one that takes back what another one says.
IGNORED = re.compile(r"^(/?)([\w.-]+)/[ \t\r]*$", re.MULTILINE)
TAKEN_BACK = re.compile(rb"^\s*!", re.MULTILINE)
# Of DVC's configuration, whose sections' names may be in capitals.
OTHER_CACHE = re.compile(rb"^\s*\[\s*['\"]?cache", re.MULTILINE | re.IGNORECASE)
OUTSIDE = re.compile(r"^[/\\~]|^\w:[/\\]|://|(^|[/\\])\.\.($|[/\\])")
# Keys of dvc.yaml and .dvc files behind which is another folder to start from, another repository, or a database.
ELSEWHERE = {"wdir", "repo", "db"}


def since_nothing_was_stale(root: Path) -> bool:
    """Whether what DVC would be asked about is as it was when it last said that nothing is stale."""
    try:
        remembered = note(root).read_bytes()
    except OSError:
        return False
    now = look(root)
    return now is not None and remembered == now.encode()


def remember(root: Path, before: str | None) -> None:
    """Notes that nothing is stale, where `before` is the look that was taken before DVC was asked.

    What was touched since has made the next look another one. A file that is written to twice within one tick of the
    clock looks the same, but DVC takes longer than that to begin.
    """
    if before is None or outside_counts(root):
        return
    # A folder that cannot be written to: DVC is asked again.
    with suppress(OSError), project.whole(note(root)) as temporary:
        temporary.write_bytes(before.encode())


def note(root: Path) -> Path:
    return root / ".trainyard" / "nothing-stale"


def look(root: Path) -> str | None:
    """A digest of what there is; None where something cannot be looked at, or goes meanwhile."""
    digest = hashlib.sha256()

    def add(*facts) -> None:
        digest.update(f"{facts}\n".encode("utf-8", "surrogateescape"))

    add(sorted((name, value) for name, value in os.environ.items() if name.startswith("DVC_")))
    try:
        for file in [*configurations(), *git_ignores(root)]:
            add(os.fspath(file), *(numbers(file.stat()) if file.exists() else ()))
        for place, entry in entries(root):
            # A folder's times tell no more than the names in it, and change with what is left out.
            add(place, *(() if entry.is_dir() else numbers(entry.stat())))
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


def numbers(about: os.stat_result) -> tuple[int, ...]:
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def configurations() -> list[Path]:
    """DVC's configuration of this machine and of this user: see dvc/dirs.py, which takes long to import."""
    import platformdirs

    found = {
        "DVC_SYSTEM_CONFIG_DIR": platformdirs.site_config_dir,
        "DVC_GLOBAL_CONFIG_DIR": platformdirs.user_config_dir,
    }
    return [Path(os.environ.get(name) or default("dvc", "iterative"), "config") for name, default in found.items()]


def git_ignores(root: Path) -> list[Path]:
    """DVC passes over stages in files that Git ignores, by what stands here and in the project's own folders."""
    return [folder / name for folder in (root, *root.parents) for name in (".gitignore", ".git/info/exclude")]


def entries(root: Path) -> Iterator[tuple[str, os.DirEntry]]:
    """All files and folders that are not left out, by their places in the project."""
    ignored = ignored_folders(root)
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(os.path.join(root, folder)) as found:
            inside = sorted(found, key=lambda entry: entry.name)
        for entry in inside:
            place = os.path.join(folder, entry.name)
            if place in NOTES or (entry.is_dir() and is_ignored(place, ignored)):
                continue
            yield place, entry
            if entry.is_dir(follow_symlinks=False):
                folders.append(place)


def ignored_folders(root: Path) -> set[str]:
    """As .dvcignore has them, but without the slash at the end: /name for one at the root, name for any."""
    try:
        lines = (root / ".dvcignore").read_text(encoding="utf-8")
    except FileNotFoundError:
        return set()
    return {start + name for start, name in IGNORED.findall(lines)}


def is_ignored(place: str, ignored: set[str]) -> bool:
    """DVC's own folder never is."""
    return (os.path.basename(place) in ignored or f"/{place}" in ignored) and place.split(os.sep)[0] != DVC


def outside_counts(root: Path) -> bool:
    """Whether a stage may depend on what `look` does not see, or DVC's folder, its cache in it, is not that of the
    project alone."""
    import yaml

    if not (root / CACHE).is_dir():
        return True
    try:
        ignored = ignored_folders(root)
        if any(OTHER_CACHE.search(file.read_bytes()) for file in configurations() if file.exists()):
            return True
        for place, entry in entries(root):
            in_cache = Path(place).is_relative_to(CACHE)
            if entry.is_symlink() and (in_cache or entry.is_dir()):
                return True
            if in_cache or entry.is_dir():
                continue
            if place.startswith(os.path.join(DVC, "config")):
                elsewhere = OTHER_CACHE.search((root / place).read_bytes())
            elif entry.name == ".dvcignore":
                elsewhere = TAKEN_BACK.search((root / place).read_bytes())
            elif entry.name in ("dvc.yaml", "dvc.lock") or entry.name.endswith(".dvc"):
                named = strings(project.read_yaml(root / place))
                elsewhere = any(leads_elsewhere(name, os.path.dirname(place), ignored) for name in named)
            else:
                continue
            if elsewhere:
                return True
    except (OSError, ValueError, yaml.YAMLError):
        return True
    return False


def strings(content: object) -> Iterator[str]:
    """All keys and values that are text, however deep, but of commands, which DVC itself does not look into."""
    left = [content]
    while left:
        current = left.pop()
        if isinstance(current, dict):
            left.extend(value for key, value in current.items() if key != "cmd")
            left.extend(current)
        elif isinstance(current, list | tuple):
            left.extend(current)
        elif isinstance(current, str):
            yield current


def leads_elsewhere(name: str, folder: str, ignored: set[str]) -> bool:
    """Whether a name in a file with stages in `folder`, if it is a path, leads to what `look` does not see."""
    if OUTSIDE.search(name) or name in ELSEWHERE:
        return True
    place = os.path.normpath(os.path.join(folder, name))
    if name and place == os.curdir:  # with all that is left out
        return True
    while place:
        if place in NOTES or is_ignored(place, ignored):
            return True
        place = os.path.dirname(place)
    return False
