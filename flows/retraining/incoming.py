"""Takes in labelled images: data/incoming/<class>/<image file>, for the dataset that params.yaml names.

Reads   data/incoming/, and the dataset as sources/ has it
Writes  sources/<dataset>/added/ (see `flows.data.added`), data/rejected/<date>/ with a line for each file in
        data/rejected/reasons.csv, and .trainyard/incoming.json

What is to become of each file is decided and noted before the first one is moved. Each is then in place, under its
final name and on the disk, before it goes from data/incoming/: after a kill the next run does the rest of what was
noted. What is refused gets a name of our own, and a link becomes a text: whoever may write into data/incoming/ is not
trusted with where anything is written, nor with what is read, moved or removed: each folder there is opened, no link
being followed, and its files are reached through it, so that another folder put in its place changes nothing.

A file that is being looked at is noted too: where the run is killed over it, for want of memory, the next one refuses
it instead of trying again.
"""

import csv
import difflib
import io
import json
import os
import time
from datetime import datetime
from pathlib import Path

from flows.params.params_file import Params
from flows.params.sections import DEFAULT_LIMITS, Limits
from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.retraining import incoming_files
from flows.untrusted.escaping import in_csv, printable

MOST_NAMES = 20  # of known classes in a reason
SETTLING = 10.0  # seconds for which a file is left alone after it was written to: it may be half copied


def waiting() -> list[str]:
    """The files in data/incoming/, as paths below it, sorted; what begins with a dot is none, like a file that is
    being copied under such a name."""

    def complain(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    found = []
    for folder, subfolders, files in os.walk(paths.incoming_folder(), onerror=complain):
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        place = Path(folder).relative_to(paths.incoming_folder())
        found += [(place / name).as_posix() for name in (*files, *links) if not name.startswith(".")]
    return sorted(found)


def settled(files: list[str]) -> list[str]:
    """Those that nobody has written to for some seconds. The others wait for the next run."""
    now, found = time.time(), []
    for file in files:
        try:
            age = now - (paths.incoming_folder() / file).lstat().st_mtime
        except FileNotFoundError:
            continue
        if abs(age) >= SETTLING:  # a time that lies far ahead is a wrong clock's
            found.append(file)
    return found


def set_aside() -> Path:
    """Where a damaged journal is put until `forget`."""
    return incoming_files.journal().with_name(f"{incoming_files.journal().name}.damaged")


def lost_count() -> bool:
    """Whether the journal was damaged since `forget`: what was taken in is in place, but no batch may tell of it."""
    return set_aside().is_file()


def take_in(settings: Params) -> list[dict]:
    """Takes in what waits and is settled, after the rest of what an interrupted run had noted.

    A damaged journal is put aside. What it had noted is in data/incoming/ still, or already in place.

    Returns:
        Every batch since `forget`: dataset, time (ISO 8601), accepted (file, class, digest) and refused (file, target,
        reason), where a file is a path below data/incoming/ and a target one below data/rejected/. A file's name may
        be none that can be shown: see `printable`.

    Raises:
        InputError: the dataset cannot be had, or its images are of a kind that image files cannot be; or a folder
            below data/rejected/ leads elsewhere.
        OSError: the disk is full, for example. The next call does the rest.
    """
    batches, fatal = noted(), never_ended()
    if not batches and incoming_files.journal().is_file():
        os.replace(incoming_files.journal(), set_aside())
    for batch in batches:
        if not batch["finished"]:
            carry_out(batch, settings.limits, fatal)
    if files := settled(waiting()):
        batches.append(decide(settings, files, fatal))
        file_io.write_json(incoming_files.journal(), batches)
        file_io.sync(incoming_files.journal())
        incoming_files.note_of_look().unlink(missing_ok=True)  # who puts the file there again has it tried again
        carry_out(batches[-1], settings.limits)
    if batches:
        file_io.write_json(incoming_files.journal(), [batch | {"finished": True} for batch in batches])
    return batches


def noted() -> list[dict]:
    return file_io.read_or_anew(incoming_files.journal(), batches_of, [])


def batches_of(content: object) -> list[dict]:
    """What a journal holds. Raises ValueError, KeyError or TypeError where it is none."""
    if not isinstance(content, list):
        raise TypeError
    for batch in content:
        for key in ("dataset", "shape", "time", "accepted", "refused", "finished"):
            batch[key]
    return content


def never_ended() -> list | None:
    """The identity of the file over which the last run was killed."""
    try:
        return json.loads(incoming_files.note_of_look().read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def is_something_to_do() -> bool:
    """Whether `take_in` would find anything, or the batches of a retrain that has not ended are noted."""
    return bool(noted() or incoming_files.journal().is_file() or lost_count() or settled(waiting()))


def forget() -> None:
    """What was taken in has been told, and is told no more."""
    for file in (incoming_files.journal(), set_aside()):
        file.unlink(missing_ok=True)


def decide(settings: Params, files: list[str], fatal: list | None = None) -> dict:
    """What is to become of each file; nothing is moved. Of files with the same image the first one is taken.

    fatal: the identity of the file over which the last run was killed, which is refused.
    """
    from flows.data import added, image_file, sources

    dataset = settings.dataset
    if settings.feed.task != "classification":
        raise InputError(
            f"data/incoming/ has folders of classes, and the task of {dataset} is {settings.feed.task}: nothing can be "
            "taken in for it"
        )
    images = added.join(dataset, sources.read(dataset, settings.feed.test, settings.limits), settings.limits)
    shape = images.train_images.shape[1:]
    if shape[-1] not in image_file.MODES:
        raise InputError(f"{dataset} has images of {shape[-1]} channels: image files of 1 or 3 alone can be taken in")
    classes = added.class_folders(images.class_names)
    seen: dict[str, str] = {}
    for image, label in zip(images.train_images, images.train_labels):
        seen[added.digest(image)] = f'an image of class "{images.class_names[label]}" in the training data'
    for image in images.test_images:  # after the others: it is the graver reason
        seen[added.digest(image)] = f"a test image of {dataset}"
    now = datetime.now().astimezone()
    accepted, refused = [], []
    targets: set[str] = set()
    for file in files:
        with incoming_files.found(file) as there:
            if there is None:
                continue  # taken away meanwhile
            try:
                name = class_of(there, classes)
                if there.identity == fatal:
                    raise InputError(
                        "the run that last looked at it was killed meanwhile, for want of memory perhaps: it is tried "
                        "once more where you put it into data/incoming/ again"
                    )
                digest = added.digest(there.pixels(shape, settings.limits))
                if digest in seen:
                    raise InputError(f"it is the same image as {seen[digest]}")
            except InputError as reason:
                target = incoming_files.free_place(f"{now:%Y-%m-%d/%H%M%S}", incoming_files.suffix(there), targets)
                targets.add(target)
                refused.append({"file": file, "target": target, "reason": printable(str(reason))})
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


def class_of(there: incoming_files.Waiting, classes: dict[str, str]) -> str:
    """The folder of its class. Raises InputError for a file that is in none, or is no plain file."""
    *folders, _ = there.path.split("/")
    if len(folders) != 1:
        raise InputError("it does not lie right below the folder of a class: data/incoming/<class>/<image file>")
    if not there.is_plain:
        raise InputError("it is no plain file: put the image itself there, not a link to it")
    if folders[0] not in classes:
        near = difflib.get_close_matches(folders[0], classes, n=1, cutoff=0.5)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        known = sorted(classes)
        more = f" and {len(known) - MOST_NAMES:,} more" if len(known) > MOST_NAMES else ""
        raise InputError(f'unknown class "{folders[0]}".{hint} Known: {", ".join(known[:MOST_NAMES])}{more}')
    return folders[0]


def carry_out(batch: dict, limits: Limits = DEFAULT_LIMITS, fatal: list | None = None) -> None:
    """Moves the files of a batch, or those that are left of it."""
    for entry in batch["accepted"]:
        accept(batch["dataset"], tuple(batch["shape"]), entry, limits, fatal)
    told = (
        incoming_files.reasons_file().read_text(encoding="utf-8").splitlines()
        if incoming_files.reasons_file().is_file()
        else []
    )
    known = set(told)
    for entry in batch["refused"]:
        with incoming_files.found(entry["file"]) as there:
            if there:
                reject(batch["time"], entry, there, known)


def accept(dataset: str, shape: tuple[int, ...], entry: dict, limits: Limits, fatal: list | None) -> None:
    from flows.data import added, image_file

    folder = added.folder(dataset) / entry["class"]
    target, unfinished = folder / f"{entry['digest']}.png", folder / f".{entry['digest']}.part"
    with incoming_files.found(entry["file"]) as there:
        # A file that another one was put in the place of meanwhile is for the next run.
        if there and there.is_plain and there.identity != fatal:
            try:
                image = there.pixels(shape, limits)
            except InputError:
                return
            if added.digest(image) != entry["digest"]:
                return
            if not target.is_file():
                with file_io.whole(target, unfinished, synced=True):  # DVC versions the folder: no other name may stay
                    image_file.encode(image, unfinished)
            for place in (target, folder, folder.parent):
                file_io.sync(place)
            there.remove()
    unfinished.unlink(missing_ok=True)


def reject(when: str, entry: dict, there: incoming_files.Waiting, known: set[str]) -> None:
    target = paths.rejected_folder() / entry["target"]
    folder = Path(entry["target"]).parent
    if target.parent.resolve() != paths.rejected_folder().resolve() / folder:
        raise InputError(f"data/rejected/{folder} leads elsewhere: remove it, for refused files would follow the link")
    if os.path.lexists(target):
        if incoming_files.is_copy(there, target):
            there.remove()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    cells = (when, entry["target"], in_csv(entry["file"]), in_csv(entry["reason"]))
    csv.writer(text, lineterminator="").writerow(cells)
    line = text.getvalue()
    if line not in known:
        heading = "" if incoming_files.reasons_file().is_file() else "time,file,was,reason\n"
        with incoming_files.reasons_file().open("a", encoding="utf-8") as file:
            file.write(f"{heading}{line}\n")
    incoming_files.move(there, target)
