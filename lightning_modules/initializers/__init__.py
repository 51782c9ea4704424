"""Initial values of weights by name. Biases start at zero, normalisation layers at the identity."""

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import init

from lightning_modules import names
from lightning_modules.images import Images
from lightning_modules.initializers import rbm

# 0.8796..., the standard deviation of a standard normal distribution cut at ±2: sqrt(1 - 4 pdf(2) / (2 cdf(2) - 1)).
UNCUT = 0.05 / 0.87962566103423978


def lecun_normal(weight: Tensor) -> Tensor:
    """Variance 1 / fan-in: LeCun et al., Efficient BackProp, 1998. The initializer for selu."""
    return init.kaiming_normal_(weight, nonlinearity="linear")


def lecun_uniform(weight: Tensor) -> Tensor:
    return init.kaiming_uniform_(weight, nonlinearity="linear")


def truncated_normal(weight: Tensor) -> Tensor:
    """A normal distribution cut at two standard deviations, with a standard deviation of 0.05 after the cut.

    The cut takes 12 % of the deviation away, so it is 0.05 / 0.8796 before. Keras's VarianceScaling corrects for the
    cut in the same way; its TruncatedNormal does not, and ends at 0.044.
    """
    return init.trunc_normal_(weight, std=UNCUT, a=-2 * UNCUT, b=2 * UNCUT)


def constant(weight: Tensor, value: float) -> Tensor:
    return init.constant_(weight, value)


def dirac(weight: Tensor) -> Tensor:
    """A convolution's first outputs are its inputs, unchanged. Its other outputs, and linear layers, have torch's
    default, uniform with variance 1 / (3 fan-in).

    Source: Zagoruyko and Komodakis, DiracNets, 2017; partial as in Jordan, arXiv:2404.00498, 2024.
    """
    init.kaiming_uniform_(weight, a=math.sqrt(5))
    if weight.ndim > 2:
        init.dirac_(weight.detach()[: weight.shape[1]])
    return weight


# By what fills one weight. `rbm` is more than that.
INITIALIZERS: dict[str, Callable[..., Tensor]] = {
    "constant": constant,
    "dirac": dirac,
    "he_normal": partial(init.kaiming_normal_, nonlinearity="relu"),  # He et al., 2015
    "he_uniform": partial(init.kaiming_uniform_, nonlinearity="relu"),
    "lecun_normal": lecun_normal,
    "lecun_uniform": lecun_uniform,
    "normal": partial(init.normal_, std=0.05),  # Keras's RandomNormal
    "ones": init.ones_,
    "orthogonal": partial(init.orthogonal_, gain=math.sqrt(2)),  # Saxe et al., 2014
    "truncated_normal": truncated_normal,
    "uniform": partial(init.uniform_, a=-0.05, b=0.05),  # Keras's RandomUniform
    "xavier_normal": init.xavier_normal_,  # Glorot and Bengio, 2010
    "xavier_uniform": init.xavier_uniform_,
    "zeros": init.zeros_,
}


def initialize(network: nn.Module, given: str | dict) -> None:
    """Sets the weights of every linear and convolutional layer in place, drawing from torch's global generator.

    Args:
        given: a recipe's `initializer`: a name, or a mapping with its hyper-parameters.

    Raises:
        InputError: the initializer does not fit the network.
    """
    settings = names.completed(given, names.INITIALIZERS)
    name = settings.pop("name")
    if name == "rbm":
        rbm.begin(network)
        return
    fill = partial(INITIALIZERS[name], **settings)
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            # Where a layer is several in one, of maxout or gates, each has the fan-in and fan-out of its own part.
            for part in layer.weight.detach().chunk(getattr(layer, "parts", 1)):
                fill(part)
            if layer.bias is not None:
                init.zeros_(layer.bias)


def pretrain(state: dict[str, Tensor], given: str | dict, images: Images, seed: int) -> None:
    """What an initializer does that needs training images, in place: `rbm` alone does anything, see `rbm.pretrain`.

    Args:
        state: a network's state_dict.
        given: a recipe's `initializer`.
        images: the training split.
        seed: of all that is drawn.
    """
    settings = names.completed(given, names.INITIALIZERS)
    if settings.pop("name") == "rbm":
        rbm.pretrain(state, images, seed, **settings)
