"""The names that params.yaml may use, for readers that must not wait for torch to load.

Tests hold each table to the code that implements it.
"""

ACTIVATIONS = (
    "celu", "elu", "gelu", "hardswish", "identity", "leaky_relu", "mish", "relu", "relu6", "selu", "sigmoid",
    "silu", "softplus", "softsign", "tanh",
)  # fmt: skip

INITIALIZERS = (
    "he_normal", "he_uniform", "lecun_normal", "lecun_uniform", "normal", "ones", "orthogonal", "truncated_normal",
    "uniform", "xavier_normal", "xavier_uniform", "zeros",
)  # fmt: skip

# Each network's own settings and their defaults.
NETWORKS = {
    "mlp": {"hidden": [512, 512, 512]},
    "cnn": {"channels": [64, 64, 128, 128, 128], "hidden": 384},
    "resnet": {"width": 32, "blocks": [2, 2, 2]},
}

# Each optimizer's hyper-parameters beside `lr` and `weight_decay`, which all of them take.
OPTIMIZERS = {
    "adadelta": ("rho", "eps"),
    "adafactor": ("beta2_decay", "eps", "d"),
    "adagrad": ("lr_decay", "initial_accumulator_value", "eps"),
    "adam": ("betas", "eps", "amsgrad"),
    "adamax": ("betas", "eps"),
    "adamw": ("betas", "eps", "amsgrad"),
    "asgd": ("lambd", "alpha", "t0"),
    "momentum": ("momentum", "dampening"),
    "nadam": ("betas", "eps", "momentum_decay", "decoupled_weight_decay"),
    "nag": ("momentum",),
    "radam": ("betas", "eps", "decoupled_weight_decay"),
    "rmsprop": ("alpha", "eps", "momentum", "centered"),
    "rprop": ("etas", "step_sizes"),
    "sgd": ("momentum", "dampening", "nesterov"),
}

SCHEDULES = ("constant", "cosine", "linear")

AUGMENTATIONS = ("flip", "none", "shift", "shift_flip")

VOTES = ("hard_vote", "soft_vote", "weighted_vote")
