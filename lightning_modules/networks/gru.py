"""A network of gated recurrent units over the rows of an image."""

from torch import Tensor

from lightning_modules.networks.recurrent import Recurrent


class GRU(Recurrent):
    """One gate decides how much of the state stays, another how much of it the new part sees.

    As in torch and cuDNN, the latter falls on the product of the state, not on the state before it. The recipe's
    activation, in the published form tanh, is that of the new part.

    Source: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014.
    """

    gates = 3  # reset, update, and what is new

    def last(self, given: tuple[Tensor, ...]) -> Tensor:
        state = self.zeros(given)
        for row in given:
            reset, update, new = row.chunk(3, -1)
            reset_state, update_state, new_state = self.states(state).chunk(3, -1)
            new = self.activation(new + (reset + reset_state).sigmoid() * new_state)
            state = new + (update + update_state).sigmoid() * (state - new)
        return state
