"""Brightness, contrast, sharpness and saturation, on images of which they are known."""

import numpy as np
import pytest

from flows.drift.pixel_statistics import statistics


def of(image) -> dict[str, float]:
    found = statistics(np.asarray(image, np.uint8)[None])
    return {name: float(values[0]) for name, values in found.items()}


def plain(*colour: int, side: int = 4) -> np.ndarray:
    return np.full((side, side, len(colour)), colour, np.uint8)


def test_a_plain_grey_image():
    assert of(plain(51)) == pytest.approx({"brightness": 0.2, "contrast": 0, "sharpness": 0}, abs=1e-6)


def test_plain_colours():
    assert of(plain(255, 0, 0)) == pytest.approx(
        {"brightness": 0.299, "contrast": 0, "sharpness": 0, "saturation": 1}, abs=1e-6
    )
    assert of(plain(90, 90, 90))["saturation"] == 0
    assert of(plain(0, 0, 0))["saturation"] == 0
    assert of(plain(200, 100, 100))["saturation"] == pytest.approx(0.5)


def test_contrast_is_the_standard_deviation_of_luminance():
    image = plain(0)
    image[:2] = 255
    assert of(image)["contrast"] == pytest.approx(0.5)


def test_blur_lowers_sharpness_and_noise_raises_it():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 1))
    blurred = (image + np.roll(image, 1, 0) + np.roll(image, 1, 1)) / 3
    noisy = np.clip(image + np.random.default_rng(1).normal(0, 80, image.shape), 0, 255)
    assert of(blurred)["sharpness"] < of(image)["sharpness"] < of(noisy)["sharpness"]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 1), (2, 1, 3), (3, 3, 4)])
def test_images_of_any_size_and_number_of_channels(shape):
    found = statistics(np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8))
    assert set(found) == {"brightness", "contrast", "sharpness"} | ({"saturation"} if shape[2] == 3 else set())
    assert all(values.shape == (5,) and np.isfinite(values).all() for values in found.values())
