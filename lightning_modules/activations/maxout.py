"""Maxout: an activation that takes the largest of several linear functions of the layer before it."""

from torch import Tensor, nn


class Maxout(nn.Module):
    """The largest of `pieces` values: ...×(pieces·width) features to ...×width, N×(pieces·C)×H×W channels to N×C×H×W.

    The values of one piece lie side by side. Where several are the largest they share the gradient.

    Source: Goodfellow, Warde-Farley, Mirza, Courville and Bengio, Maxout Networks, 2013.
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"

    def forward(self, values: Tensor) -> Tensor:
        place = 1 if values.dim() == 4 else -1
        return values.unflatten(place, (self.pieces, -1)).amax(place if place == 1 else -2)
