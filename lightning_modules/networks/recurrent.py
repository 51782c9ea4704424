"""Recurrent networks, to which an image is the sequence of its rows."""

from torch import Tensor, nn

from lightning_modules.networks.interface import Activation, Dropouts, Shape
from lightning_modules.networks.layers import dropouts, in_parts

# Added to what the forget gate's bias learns, which starts at zero like all biases: a gate that starts half closed
# forgets the first rows before anything is learned of them (Jozefowicz et al., An Empirical Exploration of Recurrent
# Network Architectures, 2015).
FORGET_BIAS = 1.0


class Recurrent(nn.Module):
    """Reads an image row by row, each row a step in time; the last hidden state, after dropout, gives the logits.

    The cells are plain operations, so that any activation may be in them and networks may be stacked. What the steps
    need of the rows alone is one product for all of them.

    Args:
        hidden: units of the state.
    """

    gates: int  # vectors that a step computes from the row and the state

    def __init__(self, shape: Shape, classes: int, activation: Activation, dropout: Dropouts, hidden: int) -> None:
        super().__init__()
        self.inputs = in_parts(nn.Linear(shape[1] * shape[2], self.gates * hidden), self.gates)
        self.states = in_parts(nn.Linear(hidden, self.gates * hidden, bias=False), self.gates)
        self.activation = activation()
        [self.dropout] = dropouts(dropout, 1)
        self.head = nn.Linear(hidden, classes)
        self.hidden = hidden

    def forward(self, images: Tensor) -> Tensor:
        # (R×)N×C×H×W to (R×)N×H×(W·C): a view of images in channels_last.
        rows = images.movedim(-3, -1).flatten(-2)
        given = self.inputs(rows.flatten(-3, -2)).unflatten(-2, (-1, rows.shape[-2])).unbind(-2)
        return self.head(self.dropout(self.last(given)))

    def last(self, given: tuple[Tensor, ...]) -> Tensor:
        """The last hidden state, (R×)N×hidden.

        Args:
            given: for each row, what the step needs of it: (R×)N×(gates·hidden).
        """
        raise NotImplementedError

    def zeros(self, given: tuple[Tensor, ...]) -> Tensor:
        """The state before the first row."""
        return given[0].new_zeros(*given[0].shape[:-1], self.hidden)


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
