"""The names that params.yaml may use, importable without torch, which takes seconds to load.

Tests hold each table equal to the code that implements it.
"""

import operator
from collections.abc import Mapping
from typing import Any

from lightning_modules.errors import InputError

# A member's `regularization`, as it is unless params.yaml sets it: none.
REGULARIZATION: dict[str, Any] = {
    "l1": 0.0,
    "l2": 0.0,
    "max_norm": None,
    "clip_norm": None,
    "clip_value": None,
    "mixup": 0.0,
    "cutout": 0.0,
    "decay": "all",
}

# Values that a member has unless params.yaml sets them.
DEFAULTS: dict[str, Any] = {
    "activation": "relu",
    "loss": "cross_entropy",
    "initializer": "he_normal",
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "regularization": REGULARIZATION,
    "schedule": "constant",
    "test_time_views": "none",
    "replicas": 1,
}

# Each activation's, initializer's, loss's and schedule's own hyper-parameters and their defaults. A name without any is
# written as a string, one with some as a mapping, such as {name: prelu, init: 0.25}, or by its name alone for the
# defaults.
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "celu": {},
    "elu": {},
    "gelu": {},
    "hardswish": {},
    "identity": {},
    "leaky_relu": {},
    "maxout": {"pieces": 2},
    "mish": {},
    "prelu": {"init": 0.25},
    "relu": {},
    "relu6": {},
    "selu": {},
    "sigmoid": {},
    "silu": {},
    "softplus": {},
    "softsign": {},
    "tanh": {},
}

INITIALIZERS: dict[str, dict[str, Any]] = {
    "constant": {"value": 0.0},
    "dirac": {},
    "he_normal": {},
    "he_uniform": {},
    "lecun_normal": {},
    "lecun_uniform": {},
    "normal": {},
    "ones": {},
    "orthogonal": {},
    "rbm": {"epochs": 10, "lr": 0.1, "batch_size": 20},
    "truncated_normal": {},
    "uniform": {},
    "xavier_normal": {},
    "xavier_uniform": {},
    "zeros": {},
}

LOSSES: dict[str, dict[str, Any]] = {
    "binary_cross_entropy": {},
    "categorical_cross_entropy": {},
    "cross_entropy": {},
    "ctc": {},
    "focal": {"gamma": 2.0},
    "hinge": {},
    "mae": {},
    "mse": {},
}

# What networks learn, and the losses that fit it, the default first: a class, a number, or a sequence of classes.
TASKS: dict[str, tuple[str, ...]] = {
    "classification": (
        "cross_entropy", "binary_cross_entropy", "categorical_cross_entropy", "focal", "hinge", "mae", "mse",
    ),
    "regression": ("mse", "mae"),
    "sequence": ("ctc",),
}  # fmt: skip

# Losses whose target is a distribution over the classes, which label smoothing can spread.
SMOOTHED = ("binary_cross_entropy", "categorical_cross_entropy", "cross_entropy", "mae", "mse")

OPEN_SHARE = {"exclusiveMinimum": 0, "exclusiveMaximum": 1}
FACTOR = {"exclusiveMinimum": 0, "maximum": 1}
# What JSON Schema says of hyper-parameters that not every number suits, by the name that has them and their own.
LIMITS: dict[tuple[str, str], dict[str, Any]] = {
    ("cosine", "warmup"): {"minimum": 0, "exclusiveMaximum": 1},
    ("cosine_restarts", "cycles"): {"type": "integer", "minimum": 1},
    ("focal", "gamma"): {"minimum": 0},
    ("greedy", "rounds"): {"type": "integer", "minimum": 1},
    ("maxout", "pieces"): {"type": "integer", "minimum": 2},
    ("one_cycle", "div_factor"): {"minimum": 1},
    ("one_cycle", "final_div_factor"): {"minimum": 1},
    ("one_cycle", "warmup"): OPEN_SHARE,
    ("rbm", "batch_size"): {"type": "integer", "minimum": 1},
    ("rbm", "epochs"): {"type": "integer", "minimum": 1},
    ("rbm", "lr"): {"exclusiveMinimum": 0},
    ("reduce_on_plateau", "factor"): FACTOR,
    ("reduce_on_plateau", "patience"): {"type": "integer", "minimum": 0},
    ("reduce_on_plateau", "threshold"): {"minimum": 0, "exclusiveMaximum": 1},
    ("stacking", "c"): {"exclusiveMinimum": 0},
    ("stacking", "hidden"): {"type": "integer", "minimum": 0},
    ("step", "every"): OPEN_SHARE,
    ("step", "factor"): FACTOR,
}

# What each limit asks for, and its words.
FITS = {
    "minimum": (operator.ge, "at least"),
    "exclusiveMinimum": (operator.gt, "greater than"),
    "maximum": (operator.le, "at most"),
    "exclusiveMaximum": (operator.lt, "less than"),
}

# Lists of sizes that may have any number of entries: of layers, and of stages.
ANY_NUMBER = ("blocks", "hidden")

# Each network's hyper-parameters and their defaults.
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [512, 512, 512], "batch_norm": False},
    "shallow": {"hidden": 128},
    "lenet": {"channels": [6, 16], "hidden": [120, 84], "batch_norm": False},
    "cnn": {"channels": [64, 64, 128, 128, 128], "hidden": 384, "batch_norm": False},
    "resnet": {"width": 32, "blocks": [2, 2, 2], "skips": True, "batch_norm": True},
    "split_merge": {"widths": [16, 32, 64], "batch_norm": False},
    "rnn": {"hidden": 128},
    "lstm": {"hidden": 128},
    "gru": {"hidden": 128},
    "airbench": {"widths": [64, 256, 256], "depth": 2},
}
RECURRENT = ("rnn", "lstm", "gru")
# Tasks that only some networks can do: those that give an answer at each step.
ONLY_BY: dict[str, tuple[str, ...]] = {"sequence": RECURRENT}
# The activation of a recurrent network's cells unless params.yaml sets it: the published one.
RECURRENT_ACTIVATION = "tanh"

# Names that only some networks can have: these networks, and why others cannot.
ONLY_IN: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    "activation": {
        "maxout": (
            ("cnn", "lenet", "mlp", "shallow", "split_merge"),
            "it takes several inputs for each output, from a layer before it that is made wider",
        )
    },
    "initializer": {
        "dirac": (
            ("airbench", "cnn", "lenet", "resnet", "split_merge"),
            "it lets convolutions hand their inputs on, and there is none",
        ),
        "rbm": (
            ("mlp", "shallow"),
            "it trains layers that are fully connected, one on what the one before makes, and there are others",
        ),
    },
}

# Each optimizer's hyper-parameters and their defaults. All take `lr` and `weight_decay` too.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adadelta": {"rho": 0.9, "eps": 1e-6},
    "adafactor": {"beta2_decay": -0.8, "eps": [None, 1e-3], "d": 1.0},
    "adagrad": {"lr_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10},
    "adagrad_da": {"initial_accumulator_value": 0.0, "l1": 0.0, "l2": 0.0, "anchor": "init"},
    "adam": {"betas": [0.9, 0.999], "eps": 1e-8, "amsgrad": False, "decoupled_weight_decay": False},
    "adamax": {"betas": [0.9, 0.999], "eps": 1e-8},
    "adamw": {"betas": [0.9, 0.999], "eps": 1e-8, "amsgrad": False},
    "asgd": {"lambd": 1e-4, "alpha": 0.75, "t0": 1e6},
    "ftrl": {"lr_power": -0.5, "initial_accumulator_value": 0.0, "l1": 0.0, "l2": 0.0},
    "gradient_descent": {},
    "lion": {"betas": [0.9, 0.99]},
    "momentum": {"momentum": 0.9, "dampening": 0.0},
    "muon": {
        "momentum": 0.6,
        "sgd_lr": 0.02,
        "bias_lr": 0.02,
        "sgd_momentum": 0.85,
        "steps": 3,
        "normalize": True,
    },
    "nadam": {"betas": [0.9, 0.999], "eps": 1e-8, "momentum_decay": 4e-3, "decoupled_weight_decay": False},
    "nag": {"momentum": 0.9},
    "proximal_adagrad": {"initial_accumulator_value": 0.0, "l1": 0.0, "l2": 0.0},
    "proximal_sgd": {"l1": 0.0, "l2": 0.0},
    "radam": {"betas": [0.9, 0.999], "eps": 1e-8, "decoupled_weight_decay": False},
    "rmsprop": {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False},
    "rmsprop_tf": {"alpha": 0.9, "eps": 1e-10, "momentum": 0.0},
    "rprop": {"etas": [0.5, 1.2], "step_sizes": [1e-6, 50.0]},
    "sgd": {"momentum": 0.0, "dampening": 0.0, "nesterov": False},
}

# The values of each hyper-parameter that is a string.
CHOICES: dict[str, tuple[str, ...]] = {
    "anchor": ("init", "zero"),
}

SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "cosine": {"warmup": 0.0},
    "cosine_restarts": {"cycles": 3},
    "linear": {},
    "one_cycle": {"warmup": 0.3, "div_factor": 25.0, "final_div_factor": 1e4},
    "reduce_on_plateau": {"factor": 0.1, "patience": 3, "threshold": 1e-4},
    "step": {"every": 0.4, "factor": 0.1},
}

AUGMENTATIONS = (
    "altflip", "flip", "none", "nudge_altflip", "shift", "shift_altflip", "shift_altflip_cutout", "shift_flip",
)  # fmt: skip

# Each ensemble method's options and their defaults. `temperature`: each network's is fitted before they are combined.
ENSEMBLES: dict[str, dict[str, Any]] = {
    "borda_count": {},
    "geometric_mean": {"temperature": False},
    "greedy": {"rounds": 50, "temperature": False},
    "hard_vote": {},
    "soft_vote": {"temperature": False},
    "stacking": {"c": 1.0, "hidden": 0, "temperature": False},
    "super_learner": {"temperature": False},
    "weighted_vote": {"temperature": False},
}
# Those that each task has: of numbers soft_vote is the mean, of sequences it is that of each step's probabilities.
ENSEMBLES_OF: dict[str, tuple[str, ...]] = {
    "classification": tuple(ENSEMBLES),
    "regression": ("soft_vote", "weighted_vote"),
    "sequence": ("soft_vote",),
}

# Test-time views.
VIEWS = ("mirror", "mirror_shift", "none")


# Each optimizer's learning rate unless a study sets it, and around which studies look for the best: torch's default,
# but where a line says whose it is.
LEARNING_RATES = {
    "adadelta": 1.0,
    "adafactor": 0.01,
    "adagrad": 0.01,
    "adagrad_da": 0.01,  # Adagrad's
    "adam": 0.001,
    "adamax": 0.002,
    "adamw": 0.001,
    "asgd": 0.01,
    "ftrl": 0.1,  # ours: libraries do not agree
    "gradient_descent": 0.1,  # ours: larger than that of SGD, which makes many steps an epoch
    "lion": 0.0001,  # its authors' program's
    "momentum": 0.01,  # Keras's
    "muon": 0.02,  # its authors' program's
    "nadam": 0.002,
    "nag": 0.01,  # Keras's
    "proximal_adagrad": 0.01,  # Adagrad's
    "proximal_sgd": 0.01,  # that of SGD
    "radam": 0.001,
    "rmsprop": 0.001,  # Keras's
    "rmsprop_tf": 0.001,  # Keras's
    "rprop": 0.01,
    "sgd": 0.01,  # Keras's
}


def completed(given: str | dict, table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A name and all its hyper-parameters, from a name alone or from a mapping with some of them.

    Raises:
        KeyError: the table does not have the name.
    """
    named = {"name": given} if isinstance(given, str) else dict(given)
    return {"name": named["name"], **table[named["name"]], **named}


def name_of(given: str | dict) -> str:
    """The name, of a name alone or of a mapping with its hyper-parameters."""
    return given if isinstance(given, str) else given["name"]


def label(given: str | dict, table: dict[str, dict[str, Any]]) -> str:
    """A name with those of its hyper-parameters that are not the defaults, such as greedy(rounds=100) or
    soft_vote(temperature)."""
    settings = completed(given, table)
    name = settings.pop("name")
    own = [key if value is True else f"{key}={value:g}" for key, value in settings.items() if value != table[name][key]]
    return f"{name}({', '.join(own)})" if own else name


def misfit(kind: str, given: str | dict, network: str) -> str | None:
    """Why an activation or initializer does not fit a network, in a sentence; None if it does.

    Args:
        kind: a key of `ONLY_IN`.
        given: a name, or a mapping with its hyper-parameters.
    """
    name = name_of(given)
    fitting, reason = ONLY_IN[kind].get(name, ((network,), ""))
    if network in fitting:
        return None
    return f"{kind} {name} does not fit network {network}: {reason}. It fits {', '.join(fitting)}"


def task_of(card: Mapping[str, Any]) -> str:
    """The task of a dataset's card, or a member's, of which cards of older versions say nothing."""
    return card.get("task", "classification")


def unfit(task: str, recipe: dict[str, Any]) -> str | None:
    """Why a recipe does not fit a task, in a sentence; None if it does.

    Args:
        task: a key of `TASKS`.
        recipe: with network, loss and label_smoothing, and test_time_views unless there are none.
    """
    loss, network = name_of(recipe["loss"]), name_of(recipe["network"])
    if loss not in TASKS[task]:
        return f"loss {loss} does not fit task {task}: it takes {' or '.join(TASKS[task])}"
    if network not in ONLY_BY.get(task, (network,)):
        return f"network {network} does not fit task {task}: it takes {' or '.join(ONLY_BY[task])}"
    if task != "classification" and recipe["label_smoothing"]:
        return f"label_smoothing spreads a target over classes, and task {task} has no such target: set it to 0"
    if task == "sequence" and recipe.get("test_time_views", "none") != "none":
        return f"test_time_views {recipe['test_time_views']} mirrors images, and a mirrored sequence runs backwards"
    return None


def dropouts(network: dict[str, Any]) -> int:
    """Number of layers with dropout: one after each hidden layer where `hidden` lists several, else one."""
    hidden = network.get("hidden")
    return len(hidden) if isinstance(hidden, list) else 1


def within(name: str, key: str, value: Any) -> Any:
    """A hyper-parameter's value, which has to be within its `LIMITS`; as a whole number where they ask for one.

    Raises:
        InputError: it is not.
    """
    limits = LIMITS.get((name, key), {})
    for limit, (fits, words) in FITS.items():
        if limit in limits and not fits(value, limits[limit]):
            raise InputError(f"{key} is {value}, but has to be {words} {limits[limit]}")
    if limits.get("type") == "integer":
        if value != int(value):
            raise InputError(f"{key} is {value}, but has to be a whole number")
        return int(value)
    return value
