"""A network with long short-term memory over the rows of an image."""

from torch import Tensor

from lightning_modules.networks.recurrent import Recurrent

# Added to what the forget gate's bias learns, which starts at zero like all biases: a gate that starts half closed
# forgets the first rows before anything is learned of them (Jozefowicz et al., An Empirical Exploration of Recurrent
# Network Architectures, 2015).
FORGET_BIAS = 1.0


class LSTM(Recurrent):
    """A cell keeps a memory beside its state. Gates decide what enters it, what stays and what is shown.

    The recipe's activation, in the published form tanh, is that of what enters and of what is shown.

    Source: Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; with the forget gate of Gers, Schmidhuber and
    Cummins, Learning to Forget, 2000.
    """

    gates = 4  # input, forget, output, and what enters

    def last(self, given: tuple[Tensor, ...]) -> Tensor:
        state = memory = self.zeros(given)
        for row in given:
            entering, kept, shown, new = (row + self.states(state)).chunk(4, -1)
            memory = (kept + FORGET_BIAS).sigmoid() * memory + entering.sigmoid() * self.activation(new)
            state = shown.sigmoid() * self.activation(memory)
        return state
