"""Statistics of an image's pixels, which need no model: one number per image and statistic."""

import numpy as np

# ITU-R BT.601: how much each of red, green and blue adds to luminance.
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def statistics(images: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics by name, float32, N.

    Args:
        images: uint8, N×H×W×C. Three channels are red, green and blue.

    Returns:
        brightness: mean luminance, 0 to 1.
        contrast: root-mean-square contrast, the standard deviation of luminance (Peli, 1990).
        sharpness: variance of the Laplacian of luminance (Pech-Pacheco et al., 2000); noise raises it, blur lowers it.
        saturation: mean HSV saturation, 0 to 1; only for colour images.
    """
    scaled = images.astype(np.float32) / 255
    colour = images.shape[3] == 3
    luminance = scaled @ LUMINANCE if colour else scaled.mean(3)
    found = {
        "brightness": luminance.mean((1, 2)),
        "contrast": luminance.std((1, 2)),
        "sharpness": laplacian(luminance).var((1, 2)),
    }
    if colour:
        brightest, darkest = scaled.max(3), scaled.min(3)
        # Black has no saturation.
        ratio = np.divide(brightest - darkest, brightest, out=np.zeros_like(brightest), where=brightest > 0)
        found["saturation"] = ratio.mean((1, 2))
    return found


def laplacian(luminance: np.ndarray) -> np.ndarray:
    """The sum of the four neighbours minus four times the pixel. The border is padded with its own values."""
    padded = np.pad(luminance, ((0, 0), (1, 1), (1, 1)), mode="edge")
    neighbours = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return neighbours - 4 * luminance
