"""A recurrent network over the rows of an image."""

from torch import Tensor

from lightning_modules.networks.recurrent import Recurrent


class RNN(Recurrent):
    """The activation of a product of the row plus one of the state is the new state.

    Source: Elman, Finding Structure in Time, 1990.
    """

    gates = 1

    def last(self, given: tuple[Tensor, ...]) -> Tensor:
        state = self.zeros(given)
        for row in given:
            state = self.activation(row + self.states(state))
        return state
