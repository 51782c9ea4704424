"""Takes in labelled images: data/incoming/<class>/<image file>, for the dataset that params.yaml names.

Reads   data/incoming/, and the dataset as sources/ has it
Writes  sources/<dataset>/added/ (see `flows.added`), data/rejected/<date>/<class>/ with a line for each file in
        data/rejected/reasons.csv, and .trainyard/incoming.json

What is to become of each file is decided and noted before the first one is moved. Each is then in place, under its
final name, before it goes from data/incoming/: after a kill the next run does the rest of what was noted.
"""

import csv
import difflib
import errno
import io
import os
import shutil
import stat
from datetime import datetime
from pathlib import Path

from flows import project
from flows.params import Params
from lightning_modules.errors import InputError

MOST_NAMES = 20  # of known classes in a reason


def incoming_folder() -> Path:
    return project.root() / "data" / "incoming"


def rejected_folder() -> Path:
    return project.root() / "data" / "rejected"


def reasons_file() -> Path:
    """time, file (below data/rejected/), reason: a line for each file that was refused."""
    return rejected_folder() / "reasons.csv"


def journal() -> Path:
    """What was decided since `forget`, batch by batch."""
    return project.root() / ".trainyard" / "incoming.json"


def waiting() -> list[str]:
    """The files in data/incoming/, as paths below it, sorted; what begins with a dot is none, like a file that is
    being copied under such a name."""
    found = []
    for folder, subfolders, files in os.walk(incoming_folder()):
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        place = Path(folder).relative_to(incoming_folder())
        found += [(place / name).as_posix() for name in (*files, *links) if not name.startswith(".")]
    return sorted(found)


def take_in(settings: Params) -> list[dict]:
    """Takes in what waits, after the rest of what an interrupted run had noted.

    Returns:
        Every batch since `forget`: dataset, time (ISO 8601), accepted (file, class, digest) and refused (file, target,
        reason), where a file is a path below data/incoming/ and a target one below data/rejected/.

    Raises:
        InputError: the dataset cannot be had, or its images are of a kind that image files cannot be.
    """
    batches = noted()
    for batch in batches:
        if not batch["finished"]:
            carry_out(batch)
    if files := waiting():
        batches.append(decide(settings, files))
        project.write_json(journal(), batches)
        carry_out(batches[-1])
    if batches:
        project.write_json(journal(), [batch | {"finished": True} for batch in batches])
    return batches


def noted() -> list[dict]:
    return project.read_json(journal()) if journal().is_file() else []


def forget() -> None:
    """What was taken in has been told, and is told no more."""
    journal().unlink(missing_ok=True)


def decide(settings: Params, files: list[str]) -> dict:
    """What is to become of each file; nothing is moved. Of files with the same image the first one is taken."""
    from flows import added, sources

    dataset = settings.dataset
    images = added.join(dataset, sources.read(dataset, settings.feed.test))
    shape = images.train_images.shape[1:]
    if shape[-1] not in added.MODES:
        raise InputError(f"{dataset} has images of {shape[-1]} channels: image files of 1 or 3 alone can be taken in")
    classes = added.class_folders(images.class_names)
    seen: dict[str, str] = {}
    for image, label in zip(images.train_images, images.train_labels):
        seen[added.digest(image)] = f'an image of class "{images.class_names[label]}" in the training data'
    for image in images.test_images:  # after the others: it is the graver reason
        seen[added.digest(image)] = f"a test image of {dataset}"
    now = datetime.now().astimezone()
    accepted, refused, targets = [], [], set()
    for file in files:
        try:
            name = class_of(file, classes)
            digest = added.digest(added.decode(incoming_folder() / file, shape))
            if digest in seen:
                raise InputError(f"it is the same image as {seen[digest]}")
        except InputError as reason:
            target = free_place(f"{now.date()}/{file}", targets)
            targets.add(target)
            refused.append({"file": file, "target": target, "reason": str(reason)})
            continue
        seen[digest] = f"{file}, which came with it"
        accepted.append({"file": file, "class": name, "digest": digest})
    return {
        "dataset": dataset,
        "shape": list(shape),
        "time": now.isoformat(timespec="seconds"),
        "accepted": accepted,
        "refused": refused,
        "finished": False,
    }


def class_of(file: str, classes: dict[str, str]) -> str:
    """The folder of its class. Raises InputError for a file that is in none, or is no plain file."""
    *folders, _ = file.split("/")
    if len(folders) != 1:
        raise InputError("it does not lie right below the folder of a class: data/incoming/<class>/<image file>")
    if not stat.S_ISREG((incoming_folder() / file).lstat().st_mode):
        raise InputError("it is no plain file: put the image itself there, not a link to it")
    if folders[0] not in classes:
        near = difflib.get_close_matches(folders[0], classes, n=1, cutoff=0.5)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        known = sorted(classes)
        more = f" and {len(known) - MOST_NAMES:,} more" if len(known) > MOST_NAMES else ""
        raise InputError(f'unknown class "{folders[0]}".{hint} Known: {", ".join(known[:MOST_NAMES])}{more}')
    return folders[0]


def free_place(place: str, taken: set[str]) -> str:
    """A place below data/rejected/ where nothing is: with a number in its name if need be."""
    wanted = Path(place)
    candidate, number = wanted, 1
    while candidate.as_posix() in taken or os.path.lexists(rejected_folder() / candidate):
        number += 1
        candidate = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
    return candidate.as_posix()


def carry_out(batch: dict) -> None:
    """Moves the files of a batch, or those that are left of it."""
    for entry in batch["accepted"]:
        accept(incoming_folder() / entry["file"], batch["dataset"], tuple(batch["shape"]), entry)
    told = reasons_file().read_text(encoding="utf-8").splitlines() if reasons_file().is_file() else []
    known = set(told)
    for entry in batch["refused"]:
        reject(incoming_folder() / entry["file"], batch["time"], entry, known)


def accept(source: Path, dataset: str, shape: tuple[int, ...], entry: dict) -> None:
    from flows import added

    folder = added.folder(dataset) / entry["class"]
    target, unfinished = folder / f"{entry['digest']}.png", folder / f".{entry['digest']}.part"
    if os.path.lexists(source):
        try:
            image = added.decode(source, shape)
        except InputError:
            return  # somebody put another file there meanwhile: the next run looks at it
        if added.digest(image) != entry["digest"]:
            return
        if not target.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            added.encode(image, unfinished)
            os.replace(unfinished, target)
        source.unlink()
    unfinished.unlink(missing_ok=True)


def reject(source: Path, time: str, entry: dict, known: set[str]) -> None:
    target = rejected_folder() / entry["target"]
    if not os.path.lexists(source) or os.path.lexists(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([time, entry["target"], " ".join(entry["reason"].split())])
    line = text.getvalue()
    if line not in known:
        heading = "" if reasons_file().is_file() else "time,file,reason\n"
        with reasons_file().open("a", encoding="utf-8") as file:
            file.write(f"{heading}{line}\n")
    move(source, target)


def move(source: Path, target: Path) -> None:
    """Renames, or copies and then removes where that leads to another file system."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        unfinished = target.with_name(f".{target.name}.part")
        shutil.copy2(source, unfinished, follow_symlinks=False)
        os.replace(unfinished, target)
        source.unlink()
