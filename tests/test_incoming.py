"""What lies in data/incoming/ is taken in or refused with a reason, and nothing is lost, whenever the power fails."""

import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import environment, peak
from PIL import Image

from flows.data import added, image_file, sources
from flows.download import download
from flows.params.params_file import read
from flows.project.errors import InputError
from flows.retraining import incoming, retrain_report

REASONS = {
    "11/digit.png": 'unknown class "11".',
    "3/broken.png": "it is no readable image",
    "3/colour.png": "it has colour",
    "3/deep/digit.png": "it does not lie right below the folder of a class",
    "3/link.png": "it is no plain file",
    "3/wide.png": "it is 16×8, not 8×8",
    "4/again.png": "it is the same image as 3/new.png, which came with it",
    "4/test.png": "it is the same image as a test image of digits",
    "4/train.bmp": 'it is the same image as an image of class "',
    "loose.png": "it does not lie right below the folder of a class",
}


def save(pixels: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    settle(file)


def put(content: bytes, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    settle(file)


def settle(file: Path) -> None:
    """As if it had been there for a minute."""
    os.utime(file, (time.time() - 60,) * 2, follow_symlinks=False)


def new_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)


@pytest.fixture
def full(project) -> Path:
    """The project, with two new images and one for each reason to refuse it."""
    images = sources.read("digits", read().feed.test)
    place = project / "data" / "incoming"
    save(new_image(0), place / "3/new.png")
    save(new_image(1), place / "0/new.png")
    save(new_image(2), place / "11/digit.png")
    save(new_image(3), place / "3/deep/digit.png")
    save(new_image(4), place / "loose.png")
    save(new_image(0), place / "4/again.png")
    save(np.zeros((8, 16), np.uint8), place / "3/wide.png")
    save(np.full((8, 8, 3), (200, 10, 10), np.uint8), place / "3/colour.png")
    save(images.test_images[5, ..., 0], place / "4/test.png")
    save(images.train_images[5, ..., 0], place / "4/train.bmp")  # another format, the same pixels
    put(b"\x89PNG\r\n\x1a\n and no more", place / "3/broken.png")
    (place / "3/link.png").symlink_to("/etc/hostname")
    settle(place / "3/link.png")
    (place / "3/.half.png").write_bytes(b"is being copied")
    return project


def everything(project: Path) -> list[str]:
    """What the files hold, wherever they lie, but for the images, which are stored as PNG anew."""
    found = []
    for folder in ("data/incoming", "data/rejected", "sources/digits/added"):
        for file in (project / folder).rglob("*"):
            if file.is_symlink():
                found.append(f"a symbolic link to {os.readlink(file)}\n")
            elif file.suffix == ".txt":
                found.append(file.read_text())
            elif file.suffix in (".png", ".bmp"):
                try:
                    found.append(added.digest(np.asarray(Image.open(file))))
                except OSError:
                    found.append(hashlib.sha256(file.read_bytes()).hexdigest())
    return sorted(found)


def rejected(project: Path) -> list[dict[str, str]]:
    """What reasons.csv has: time, file, was, reason."""
    with (project / "data/rejected/reasons.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_all(project: Path, *waiting: str) -> None:
    """That each file of `full` came where it belongs, once."""
    rows = rejected(project)
    assert sorted(row["was"] for row in rows) == sorted(REASONS)
    for row in rows:
        assert REASONS[row["was"]] in row["reason"]
        assert (project / "data/rejected" / row["file"]).is_file()
    assert not [path for path in (project / "data/rejected").rglob("*") if path.is_symlink()]
    assert incoming.waiting() == list(waiting)
    place = project / "sources/digits/added"
    taken = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert taken == {f"{name}/{added.digest(new_image(seed))}.png" for name, seed in (("3", 0), ("0", 1))}


def test_new_images_are_taken_in_and_the_others_refused_with_a_reason(full):
    before = everything(full)
    [batch] = incoming.take_in(read())
    assert {entry["file"] for entry in batch["accepted"]} == {"0/new.png", "3/new.png"}
    check_all(full)
    assert everything(full) == before
    assert (full / "data/incoming/3/.half.png").is_file()


def test_what_was_taken_in_is_no_new_image_any_more(full):
    incoming.take_in(read())
    incoming.forget()
    save(new_image(0), full / "data/incoming/7/new.png")
    [batch] = incoming.take_in(read())
    [refused] = batch["refused"]
    assert refused["reason"] == 'it is the same image as an image of class "3" in the training data'


def test_it_is_told_until_it_is_forgotten(full):
    first = incoming.take_in(read())
    save(new_image(9), full / "data/incoming/1/later.png")
    both = incoming.take_in(read())
    assert [len(batch["accepted"]) for batch in both] == [2, 1]
    assert both[0]["accepted"] == first[0]["accepted"]
    incoming.forget()
    assert incoming.take_in(read()) == []


def test_a_refused_file_does_not_replace_another_of_the_same_name(full):
    incoming.take_in(read())
    put(b"another one", full / "data/incoming/3/broken.png")
    incoming.take_in(read())
    files = [full / "data/rejected" / row["file"] for row in rejected(full) if row["was"] == "3/broken.png"]
    assert len(files) == 2
    assert files[1].read_bytes() == b"another one"


def test_a_link_that_was_refused_leads_nowhere(project, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    place = project / "data/incoming"
    place.mkdir(parents=True)
    (place / "x").symlink_to(outside)
    settle(place / "x")
    incoming.take_in(read())
    put(b"a key", place / "x/authorized_keys")
    incoming.take_in(read())
    assert incoming.waiting() == []
    assert list(outside.iterdir()) == []
    link, key = (project / "data/rejected" / row["file"] for row in rejected(project))
    assert link.read_text() == f"a symbolic link to {outside}\n"
    assert key.read_bytes() == b"a key"


def test_a_folder_that_became_a_link_is_not_followed(full, tmp_path, monkeypatch):
    """Neither one of data/incoming/ after it was looked at, nor one of data/rejected/."""
    outside = tmp_path / "outside"
    with monkeypatch.context() as patch:
        patch.setattr(incoming, "carry_out", lambda batch, limits: None)
        incoming.take_in(read())
    (full / "data/incoming/3").rename(outside)
    (full / "data/incoming/3").symlink_to(outside)
    before = sorted(path.name for path in outside.iterdir())
    [batch] = incoming.noted()
    incoming.carry_out(batch)
    assert sorted(path.name for path in outside.iterdir()) == before
    [day] = {row["file"].partition("/")[0] for row in rejected(full)}
    shutil.rmtree(full / "data/rejected" / day)
    (full / "data/rejected" / day).symlink_to(outside)
    put(b"no image", full / "data/incoming/4/later.png")
    with pytest.raises(InputError, match=f"data/rejected/{day} leads elsewhere"):
        incoming.take_in(read())
    assert sorted(path.name for path in outside.iterdir()) == before
    (full / "data/rejected" / day).unlink()
    incoming.take_in(read())
    assert not (full / "data/incoming/4/later.png").exists()


def test_a_refused_file_is_in_no_other_one_s_way(project):
    place = project / "data/incoming"
    for name in ("3", "3/broken.png", "3/broken.png/deeper"):  # each is a folder of the next
        if (place / Path(name).parent).is_file():
            (place / Path(name).parent).unlink()
        put(b"no image", place / name)
        [*_, batch] = incoming.take_in(read())
        assert [entry["file"] for entry in batch["refused"]] == [name]
        assert all(batch["finished"] for batch in incoming.noted())
    assert [row["was"] for row in rejected(project)] == ["3", "3/broken.png", "3/broken.png/deeper"]


def test_any_name_can_be_taken_in_refused_and_told(project):
    place = project / "data/incoming"
    save(new_image(0), place / "3/good.png")
    os.rename(place / "3/good.png", os.path.join(os.fsencode(place), b"3/caf\xe9.png"))
    put(b"no image", Path(os.fsdecode(os.path.join(os.fsencode(place), b"3/\xff\x1b[31m\n|.png"))))
    put(b"no image", Path(os.fsdecode(os.path.join(os.fsencode(place), b"\xfe/a.png"))))
    [batch] = incoming.take_in(read())
    assert len(batch["accepted"]) == 1
    assert incoming.waiting() == []
    assert sorted(row["was"] for row in rejected(project)) == ["3/\\xff\\x1b[31m\\n|.png", "\\xfe/a.png"]
    assert 'unknown class "\\xfe"' in rejected(project)[-1]["reason"]
    text = "\n".join(retrain_report.of_images(incoming.noted()))
    assert "3/\\\\xff\\\\x1b\\[31m\\\\n\\|.png" in text
    text.encode("utf-8")


def test_what_is_no_file_is_kept_as_a_text(project):
    (project / "data/incoming/3").mkdir(parents=True)
    os.mkfifo(project / "data/incoming/3/pipe.png")
    settle(project / "data/incoming/3/pipe.png")
    incoming.take_in(read())
    [row] = rejected(project)
    assert (project / "data/rejected" / row["file"]).read_text() == "a named pipe, and no file\n"


def test_what_claims_to_be_huge_is_refused_before_it_is_decoded(project):
    place = project / "data/incoming/3"
    save(new_image(0), place / "good.png")
    (place / "sparse.webp").write_bytes(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
    os.truncate(place / "sparse.webp", 3 << 30)
    settle(place / "sparse.webp")
    assert (place / "sparse.webp").stat().st_blocks * 512 < 1 << 20
    taken = "from flows.retraining import incoming; from flows.params.params_file import read; incoming.take_in(read())"
    assert peak(taken) < 256 << 20
    [row] = rejected(project)
    assert "has 3,221,225,472 bytes, and limits.image_bytes in params.yaml allows 100,000,000" in row["reason"]
    assert incoming.waiting() == []
    assert added.folder("digits").joinpath("3", f"{added.digest(new_image(0))}.png").is_file()


# Is killed as the system kills what takes all memory: without a word, while it decodes the bomb.
OUT_OF_MEMORY = """
import os, signal
from flows.data import image_file
from flows.params.params_file import read
from flows.retraining import incoming
pixels = image_file.pixels

def decode(content, *given, **named):
    if content == b"a bomb":
        os.kill(os.getpid(), signal.SIGKILL)
    return pixels(content, *given, **named)

image_file.pixels = decode
incoming.take_in(read())
"""


def test_a_file_over_which_the_run_was_killed_is_refused_by_the_next_one(project):
    place = project / "data/incoming"
    save(new_image(0), place / "3/a.png")
    put(b"a bomb", place / "3/bomb.png")
    save(new_image(1), place / "3/c.png")

    def run() -> int:
        return subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], cwd=project, env=environment()).returncode

    assert run() == -signal.SIGKILL
    assert incoming.waiting() == ["3/a.png", "3/bomb.png", "3/c.png"]
    assert run() == 0
    assert incoming.waiting() == []
    [row] = rejected(project)
    assert row["was"] == "3/bomb.png"
    assert "the run that last looked at it was killed" in row["reason"]
    # Put there again, it is tried again: the machine may have more memory now.
    (project / "data/rejected" / row["file"]).rename(place / "3/bomb.png")
    assert run() == -signal.SIGKILL


def test_a_run_that_is_interrupted_blames_no_file(project, monkeypatch):
    save(new_image(0), project / "data/incoming/3/a.png")
    with monkeypatch.context() as patch:
        patch.setattr(image_file, "decode", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            incoming.take_in(read())
    [batch] = incoming.take_in(read())
    assert [entry["file"] for entry in batch["accepted"]] == ["3/a.png"]


@pytest.mark.parametrize("at", ["decode", "replace", "unlink"])
def test_a_folder_that_is_swapped_for_a_link_at_the_worst_moment_leads_nowhere(project, tmp_path, monkeypatch, at):
    """Just before the file is read, moved or removed."""
    outside, place = tmp_path / "outside", project / "data/incoming"
    for folder in (outside, place / "3"):
        save(new_image(0), folder / "new.png")
        put(b"a key", folder / "id.png")
    before = {file.name: file.read_bytes() for file in outside.iterdir()}

    def swapping(method):
        def call(*given, **named):
            if not (place / "3").is_symlink():
                (place / "3").rename(place / "was")
                (place / "3").symlink_to(outside)
            return method(*given, **named)

        return call

    if at == "decode":
        monkeypatch.setattr(image_file, "decode", swapping(image_file.decode))
    else:
        real = getattr(os, at)
        monkeypatch.setattr(os, at, lambda *given, **named: (swapping(real) if named else real)(*given, **named))
    incoming.take_in(read())
    assert (place / "3").is_symlink()
    assert {file.name: file.read_bytes() for file in outside.iterdir()} == before


def test_no_race_moves_a_file_from_outside(project, tmp_path):
    """A thread goes on swapping a folder for a link, and a file for one, while images are taken in."""
    outside, place = tmp_path / "outside", project / "data/incoming"
    outside.mkdir()
    names = [f"{number}.png" for number in range(200)]
    for name in names:
        put(b"a key", outside / name)
        put(b"no image", place / "3" / name)
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            os.rename(place / "3", place / ".was")
            os.symlink(outside, place / "3")
            os.remove(place / "3")
            os.rename(place / ".was", place / "3")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(5):
            incoming.take_in(read())
    finally:
        done.set()
        thread.join()
    incoming.take_in(read())
    assert {file.read_bytes() for file in outside.iterdir()} == {b"a key"}
    assert sorted(file.name for file in outside.iterdir()) == sorted(names)
    kept = [file for file in (project / "data/rejected").rglob("*") if file.suffix == ".png"]
    assert not [file for file in kept if file.is_symlink()]
    assert {file.read_bytes() for file in kept} == {b"no image"}
    assert incoming.waiting() == []


@pytest.mark.parametrize("other", ["link", "folder", "pipe"])
def test_what_takes_the_place_of_a_file_as_it_is_moved_stays_no_link(project, monkeypatch, other):
    place = project / "data/incoming/3"
    put(b"no image", place / "id.png")
    replace = os.replace

    def late(source, target, **named) -> None:
        if source == "id.png":
            (place / "id.png").unlink()
            if other == "link":
                (place / "id.png").symlink_to("/etc/hostname")
            elif other == "folder":
                (place / "id.png").mkdir()
            else:
                os.mkfifo(place / "id.png")
        replace(source, target, **named)

    monkeypatch.setattr(os, "replace", late)
    incoming.take_in(read())
    [row] = rejected(project)
    kept = project / "data/rejected" / row["file"]
    if other == "folder":
        assert (place / "id.png").is_dir()
        assert not kept.exists()
    else:
        said = {"link": "a symbolic link to /etc/hostname\n", "pipe": "a named pipe, and no file\n"}
        assert not kept.is_symlink()
        assert kept.read_text() == said[other]


def test_a_file_that_is_replaced_while_it_is_taken_in_is_kept(project, monkeypatch):
    file = project / "data/incoming/3/a.png"
    save(new_image(0), file)
    encode = image_file.encode

    def late(image, target) -> None:
        encode(image, target)
        save(new_image(1), file.with_name(".b.png"))
        file.with_name(".b.png").rename(file)

    with monkeypatch.context() as patch:
        patch.setattr(image_file, "encode", late)
        incoming.take_in(read())
    assert incoming.waiting() == ["3/a.png"]
    incoming.take_in(read())
    assert incoming.waiting() == []
    assert len(list((added.folder("digits") / "3").iterdir())) == 2


def test_a_file_that_may_still_be_copied_waits(full):
    half = full / "data/incoming/5/half.png"
    half.parent.mkdir()
    half.write_bytes(b"\x89PNG the first bytes")
    incoming.take_in(read())
    check_all(full, "5/half.png")
    assert not incoming.settled(incoming.waiting())
    save(new_image(7), half)
    assert [entry["file"] for entry in incoming.take_in(read())[-1]["accepted"]] == ["5/half.png"]


def test_an_image_is_on_the_disk_before_it_goes_from_where_it_was(project, monkeypatch):
    save(new_image(0), project / "data/incoming/3/new.png")
    (project / "data/incoming/3/link.png").symlink_to("nowhere")
    settle(project / "data/incoming/3/link.png")
    done: list[tuple[str, str]] = []
    sync, unlink = os.fsync, os.unlink
    monkeypatch.setattr(
        os, "fsync", lambda file: (done.append(("sync", os.readlink(f"/proc/self/fd/{file}"))), sync(file))
    )

    def remove(path, **more) -> None:
        folder = os.readlink(f"/proc/self/fd/{more['dir_fd']}") if "dir_fd" in more else ""
        done.append(("unlink", os.path.join(folder, path)))
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", remove)
    incoming.take_in(read())
    for source, target in (
        ("3/new.png", added.folder("digits") / "3" / f"{added.digest(new_image(0))}.png"),
        ("3/link.png", project / "data/rejected" / rejected(project)[0]["file"]),
    ):
        before = done[: done.index(("unlink", str(project / "data/incoming" / source)))]
        assert ("sync", str(target)) in before
        assert ("sync", str(target.parent)) in before


def test_the_folders_of_the_classes_are_made_once_these_are_known(project):
    added.make_folders("digits")
    assert not (project / "data").exists()
    download(read())
    added.make_folders("digits")
    assert {path.name for path in (project / "data/incoming").iterdir()} == set("0123456789")
    assert incoming.waiting() == []


# Ends itself before the move of that number, and is then another process: nothing is tidied up.
KILLED = """
import os, signal, sys
from flows.params.params_file import read
from flows.retraining import incoming
left = int(sys.argv[1])

def before(method):
    def call(*given, **named):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return method(*given, **named)
    return call

os.replace = before(os.replace)
os.unlink = before(os.unlink)
incoming.take_in(read())
"""


def test_killed_at_any_moment_the_next_run_does_the_rest(full, tmp_path, monkeypatch):
    before = everything(full)
    number, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        copy = shutil.copytree(full, tmp_path / f"copy {number}", symlinks=True)
        code = subprocess.run([sys.executable, "-c", KILLED, str(number)], cwd=copy, env=environment()).returncode
        monkeypatch.chdir(copy)
        assert set(everything(copy)) == set(before)  # an image may be at both places for a moment
        incoming.take_in(read())
        check_all(copy)
        assert everything(copy) == before
        number += 3
    assert code == 0
    assert number > 6
