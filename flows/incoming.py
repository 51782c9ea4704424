"""Takes in labelled images: data/incoming/<class>/<image file>, for the dataset that params.yaml names.

Reads   data/incoming/, and the dataset as sources/ has it
Writes  sources/<dataset>/added/ (see `flows.added`), data/rejected/<date>/ with a line for each file in
        data/rejected/reasons.csv, and .trainyard/incoming.json

What is to become of each file is decided and noted before the first one is moved. Each is then in place, under its
final name and on the disk, before it goes from data/incoming/: after a kill the next run does the rest of what was
noted. What is refused gets a name of our own, and a link becomes a text: whoever may write into data/incoming/ is not
trusted with where anything is written, nor with what is read, moved or removed: each folder there is opened, no link
being followed, and its files are reached through it, so that another folder put in its place changes nothing.

A file that is being looked at is noted too: where the run is killed over it, for want of memory, the next one refuses
it instead of trying again.
"""

import contextlib
import csv
import difflib
import errno
import hashlib
import io
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flows import foreign_files, project
from flows.foreign_text import in_csv, printable
from flows.params import BY_DEFAULT, Limits, Params
from lightning_modules.errors import InputError

MOST_NAMES = 20  # of known classes in a reason
SETTLING = 10.0  # seconds for which a file is left alone after it was written to: it may be half copied


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


def note_of_look() -> Path:
    """Which file is being looked at; empty between two of them."""
    return project.root() / ".trainyard" / "incoming.look"


@dataclass(frozen=True)
class Waiting:
    """A file of data/incoming/, as it was when it was found.

    folder: the open folder that it lies in; path: below data/incoming/; found: of the file itself, where it is a link.
    """

    folder: int
    name: str
    path: str
    found: os.stat_result

    @property
    def is_plain(self) -> bool:
        return stat.S_ISREG(self.found.st_mode)

    @property
    def identity(self) -> list:
        return [self.path, self.found.st_ino, self.found.st_size, self.found.st_mtime_ns]

    def pixels(self, shape: tuple[int, ...], limits: Limits):
        """As `added.decode`, and meanwhile noted as being looked at. Raises InputError with a sentence about "it"."""
        from flows import added

        note_of_look().parent.mkdir(parents=True, exist_ok=True)
        note_of_look().write_text(json.dumps(self.identity))
        try:
            return added.decode(self.name, shape, limits, self.folder)
        except InputError as error:
            raise InputError(f"it {error}") from None
        finally:  # what interrupts a run with an exception is nothing that the file has done
            os.truncate(note_of_look(), 0)

    def remove(self) -> None:
        """Unless somebody has put another file there: that is for the next run."""
        with contextlib.suppress(FileNotFoundError):
            now = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
            if os.path.samestat(now, self.found) and now.st_mtime_ns == self.found.st_mtime_ns:
                os.unlink(self.name, dir_fd=self.folder)


@contextlib.contextmanager
def found(file: str) -> Iterator[Waiting | None]:
    """A file of data/incoming/; None where there is none, in folders that are no links."""
    *folders, name = file.split("/")
    with contextlib.ExitStack() as closing:
        place: int | None = None
        try:
            for folder in (incoming_folder(), *folders):
                flags = os.O_RDONLY | os.O_DIRECTORY | (0 if place is None else os.O_NOFOLLOW)
                place = os.open(folder, flags, dir_fd=place)
                closing.callback(os.close, place)
            status = os.stat(name, dir_fd=place, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            yield None
            return
        yield None if stat.S_ISDIR(status.st_mode) else Waiting(place, name, file, status)


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
    batches, fatal = noted(), never_ended()
    if not batches and journal().is_file():
        os.replace(journal(), set_aside())
    for batch in batches:
        if not batch["finished"]:
            carry_out(batch, settings.limits, fatal)
    if files := settled(waiting()):
        batches.append(decide(settings, files, fatal))
        project.write_json(journal(), batches)
        project.sync(journal())
        note_of_look().unlink(missing_ok=True)  # who puts the file there again has it tried again
        carry_out(batches[-1], settings.limits)
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


def never_ended() -> list | None:
    """The identity of the file over which the last run was killed."""
    try:
        return json.loads(note_of_look().read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def is_something_to_do() -> bool:
    """Whether `take_in` would find anything, or the batches of a retrain that has not ended are noted."""
    return bool(noted() or journal().is_file() or lost_count() or settled(waiting()))


def forget() -> None:
    """What was taken in has been told, and is told no more."""
    for file in (journal(), set_aside()):
        file.unlink(missing_ok=True)


def decide(settings: Params, files: list[str], fatal: list | None = None) -> dict:
    """What is to become of each file; nothing is moved. Of files with the same image the first one is taken.

    fatal: the identity of the file over which the last run was killed, which is refused.
    """
    from flows import added, sources

    dataset = settings.dataset
    images = added.join(dataset, sources.read(dataset, settings.feed.test, settings.limits), settings.limits)
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
        with found(file) as there:
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
                target = free_place(f"{now:%Y-%m-%d/%H%M%S}", suffix(there), targets)
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


def class_of(there: Waiting, classes: dict[str, str]) -> str:
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


def suffix(there: Waiting) -> str:
    """Of the name that a refused file gets."""
    from flows.image_file import SUFFIXES

    if not there.is_plain:
        return ".txt"  # which says what it was
    own = os.path.splitext(there.name)[1].lower()
    return own if own in SUFFIXES else ""


def free_place(stem: str, suffix: str, taken: set[str]) -> str:
    """A place below data/rejected/ where nothing is."""
    number = len(taken) + 1
    while (place := f"{stem}-{number}{suffix}") in taken or os.path.lexists(rejected_folder() / place):
        number += 1
    return place


def carry_out(batch: dict, limits: Limits = BY_DEFAULT, fatal: list | None = None) -> None:
    """Moves the files of a batch, or those that are left of it."""
    for entry in batch["accepted"]:
        accept(batch["dataset"], tuple(batch["shape"]), entry, limits, fatal)
    told = reasons_file().read_text(encoding="utf-8").splitlines() if reasons_file().is_file() else []
    known = set(told)
    for entry in batch["refused"]:
        with found(entry["file"]) as there:
            if there:
                reject(batch["time"], entry, there, known)


def accept(dataset: str, shape: tuple[int, ...], entry: dict, limits: Limits, fatal: list | None) -> None:
    from flows import added

    folder = added.folder(dataset) / entry["class"]
    target, unfinished = folder / f"{entry['digest']}.png", folder / f".{entry['digest']}.part"
    with found(entry["file"]) as there:
        # A file that another one was put in the place of meanwhile is for the next run.
        if there and there.is_plain and there.identity != fatal:
            try:
                image = there.pixels(shape, limits)
            except InputError:
                return
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
            there.remove()
    unfinished.unlink(missing_ok=True)


def reject(when: str, entry: dict, there: Waiting, known: set[str]) -> None:
    target = rejected_folder() / entry["target"]
    folder = Path(entry["target"]).parent
    if target.parent.resolve() != rejected_folder().resolve() / folder:
        raise InputError(f"data/rejected/{folder} leads elsewhere: remove it, for refused files would follow the link")
    if os.path.lexists(target):
        if is_copy(there, target):
            there.remove()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    cells = (when, entry["target"], in_csv(entry["file"]), in_csv(entry["reason"]))
    csv.writer(text, lineterminator="").writerow(cells)
    line = text.getvalue()
    if line not in known:
        heading = "" if reasons_file().is_file() else "time,file,was,reason\n"
        with reasons_file().open("a", encoding="utf-8") as file:
            file.write(f"{heading}{line}\n")
    move(there, target)


def move(there: Waiting, target: Path) -> None:
    """Renames; copies and then removes where that leads to another file system, or it is no plain file."""
    if there.is_plain:
        try:
            os.replace(there.name, target, src_dir_fd=there.folder)
        except FileNotFoundError:
            return  # taken away meanwhile
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            put_right(there, target)
            return
    unfinished = target.with_name(f".{target.name}.part")
    try:
        if there.is_plain:
            with opened(there) as source, unfinished.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        else:
            unfinished.write_text(said_of(there), encoding="utf-8")
        project.sync(unfinished)
        os.replace(unfinished, target)
    except (FileNotFoundError, InputError):  # it is another one, or gone
        unfinished.unlink(missing_ok=True)
        return
    except OSError:  # the disk is full, say
        unfinished.unlink(missing_ok=True)
        raise
    project.sync(target)
    there.remove()


def put_right(there: Waiting, target: Path) -> None:
    """What was renamed may be what somebody put in the file's place a moment ago: no link stays in data/rejected/, and
    a folder goes back."""
    mode = target.lstat().st_mode
    if stat.S_ISDIR(mode):
        with contextlib.suppress(OSError):  # there is a third one by now
            os.rename(target, there.name, dst_dir_fd=there.folder)
    elif not stat.S_ISREG(mode):
        unfinished = target.with_name(f".{target.name}.part")
        to = os.readlink(target) if stat.S_ISLNK(mode) else None
        unfinished.write_text(said(mode, to), encoding="utf-8")
        os.replace(unfinished, target)


def opened(there: Waiting):
    return foreign_files.opened(there.name, sys.maxsize, there.folder)


def said_of(there: Waiting) -> str:
    """What is kept of what is no plain file. Raises FileNotFoundError where it is another one by now."""
    is_link = stat.S_ISLNK(there.found.st_mode)
    try:
        return said(there.found.st_mode, os.readlink(there.name, dir_fd=there.folder) if is_link else None)
    except OSError as error:  # such as EINVAL
        raise FileNotFoundError(errno.ENOENT, error.strerror, there.path) from None


def said(mode: int, link: str | None) -> str:
    if link is not None:
        return f"a symbolic link to {printable(link)}\n"
    return f"{foreign_files.kind(mode)}, and no file\n"


def is_copy(there: Waiting, target: Path) -> bool:
    """Whether the target was made of the file, by a run that ended before it could remove that."""
    try:
        if not there.is_plain:
            return target.read_text(encoding="utf-8") == said_of(there)
        if there.found.st_size != target.stat().st_size:
            return False
        with opened(there) as source, target.open("rb") as copy:
            return hashlib.file_digest(source, "sha256").digest() == hashlib.file_digest(copy, "sha256").digest()
    except (FileNotFoundError, InputError):
        return False
