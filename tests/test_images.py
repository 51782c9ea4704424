"""Batches by index are what a plain loop over single images would make."""

import warnings

import numpy as np
import pytest
import torch

from lightning_modules import names
from lightning_modules.images import AUGMENTATIONS, Blocks, Images, normalize

COUNT, SHAPE = 40, (16, 24, 3)
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]
REACH = (2, 3)  # an eighth of the sides


@pytest.fixture(scope="module")
def split():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (COUNT, *SHAPE), np.uint8), random.integers(0, 10, COUNT)


def reference(image: np.ndarray, down: int = 0, right: int = 0, mirrored: bool = False) -> np.ndarray:
    """One image, shifted by the given number of pixels, mirrored and normalised, C×H×W."""
    shifted = np.zeros_like(image)
    height, width, _ = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                shifted[row, column] = image[row - down, column - right]
    if mirrored:
        shifted = shifted[:, ::-1]
    return ((shifted / 255 - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)


def same(batched: torch.Tensor, image: np.ndarray) -> bool:
    return np.allclose(batched.numpy(), image, atol=1e-5)


def test_the_known_names_are_those_of_the_code():
    assert set(names.AUGMENTATIONS) == set(AUGMENTATIONS)


def test_without_augmentation_a_batch_is_the_normalised_images_at_its_index(split):
    index = torch.tensor([5, 0, 39, 5])
    images, labels = Images(*split, MEAN, STD).batch(index)
    assert images.shape == (4, 3, 16, 24)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == split[1][index.numpy()].tolist()
    for image, number in zip(images, index):
        assert same(image, reference(split[0][number]))


def test_a_small_split_that_is_normalised_once_has_the_same_batches(split, monkeypatch):
    rows, index = np.arange(3, 30), torch.tensor([[5, 0], [26, 5]])
    once = Images(*split, MEAN, STD, rows=rows)
    assert once.ready is not None
    monkeypatch.setattr("lightning_modules.images.READY", 27 * 16 * 24 * 3 - 1)
    each = Images(*split, MEAN, STD, rows=rows)
    assert each.ready is None
    assert Images(*split, MEAN, STD, "flip", rows=rows[:5]).ready is None
    for own, other in zip(once.batch(index), each.batch(index)):
        assert torch.equal(own, other)
        assert own.stride() == other.stride()


@pytest.mark.parametrize("augment", ["shift", "flip", "shift_flip"])
def test_every_image_of_a_batch_is_shifted_and_mirrored_on_its_own(split, augment):
    torch.manual_seed(0)
    shift, flip = "shift" in augment, "flip" in augment
    given = Images(*split, MEAN, STD, augment)
    given.begin_epoch(0)
    images, labels = given.batch(torch.arange(COUNT))
    assert labels.tolist() == split[1].tolist()
    rows = range(-REACH[0], REACH[0] + 1) if shift else [0]
    columns = range(-REACH[1], REACH[1] + 1) if shift else [0]
    found = []
    for image, original in zip(images, split[0]):
        moves = [
            (down, right, mirrored)
            for down in rows
            for right in columns
            for mirrored in ((False, True) if flip else (False,))
            if same(image, reference(original, down, right, mirrored))
        ]
        assert len(moves) == 1
        found += moves
    down, right, mirrored = (set(values) for values in zip(*found))
    # Forty draws meet each of five and of seven shifts, or nearly so, and both sides.
    assert len(down) == len(rows)
    assert len(right) >= len(columns) - 1
    assert mirrored == ({False, True} if flip else {False})


def test_augmentation_is_drawn_from_the_seed_and_anew_for_each_epoch(split):
    images = Images(*split, MEAN, STD, "shift_flip")

    def epoch(number: int) -> torch.Tensor:
        images.begin_epoch(number)
        return images.batch(torch.arange(COUNT))[0]

    torch.manual_seed(1)
    first, second = epoch(0), epoch(1)
    torch.manual_seed(1)
    assert torch.equal(first, epoch(0))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_networks_that_train_together_see_what_each_would_see_alone(split, augment):
    seeds = [3, 4, 5]
    orders = [torch.randperm(COUNT, generator=torch.Generator().manual_seed(seed))[:7] for seed in seeds]
    together = Images(*split, MEAN, STD, augment)
    together.begin_epoch(1, seeds, [torch.Generator().manual_seed(seed) for seed in seeds])
    images, labels = together.batch(torch.stack(orders))
    for number, seed in enumerate(seeds):
        alone = Images(*split, MEAN, STD, augment)
        alone.begin_epoch(1, [seed], [torch.Generator().manual_seed(seed)])
        own_images, own_labels = alone.batch(orders[number])
        assert torch.equal(images[number], own_images)
        assert torch.equal(labels[number], own_labels)


def test_an_alternating_flip_shows_both_sides_of_each_image_in_two_epochs(split):
    index = torch.arange(COUNT)
    plain = Images(*split, MEAN, STD).batch(index)[0]
    images = Images(*split, MEAN, STD, "altflip")
    sides = []
    for epoch in range(4):
        images.begin_epoch(epoch, [7])
        made = images.batch(index)[0]
        mirrored = (made == plain.flip(3)).flatten(1).all(1)
        assert torch.equal(mirrored, (made != plain).flatten(1).any(1))
        sides.append(mirrored)
    assert 0 < sides[0].sum() < COUNT
    assert torch.equal(sides[1], ~sides[0])
    assert torch.equal(sides[2], sides[0])
    assert torch.equal(sides[3], sides[1])


def test_the_first_side_depends_on_the_seed_alone(split):
    index = torch.arange(COUNT)
    images = Images(*split, MEAN, STD, "altflip")

    def side(epoch: int, seed: int, state: int) -> torch.Tensor:
        torch.manual_seed(state)
        images.begin_epoch(epoch, [seed])
        return images.batch(index)[0]

    assert torch.equal(side(0, 1, state=1), side(0, 1, state=2))
    assert torch.equal(side(5, 1, state=1), side(1, 1, state=2))  # as a training that goes on finds it
    assert not torch.equal(side(0, 1, state=1), side(0, 2, state=1))


def test_a_nudge_moves_by_a_sixteenth_and_reflects_the_border(split):
    torch.manual_seed(0)
    images = Images(*split, MEAN, STD, "nudge_altflip")
    assert images.reach == (1, 1)
    images.begin_epoch(0)
    for image, original, mirrored in zip(images.batch(torch.arange(COUNT))[0], split[0], images.mirrored[0]):
        padded = np.pad(original, ((1, 1), (1, 1), (0, 0)), "reflect")
        moved = [padded[down : down + 16, right : right + 24] for down in range(3) for right in range(3)]
        if mirrored:
            moved = [one[:, ::-1] for one in moved]
        assert any(same(image, reference(one)) for one in moved)


def test_a_square_of_each_image_is_cut_out(split):
    torch.manual_seed(0)
    images = Images(*split, MEAN, STD, "shift_altflip_cutout")
    images.begin_epoch(0)
    batch = images.batch(torch.arange(COUNT))[0]
    places = set()
    for image in batch:
        rows, columns = torch.where((image == 0).all(0))  # the mean, as black would be no black after normalising
        assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (6, 9)
        assert len(rows) == 6 * 9
        places.add((rows.min().item(), columns.min().item()))
    assert len(places) > COUNT / 2


@pytest.mark.parametrize("augment", ["none", "shift", "nudge_altflip"])
def test_the_first_images_are_not_augmented(split, augment):
    first = Images(*split, MEAN, STD, augment).first(5)
    assert first.shape == (5, 3, 16, 24)
    for image, original in zip(first, split[0]):
        assert same(image, reference(original))
    assert len(Images(*split, MEAN, STD, augment).first(1000)) == COUNT


def test_an_image_too_small_to_shift_stays_where_it_is():
    given = np.arange(8, dtype=np.uint8).reshape(4, 1, 2, 1)
    labels = np.arange(4)
    shifted = Images(given, labels, [0.0], [1.0], "shift")
    shifted.begin_epoch(0)
    assert torch.equal(shifted.batch(torch.arange(4))[0], Images(given, labels, [0.0], [1.0]).batch(torch.arange(4))[0])


def test_a_channel_that_never_changes_becomes_zero():
    images = torch.full((2, 3, 3, 1), 51, dtype=torch.uint8)
    assert normalize(images, torch.tensor([0.2]), torch.tensor([0.0])).abs().max() < 1e-5


def test_normalised_images_have_mean_zero_and_deviation_one(split):
    mean, std = (split[0] / 255).mean((0, 1, 2)), (split[0] / 255).std((0, 1, 2))
    images = Images(*split, mean.tolist(), std.tolist()).batch(torch.arange(COUNT))[0]
    assert images.mean((0, 2, 3)).abs().max() < 1e-4
    assert images.std((0, 2, 3)) == pytest.approx(torch.ones(3), abs=1e-3)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_the_images_given_stay_as_they_are(split, augment):
    given = split[0].copy()
    given.setflags(write=False)  # as a memory map is
    torch.manual_seed(0)
    images = Images(given, split[1], MEAN, STD, augment)
    images.begin_epoch(0)
    images.batch(torch.arange(COUNT))
    assert np.array_equal(given, split[0])


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_some_rows_of_a_mapped_file_are_fed_like_a_copy_of_them(split, tmp_path, augment):
    np.save(tmp_path / "images.npy", split[0])
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    rows = np.array([1, 2, 5, 7, 30, 38])
    fed = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in (
            Images(mapped, split[1], MEAN, STD, augment, rows=rows),
            Images(split[0][rows], split[1][rows], MEAN, STD, augment),
        ):
            torch.manual_seed(0)
            images.begin_epoch(1)
            fed.append((len(images), images.first(4), *images.batch(torch.tensor([4, 0, 5, 5]))))
    assert fed[0][0] == fed[1][0] == len(rows)
    assert all(torch.equal(mine, copied) for mine, copied in zip(fed[0][1:], fed[1][1:]))


def test_images_in_memory_are_not_copied(split):
    for augment in AUGMENTATIONS:
        assert Images(*split, MEAN, STD, augment).images.data_ptr() == split[0].ctypes.data


@pytest.mark.parametrize(("count", "batch_size", "block"), [(10, 3, 2), (12, 3, 2), (12, 3, 50), (5, 8, 3), (1, 1, 1)])
def test_blocks_hold_every_image_once_an_epoch_and_the_last_batch_is_smaller(count, batch_size, block):
    torch.manual_seed(0)
    blocks = Blocks(count, batch_size, block, lambda: torch.randperm(count))
    epoch = list(blocks)
    assert len(epoch) == len(blocks)
    assert all(len(batches) == block for batches in epoch[:-1])
    assert 1 <= len(epoch[-1]) <= block
    sizes = [len(batch) for batches in epoch for batch in batches]
    assert len(sizes) == blocks.steps
    assert all(size == batch_size for size in sizes[:-1])
    assert sizes[-1] == (count % batch_size or batch_size)
    assert sorted(number for batches in epoch for batch in batches for number in batch.tolist()) == list(range(count))


def test_each_epoch_has_its_own_order():
    torch.manual_seed(0)
    blocks = Blocks(100, 10, 3, lambda: torch.randperm(100))
    first, second = (torch.cat([batch for batches in blocks for batch in batches]) for _ in range(2))
    assert not torch.equal(first, second)
