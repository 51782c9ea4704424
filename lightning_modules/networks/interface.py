"""What every network is built from."""

from collections.abc import Sequence

from lightning_modules.activations import Activation

__all__ = ["Activation", "Dropouts", "Shape"]

Shape = tuple[int, int, int]  # height, width and channels of an image
Dropouts = float | Sequence[float]  # one rate for all layers with dropout, or one for each
