"""Builds an optimizer by its name. A name means what it means in torch.optim."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import optim

from lightning_modules.errors import InputError
from lightning_modules.optimizers.adagrad_da import AdagradDA
from lightning_modules.optimizers.elementwise import Elementwise
from lightning_modules.optimizers.ftrl import Ftrl
from lightning_modules.optimizers.lion import Lion
from lightning_modules.optimizers.muon import Muon
from lightning_modules.optimizers.proximal_adagrad import ProximalAdagrad
from lightning_modules.optimizers.proximal_sgd import ProximalSGD
from lightning_modules.optimizers.rmsprop_tf import RMSpropTF

OPTIMIZERS: dict[str, tuple[type[optim.Optimizer], dict[str, Any]]] = {
    "adadelta": (optim.Adadelta, {}),
    "adafactor": (optim.Adafactor, {}),
    "adagrad": (optim.Adagrad, {}),
    "adagrad_da": (AdagradDA, {}),
    "adam": (optim.Adam, {}),
    "adamax": (optim.Adamax, {}),
    "adamw": (optim.AdamW, {}),
    "asgd": (optim.ASGD, {}),
    "ftrl": (Ftrl, {}),
    "gradient_descent": (optim.SGD, {}),
    "lion": (Lion, {}),
    "momentum": (optim.SGD, {"momentum": 0.9}),
    "muon": (Muon, {}),
    "nadam": (optim.NAdam, {}),
    "nag": (optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "proximal_adagrad": (ProximalAdagrad, {}),
    "proximal_sgd": (ProximalSGD, {}),
    "radam": (optim.RAdam, {}),
    "rmsprop": (optim.RMSprop, {}),
    "rmsprop_tf": (RMSpropTF, {}),
    "rprop": (optim.Rprop, {}),
    "sgd": (optim.SGD, {}),
}

# Those that take the whole training split as one mini-batch.
FULL_BATCH = ("gradient_descent",)

# Those whose update of a weight is its group's learning rate times a number that depends on no learning rate, of this
# step or earlier ones (nor on other weights): made at a rate of 1, it can be scaled for each network of a stack.
LINEAR = (
    "adadelta", "adagrad", "adam", "adamax", "adamw", "gradient_descent", "lion", "momentum", "nadam", "nag", "radam",
    "rmsprop", "sgd",
)  # fmt: skip

# Those whose groups may have a tensor of learning rates and one of weight decays, see `Elementwise`.
TAKES_TENSORS = tuple(name for name, (kind, _) in OPTIMIZERS.items() if issubclass(kind, Elementwise))


def build(settings: dict, parameters: Iterable[torch.Tensor | dict]) -> optim.Optimizer:
    """Builds the optimizer of a recipe.

    Args:
        settings: the recipe's `optimizer`: name, lr, weight_decay, and hyper-parameters of torch's class.
        parameters: parameters, or groups of them, see `networks.groups`.

    Raises:
        InputError: torch refuses the hyper-parameters.
    """
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    kind, preset = OPTIMIZERS[given.pop("name")]
    accepted = inspect.signature(kind).parameters
    if "weight_decay" not in accepted and not given["weight_decay"]:
        del given["weight_decay"]
    places: list[Any] = list(parameters)
    how: dict[str, Any] = {}
    if kind is optim.ASGD and on_gpu(places):
        how["capturable"] = True  # else each step reads two numbers per parameter back from the GPU and waits for them
    # Fused: one kernel for all parameters instead of a dozen for each. Before torch 2.12 Adagrad has it on CPUs only.
    if "fused" in accepted and not (kind is optim.Adagrad and on_gpu(places)):
        how["fused"] = True
    try:
        return kind(places, **(preset | given | how))
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"optimizer {settings['name']} refuses {given}: {error}") from None


def on_gpu(parameters: list) -> bool:
    first = parameters[0]["params"][0] if isinstance(parameters[0], dict) else parameters[0]
    return first.is_cuda
