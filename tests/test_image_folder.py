"""Images from outside: what can be used is read, and what cannot is named."""

import numpy as np
import pytest
from PIL import Image

from flows.data.image_folder import read, sample
from flows.project.errors import InputError

GREY, COLOUR = (8, 6, 1), (8, 6, 3)


def write(folder, count: int, shape=GREY) -> np.ndarray:
    """Images in two subfolders; returns them in the order of their files."""
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    for number, image in enumerate(images):
        file = folder / ("a" if number < count // 2 else "b") / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if shape[2] == 1 else image).save(file)
    return images


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_all_files_of_all_subfolders_are_read(tmp_path, shape):
    images = write(tmp_path, 7, shape)
    (tmp_path / "a" / "notes.txt").write_text("no image, by its name")
    (tmp_path / "a" / ".hidden.png").write_text("still being copied")
    found = read(tmp_path, shape, 100, seed=0)
    np.testing.assert_array_equal(found.images, images)
    assert (found.found, found.refused) == (7, [])


def test_of_many_a_sample_is_read_which_the_seed_draws(tmp_path):
    images = write(tmp_path, 40)
    found = read(tmp_path, GREY, 10, seed=3)
    np.testing.assert_array_equal(found.images, images[sample(40, 10, 3)])
    assert found.found == 40
    assert sample(40, 10, 3).tolist() != sample(40, 10, 4).tolist()
    assert sample(5, 10, 3).tolist() == [0, 1, 2, 3, 4]


def test_what_cannot_be_used_is_named_with_its_reason(tmp_path):
    images = write(tmp_path, 3)
    Image.new("L", (9, 8)).save(tmp_path / "large.png")
    Image.new("RGB", (6, 8), "red").save(tmp_path / "red.png")
    Image.fromarray(np.full((8, 6), 40_000, np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a" / "0000.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("an image, believe me")
    (tmp_path / "empty.png").write_bytes(b"")
    found = read(tmp_path, GREY, 100, seed=0)
    np.testing.assert_array_equal(found.images, images)
    reasons = dict(found.refused)
    assert reasons["large.png"] == "is 9×8, not 6×8 (width×height)"
    assert reasons["red.png"] == "has colour (RGB), but the dataset is grey"
    assert reasons["deep.png"].startswith("has more than 8 bits a channel")
    assert all(reasons[name].startswith("is no readable image") for name in ("cut.png", "text.png", "empty.png"))


def test_a_folder_of_which_nothing_can_be_used_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no image files"):
        read(tmp_path, GREY, 100, seed=0)
    (tmp_path / "text.png").write_text("an image, believe me")
    with pytest.raises(InputError, match=r"has 1 image file, and none that can be used; the first, text.png, is no"):
        read(tmp_path, GREY, 100, seed=0)
    with pytest.raises(InputError, match="missing does not exist"):
        read(tmp_path / "missing", GREY, 100, seed=0)


@pytest.mark.parametrize("flat", [True, False])
def test_an_npz_file_is_read_and_so_is_the_folder_that_holds_it(tmp_path, flat):
    images = np.random.default_rng(0).integers(0, 256, (30, *GREY), np.uint8)
    np.savez(tmp_path / "images.npz", images=images[..., 0] if flat else images, labels=np.zeros(30))
    for place in (tmp_path, tmp_path / "images.npz"):
        np.testing.assert_array_equal(read(place, GREY, 100, seed=0).images, images)
    assert len(read(tmp_path, GREY, 10, seed=0).images) == 10


def test_an_npz_file_that_cannot_be_used_is_refused(tmp_path):
    file = tmp_path / "images.npz"
    np.savez(file, pictures=np.zeros((30, *GREY), np.uint8))
    with pytest.raises(InputError, match="has no array called images"):
        read(file, GREY, 100, seed=0)
    np.savez(file, images=np.zeros((30, *GREY)))
    with pytest.raises(InputError, match=r"30×8×6×1 of type float64, but they have to be N×8×6×1 of type uint8"):
        read(file, GREY, 100, seed=0)
    np.savez(file, images=np.zeros((30, *COLOUR), np.uint8))
    with pytest.raises(InputError, match="have to be N×8×6×1"):
        read(file, GREY, 100, seed=0)
    np.savez(file, images=np.array([{}], object))
    with pytest.raises(InputError, match=r"is no \.npz file of plain arrays"):
        read(file, GREY, 100, seed=0)
    for content in (b"", b"PK\x03\x04 cut", b"text"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"is no \.npz file of plain arrays"):
            read(file, GREY, 100, seed=0)
