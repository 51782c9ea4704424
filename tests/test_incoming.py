"""What lies in data/incoming/ is taken in or refused with a reason, and nothing is lost, whenever the power fails."""

import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import environment
from PIL import Image

from flows import added, incoming, sources
from flows.params import read

REASONS = {
    "11/digit.png": 'unknown class "11".',
    "3/broken.png": "broken.png",
    "3/colour.png": "has colour",
    "3/deep/digit.png": "it does not lie right below the folder of a class",
    "3/link.png": "it is no plain file",
    "3/wide.png": "is 16×8, but the dataset's images are 8×8",
    "4/again.png": "it is the same image as 3/new.png, which came with it",
    "4/test.png": "it is the same image as a test image of digits",
    "4/train.bmp": 'it is the same image as an image of class "',
    "loose.png": "it does not lie right below the folder of a class",
}


def save(pixels: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


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
    (place / "3/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (place / "3/link.png").symlink_to("/etc/hostname")
    (place / "3/.half.png").write_bytes(b"is being copied")
    return project


def everything(project: Path) -> list[str]:
    """What the files hold, wherever they lie, but for the images, which are stored as PNG anew."""
    found = []
    for folder in ("data/incoming", "data/rejected", "sources/digits/added"):
        for file in (project / folder).rglob("*"):
            if file.is_symlink():
                found.append(f"link to {os.readlink(file)}")
            elif file.suffix in (".png", ".bmp"):
                try:
                    found.append(added.digest(np.asarray(Image.open(file))))
                except OSError:
                    found.append(hashlib.sha256(file.read_bytes()).hexdigest())
    return sorted(found)


def rejected(project: Path) -> dict[str, str]:
    """The reasons by place, as reasons.csv has them."""
    with (project / "data/rejected/reasons.csv").open(newline="") as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


def check_all(project: Path) -> None:
    """That each file of `full` came where it belongs, once."""
    reasons = rejected(project)
    assert {name.partition("/")[2] for name in reasons} == set(REASONS)
    for name, reason in reasons.items():
        assert REASONS[name.partition("/")[2]] in reason
        assert os.path.lexists(project / "data/rejected" / name)
    assert incoming.waiting() == []
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
    (full / "data/incoming/3/broken.png").write_bytes(b"another one")
    incoming.take_in(read())
    found = [path.read_bytes() for path in (full / "data/rejected").glob("*/3/broken*.png")]
    assert len(found) == 2
    assert b"another one" in found


# Ends itself before the move of that number, and is then another process: nothing is tidied up.
KILLED = """
import os, signal, sys
from flows import incoming
from flows.params import read
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
