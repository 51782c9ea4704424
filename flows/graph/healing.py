"""How to repair a damaged file that a stage wrote.

DVC does not verify its cache, and may restore the damage. A file restored from a damaged cache object counts as up to
date, and so does the object when its stage has made the right bytes again. DVC makes or pulls them again only when
both are gone.
"""

import hashlib
import json
import shlex
from pathlib import Path

from flows.graph import dvc_command, dvc_graph
from flows.project import paths
from flows.project.errors import InputError


def heal(file: Path, stage: str) -> str:
    """Advice, for the end of a message: the commands that restore a damaged file of a stage."""
    root = paths.root()
    out, md5 = locked(root, file)
    objects = damaged_objects(root, out, md5, file) if md5 else []
    also = f"; DVC's copy of it in {paths.shown(objects[-1])} is damaged too" if objects else ""
    gone = shlex.join(str(paths.shown(place)) for place in [out, *objects])
    return f"run `rm -rf {gone}` and then `dvc repro {stage}`, or `dvc pull` where a remote has it{also}"


def locked(root: Path, file: Path) -> tuple[Path, str | None]:
    """The `out` that the file is in, and its hash in dvc.lock; where there is none, the file's folder and None."""
    try:
        stages = dvc_graph.described(root / "dvc.lock")
    except InputError:  # also damaged, which DVC reports itself
        stages = {}
    for entry in stages.values():
        for out in entry.get("outs") or ():
            place = root / out["path"]
            if file == place or place in file.parents:
                return place, out.get("md5")
    return file.parent, None


def damaged_objects(root: Path, out: Path, md5: str, file: Path) -> list[Path]:
    """The damaged objects in DVC's cache among the two that the file is restored from: its own, and its folder's."""
    try:
        cache = root / dvc_command.ask(root, "cache", "dir").strip() / "files" / "md5"
    except InputError:  # DVC complains by itself when it is asked to heal
        return []
    objects = [cache / md5[:2] / md5[2:]]
    if md5.endswith(".dir"):
        try:
            listing = {entry["relpath"]: entry["md5"] for entry in json.loads(objects[0].read_text(encoding="utf-8"))}
        except (OSError, ValueError, TypeError, KeyError):
            listing = {}
        part = listing.get(file.relative_to(out).as_posix())
        objects += [cache / part[:2] / part[2:]] if part else []
    return [place for place in objects if place.is_file() and not is_whole(place)]


def is_whole(place: Path) -> bool:
    with place.open("rb") as stream:
        found = hashlib.file_digest(stream, "md5").hexdigest()
    return found == place.parent.name + place.name.removesuffix(".dir")
