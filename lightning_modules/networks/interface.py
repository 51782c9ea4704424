"""What every network is built from."""

from collections.abc import Callable

from torch import nn

Shape = tuple[int, int, int]  # height, width and channels of an image
Activation = Callable[[], nn.Module]  # makes an activation layer
