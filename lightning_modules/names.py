"""The names that params.yaml may use, importable without torch, which takes seconds to load.

Tests hold each table equal to the code that implements it.
"""

from typing import Any

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
    "mish": {},
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
    "focal": {"gamma": 2.0},
    "hinge": {},
    "mae": {},
    "mse": {},
}

# Losses whose target is a distribution over the classes, which label smoothing can spread.
SMOOTHED = ("binary_cross_entropy", "categorical_cross_entropy", "cross_entropy", "mae", "mse")

# What JSON Schema says of hyper-parameters that not every number suits, by the name that has them and their own.
LIMITS: dict[tuple[str, str], dict[str, Any]] = {
    ("focal", "gamma"): {"minimum": 0},
    ("rbm", "batch_size"): {"type": "integer", "minimum": 1},
    ("rbm", "epochs"): {"type": "integer", "minimum": 1},
    ("rbm", "lr"): {"exclusiveMinimum": 0},
}

# Each network's hyper-parameters and their defaults.
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [512, 512, 512]},
    "cnn": {"channels": [64, 64, 128, 128, 128], "hidden": 384},
    "resnet": {"width": 32, "blocks": [2, 2, 2]},
    "airbench": {"widths": [64, 256, 256], "depth": 2},
}

# Networks of fully connected layers alone, whose hidden ones initializer rbm can train.
PRETRAINED = ("mlp",)

# Each optimizer's hyper-parameters and their defaults. All take `lr` and `weight_decay` too.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adadelta": {"rho": 0.9, "eps": 1e-6},
    "adafactor": {"beta2_decay": -0.8, "eps": [None, 1e-3], "d": 1.0},
    "adagrad": {"lr_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10},
    "adam": {"betas": [0.9, 0.999], "eps": 1e-8, "amsgrad": False, "decoupled_weight_decay": False},
    "adamax": {"betas": [0.9, 0.999], "eps": 1e-8},
    "adamw": {"betas": [0.9, 0.999], "eps": 1e-8, "amsgrad": False},
    "asgd": {"lambd": 1e-4, "alpha": 0.75, "t0": 1e6},
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
    "radam": {"betas": [0.9, 0.999], "eps": 1e-8, "decoupled_weight_decay": False},
    "rmsprop": {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False},
    "rprop": {"etas": [0.5, 1.2], "step_sizes": [1e-6, 50.0]},
    "sgd": {"momentum": 0.0, "dampening": 0.0, "nesterov": False},
}

SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "cosine": {},
    "linear": {},
}

AUGMENTATIONS = (
    "altflip", "flip", "none", "nudge_altflip", "shift", "shift_altflip", "shift_altflip_cutout", "shift_flip",
)  # fmt: skip

VOTES = ("hard_vote", "soft_vote", "weighted_vote")

# Test-time views.
VIEWS = ("mirror", "mirror_shift", "none")


def completed(given: str | dict, table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A name and all its hyper-parameters, from a name alone or from a mapping with some of them.

    Raises:
        KeyError: the table does not have the name.
    """
    named = {"name": given} if isinstance(given, str) else dict(given)
    return {"name": named["name"], **table[named["name"]], **named}
