"""Builds the network of a recipe, and what a training needs to know of it."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lightning_modules import activations, names
from lightning_modules.errors import InputError
from lightning_modules.initializers import initialize
from lightning_modules.networks.airbench import Airbench
from lightning_modules.networks.cnn import cnn
from lightning_modules.networks.lenet import lenet
from lightning_modules.networks.mlp import mlp
from lightning_modules.networks.recurrent import GRU, LSTM, RNN
from lightning_modules.networks.resnet import resnet
from lightning_modules.networks.shallow import shallow
from lightning_modules.networks.split_merge import split_merge
from lightning_modules.regularization.parameters import is_weight

# Number of training images that `prepare` gives to a network.
PREPARED = 5000

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "shallow": shallow,
    "lenet": lenet,
    "cnn": cnn,
    "resnet": resnet,
    "split_merge": split_merge,
    "rnn": RNN,
    "lstm": LSTM,
    "gru": GRU,
    "airbench": Airbench,
}


def build(recipe: dict, shape: Sequence[int], classes: int, *, each_step: bool = False) -> nn.Module:
    """Builds and initialises the network of a member's recipe, drawing from torch's global generator.

    Args:
        recipe: a member of params.yaml: network (name and hyper-parameters), activation, initializer, dropout.
        shape: height, width and channels of an image.
        classes: number of logits.
        each_step: whether the network gives logits at each step: for `names.RECURRENT` alone.

    Raises:
        InputError: the activation or `each_step` does not fit the network, or dropout has too many or too few rates.
    """
    settings = dict(recipe["network"])
    if wrong := names.misfit("activation", recipe["activation"], settings["name"]):
        raise InputError(wrong)
    name = settings.pop("name")
    if each_step:
        if name not in names.RECURRENT:
            raise InputError(f"network {name} gives no answer at each step: {', '.join(names.RECURRENT)} do")
        settings["each_step"] = True
    network = NETWORKS[name](
        tuple(shape), classes, activations.build(recipe["activation"]), recipe["dropout"], **settings
    )
    initialize(network, recipe["initializer"])
    return network


def prepare(network: nn.Module, first: Callable[[int], Tensor]) -> None:
    """Runs the network's own `prepare` on training images, if it has one. Called once, before training.

    Args:
        first: returns the first N training images, normalised, N×C×H×W; only called if the network needs them.
    """
    if prepared := getattr(network, "prepare", None):
        prepared(first(PREPARED))


def groups(network: nn.Module, decay: str = "all", *, stacked: bool = False) -> list[dict]:
    """The parameter groups for an optimizer: one group, and one more for each parameter that is frozen early, with the
    share of the training after which it is as `until`.

    Args:
        decay: "weights" puts biases and normalisation into groups of their own, without weight decay.
        stacked: whether parameters carry a first dimension for the networks.
    """
    ending: dict[nn.Parameter, float] = getattr(network, "ending", dict)()
    rest = [parameter for parameter in network.parameters() if parameter not in ending]
    found: list[dict] = [
        {"params": rest},
        *({"params": [parameter], "until": until} for parameter, until in ending.items()),
    ]
    if decay == "all":
        return found
    split: list[dict] = []
    for group in found:
        kinds: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in group["params"]:
            kinds[is_weight(parameter, stacked=stacked)].append(parameter)
        split += [group | {"params": kinds[True]}, group | {"params": kinds[False], "weight_decay": 0.0}]
    return [group for group in split if group["params"]]
