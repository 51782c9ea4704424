"""Recurrent networks, to which an image is the sequence of its rows, or of its columns."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_modules.networks.interface import Activation, Dropouts, Shape
from lightning_modules.networks.layers import dropouts, in_parts

# Added to what the forget gate's bias learns, which starts at zero like all biases: a gate that starts half closed
# forgets the first rows before anything is learned of them (Jozefowicz et al., An Empirical Exploration of Recurrent
# Network Architectures, 2015).
FORGET_BIAS = 1.0


class Recurrent(nn.Module):
    """Reads an image row by row, each row a step in time; the last hidden state, after dropout, gives the logits.

    With `each_step` it reads column by column, from the left, and each state gives logits: N×columns×classes.

    The cells are plain operations, so that any activation may be in them and networks may be stacked. What the steps
    need of the rows alone is one product for all of them.

    Args:
        hidden: units of the state.
    """

    gates: int  # vectors that a step computes from the row and the state

    def __init__(
        self, shape: Shape, classes: int, activation: Activation, dropout: Dropouts, hidden: int,
        each_step: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.each_step = each_step
        across = shape[0] if each_step else shape[1]
        self.inputs = in_parts(nn.Linear(across * shape[2], self.gates * hidden), self.gates)
        self.states = in_parts(nn.Linear(hidden, self.gates * hidden, bias=False), self.gates)
        self.activation = activation()
        [self.dropout] = dropouts(dropout, 1)
        self.head = nn.Linear(hidden, classes)
        self.hidden = hidden

    def forward(self, images: Tensor) -> Tensor:
        # (R×)N×C×H×W to (R×)N×H×(W·C): a view of images in channels_last.
        rows = (images.transpose(-2, -1) if self.each_step else images).movedim(-3, -1).flatten(-2)
        steps = rows.shape[-2]
        given = self.inputs(rows.flatten(-3, -2)).unflatten(-2, (-1, steps)).unbind(-2)
        states = list(self.read(given))
        if not self.each_step:
            return self.head(self.dropout(states[-1]))
        all_of_them = self.dropout(torch.stack(states, -2).flatten(-2)).unflatten(-1, (steps, self.hidden))
        return self.head(all_of_them.flatten(-3, -2)).unflatten(-2, (-1, steps))

    def read(self, given: tuple[Tensor, ...]) -> Iterator[Tensor]:
        """The hidden states after each row, (R×)N×hidden.

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

    def read(self, given: tuple[Tensor, ...]) -> Iterator[Tensor]:
        state = self.zeros(given)
        for row in given:
            state = self.activation(row + self.states(state))
            yield state


class LSTM(Recurrent):
    """A cell keeps a memory beside its state. Gates decide what enters it, what stays and what is shown.

    The recipe's activation, in the published form tanh, is that of what enters and of what is shown.

    Source: Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; with the forget gate of Gers, Schmidhuber and
    Cummins, Learning to Forget, 2000.
    """

    gates = 4  # input, forget, output, and what enters

    def read(self, given: tuple[Tensor, ...]) -> Iterator[Tensor]:
        state = memory = self.zeros(given)
        for row in given:
            entering, kept, shown, new = (row + self.states(state)).chunk(4, -1)
            memory = (kept + FORGET_BIAS).sigmoid() * memory + entering.sigmoid() * self.activation(new)
            state = shown.sigmoid() * self.activation(memory)
            yield state


class GRU(Recurrent):
    """One gate decides how much of the state stays, another how much of it the new part sees.

    As in torch and cuDNN, the latter falls on the product of the state, not on the state before it. The recipe's
    activation, in the published form tanh, is that of the new part.

    Source: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014.
    """

    gates = 3  # reset, update, and what is new

    def read(self, given: tuple[Tensor, ...]) -> Iterator[Tensor]:
        state = self.zeros(given)
        for row in given:
            reset, update, new = row.chunk(3, -1)
            reset_state, update_state, new_state = self.states(state).chunk(3, -1)
            new = self.activation(new + (reset + reset_state).sigmoid() * new_state)
            state = new + (update + update_state).sigmoid() * (state - new)
            yield state
