"""Takes in labelled images: data/incoming/<class>/<image file>, for the dataset that params.yaml names.

Reads   data/incoming/, and the dataset as sources/ has it
Writes  sources/<dataset>/added/ (see `flows.added`), data/rejected/<date>/ with a line for each file in
        data/rejected/reasons.csv, and .trainyard/incoming.json

What is to become of each file is decided and noted before the first one is moved. Each is then in place, under its
final name and on the disk, before it goes from data/incoming/: after a kill the next run does the rest of what was
noted. What is refused gets a name of our own, and a link becomes a text: whoever may write into data/incoming/ is not
trusted with where anything is written.
"""

import csv
import difflib
import errno
import filecmp
import io
import os
import shutil
import stat
import time
from datetime import datetime
from pathlib import Path

from flows import project
from flows.params import Params
from lightning_modules.errors import InputError

MOST_NAMES = 20  # of known classes in a reason
SETTLING = 10.0  # seconds for which a file is left alone after it was written to: it may be half copied
KINDS = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def incoming_folder() -> Path:
    return project.root() / "data" / "incoming"


def rejected_folder() -> Path:
    return project.root() / "data" / "rejected"


def reasons_file() -> Path:
    """time, file (below data/rejected/), was (below data/incoming/), reason: a line for each file that was refused."""
    return rejected_folder() / "reasons.csv"


def journal() -> Path:
    """What was decided since `forget`, batch by batch."""
    return project.root() / ".trainyard" / "incoming.json"


def waiting() -> list[str]:
    """The files in data/incoming/, as paths below it, sorted; what begins with a dot is none, like a file that is
    being copied under such a name."""

    def complain(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    found = []
    for folder, subfolders, files in os.walk(incoming_folder(), onerror=complain):
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        place = Path(folder).relative_to(incoming_folder())
        found += [(place / name).as_posix() for name in (*files, *links) if not name.startswith(".")]
    return sorted(found)


def settled(files: list[str]) -> list[str]:
    """Those that nobody has written to for some seconds. The others wait for the next run."""
    now, found = time.time(), []
    for file in files:
        try:
            age = now - (incoming_folder() / file).lstat().st_mtime
        except FileNotFoundError:
            continue
        if abs(age) >= SETTLING:  # a time that lies far ahead is a wrong clock's
            found.append(file)
    return found


def make_folders(dataset: str) -> None:
    """Makes the folders of the classes, for a person to put images into, where the dataset is there and has some."""
    from flows import added
    from flows import dataset as data

    if (project.data_folder(dataset) / "dataset.json").is_file():
        for name in added.class_folders(data.read_card(dataset)["class_names"]):
            (incoming_folder() / name).mkdir(parents=True, exist_ok=True)


def set_aside() -> Path:
    """Where a damaged journal is put until `forget`."""
    return journal().with_name(f"{journal().name}.damaged")


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
    batches = noted()
    if not batches and journal().is_file():
        os.replace(journal(), set_aside())
    for batch in batches:
        if not batch["finished"]:
            carry_out(batch)
    if files := settled(waiting()):
        batches.append(decide(settings, files))
        project.write_json(journal(), batches)
        project.sync(journal())
        carry_out(batches[-1])
    if batches:
        project.write_json(journal(), [batch | {"finished": True} for batch in batches])
    return batches


def noted() -> list[dict]:
    return project.read_or_anew(journal(), batches_of, [])


def batches_of(content: object) -> list[dict]:
    """What a journal holds. Raises ValueError, KeyError or TypeError where it is none."""
    if not isinstance(content, list):
        raise TypeError
    for batch in content:
        for key in ("dataset", "shape", "time", "accepted", "refused", "finished"):
            batch[key]
    return content


def is_something_to_do() -> bool:
    """Whether `take_in` would find anything, or the batches of a retrain that has not ended are noted."""
    return bool(noted() or journal().is_file() or lost_count() or settled(waiting()))


def forget() -> None:
    """What was taken in has been told, and is told no more."""
    for file in (journal(), set_aside()):
        file.unlink(missing_ok=True)


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
        if not is_there(file):
            continue  # taken away meanwhile
        try:
            name = class_of(file, classes)
            digest = added.digest(decoded(incoming_folder() / file, shape))
            if digest in seen:
                raise InputError(f"it is the same image as {seen[digest]}")
        except InputError as reason:
            target = free_place(f"{now:%Y-%m-%d/%H%M%S}", suffix(file), targets)
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


def decoded(file: Path, shape: tuple[int, ...]):
    """As `added.decode`, with a sentence where it raises."""
    from flows import added

    try:
        return added.decode(file, shape)
    except InputError as error:
        raise InputError(f"it {error}") from None


def class_of(file: str, classes: dict[str, str]) -> str:
    """The folder of its class. Raises InputError for a file that is in none, or is no plain file."""
    *folders, _ = file.split("/")
    if len(folders) != 1:
        raise InputError("it does not lie right below the folder of a class: data/incoming/<class>/<image file>")
    if not is_plain(incoming_folder() / file):
        raise InputError("it is no plain file: put the image itself there, not a link to it")
    if folders[0] not in classes:
        near = difflib.get_close_matches(folders[0], classes, n=1, cutoff=0.5)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        known = sorted(classes)
        more = f" and {len(known) - MOST_NAMES:,} more" if len(known) > MOST_NAMES else ""
        raise InputError(f'unknown class "{folders[0]}".{hint} Known: {", ".join(known[:MOST_NAMES])}{more}')
    return folders[0]


def is_plain(file: Path) -> bool:
    return stat.S_ISREG(file.lstat().st_mode)


def suffix(file: str) -> str:
    """Of the name that a refused file gets."""
    from flows.sources import SUFFIXES

    if not is_plain(incoming_folder() / file):
        return ".txt"  # which says what it was
    own = os.path.splitext(file)[1].lower()
    return own if own in SUFFIXES else ""


def free_place(stem: str, suffix: str, taken: set[str]) -> str:
    """A place below data/rejected/ where nothing is."""
    number = len(taken) + 1
    while (place := f"{stem}-{number}{suffix}") in taken or os.path.lexists(rejected_folder() / place):
        number += 1
    return place


def printable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8, and what a terminal would obey, as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def carry_out(batch: dict) -> None:
    """Moves the files of a batch, or those that are left of it."""
    for entry in batch["accepted"]:
        accept(batch["dataset"], tuple(batch["shape"]), entry)
    told = reasons_file().read_text(encoding="utf-8").splitlines() if reasons_file().is_file() else []
    known = set(told)
    for entry in batch["refused"]:
        reject(batch["time"], entry, known)


def is_there(file: str) -> bool:
    """Whether there still is such a file in data/incoming/, in folders that are no links."""
    source = incoming_folder() / file
    if not os.path.lexists(source) or (source.is_dir() and not source.is_symlink()):
        return False
    return source.parent.resolve() == incoming_folder().resolve() / Path(file).parent


def accept(dataset: str, shape: tuple[int, ...], entry: dict) -> None:
    from flows import added

    source, folder = incoming_folder() / entry["file"], added.folder(dataset) / entry["class"]
    target, unfinished = folder / f"{entry['digest']}.png", folder / f".{entry['digest']}.part"
    if is_there(entry["file"]) and is_plain(source):
        try:
            image = added.decode(source, shape)
        except InputError:
            return  # somebody put another file there meanwhile: the next run looks at it
        if added.digest(image) != entry["digest"]:
            return
        if not target.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                added.encode(image, unfinished)
                project.sync(unfinished)
                os.replace(unfinished, target)
            except OSError:  # the disk is full, say
                unfinished.unlink(missing_ok=True)
                raise
        for place in (target, folder, folder.parent):
            project.sync(place)
        source.unlink()
    unfinished.unlink(missing_ok=True)


def reject(when: str, entry: dict, known: set[str]) -> None:
    source, target = incoming_folder() / entry["file"], rejected_folder() / entry["target"]
    if not is_there(entry["file"]):
        return
    folder = Path(entry["target"]).parent
    if target.parent.resolve() != rejected_folder().resolve() / folder:
        raise InputError(f"data/rejected/{folder} leads elsewhere: remove it, for refused files would follow the link")
    if os.path.lexists(target):
        if is_copy(source, target):
            source.unlink()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([when, entry["target"], printable(entry["file"]), entry["reason"]])
    line = text.getvalue()
    if line not in known:
        heading = "" if reasons_file().is_file() else "time,file,was,reason\n"
        with reasons_file().open("a", encoding="utf-8") as file:
            file.write(f"{heading}{line}\n")
    move(source, target)


def move(source: Path, target: Path) -> None:
    """Renames; copies and then removes where that leads to another file system, or the source is no plain file."""
    unfinished = target.with_name(f".{target.name}.part")
    if is_plain(source):
        try:
            os.replace(source, target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    try:
        if is_plain(source):
            shutil.copy2(source, unfinished, follow_symlinks=False)
        else:
            unfinished.write_text(said_of(source), encoding="utf-8")
        project.sync(unfinished)
        os.replace(unfinished, target)
    except OSError:  # the disk is full, say
        unfinished.unlink(missing_ok=True)
        raise
    project.sync(target)
    source.unlink()


def said_of(source: Path) -> str:
    """What is kept of what is no plain file."""
    mode = source.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"a symbolic link to {printable(os.readlink(source))}\n"
    return f"a {KINDS.get(stat.S_IFMT(mode), 'thing')}, and no file\n"


def is_copy(source: Path, target: Path) -> bool:
    """Whether the target was made of the source, by a run that ended before it could remove that."""
    if is_plain(source):
        return filecmp.cmp(source, target, shallow=False)
    return target.read_text(encoding="utf-8") == said_of(source)
