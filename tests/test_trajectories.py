"""The optimizers walk where TensorFlow's and Keras's own did, from hyper-parameters that mean the same."""

import json
from pathlib import Path

import pytest
import torch

from lightning_modules import optimizers

KEPT = json.loads(Path(__file__).with_name("trajectories.json").read_text(encoding="utf-8"))
A, B, START = (torch.tensor(KEPT[key]) for key in ("a", "b", "start"))

# The original, and what reproduces it; `lr` is 0.02 but for Adadelta.
SAME = [
    ("tensorflow", "GradientDescentOptimizer", {"name": "sgd"}),
    ("tensorflow", "GradientDescentOptimizer", {"name": "gradient_descent"}),
    ("tensorflow", "MomentumOptimizer", {"name": "momentum"}),
    ("tensorflow", "MomentumOptimizer_nesterov", {"name": "nag"}),
    ("tensorflow", "AdagradOptimizer", {"name": "adagrad", "initial_accumulator_value": 0.1, "eps": 0.0}),
    ("tensorflow", "AdagradOptimizer", {"name": "proximal_adagrad", "initial_accumulator_value": 0.1}),
    ("tensorflow", "AdadeltaOptimizer", {"name": "adadelta", "lr": 1.0, "rho": 0.95}),
    (
        "tensorflow", "AdagradDAOptimizer",
        {"name": "adagrad_da", "initial_accumulator_value": 0.1, "anchor": "zero"},
    ),
    (
        "tensorflow", "AdagradDAOptimizer_l1_l2",
        {"name": "adagrad_da", "initial_accumulator_value": 0.1, "anchor": "zero", "l1": 0.01, "l2": 0.02},
    ),
    ("tensorflow", "AdamOptimizer", {"name": "adam"}),
    ("tensorflow", "FtrlOptimizer", {"name": "ftrl", "initial_accumulator_value": 0.1}),
    (
        "tensorflow", "FtrlOptimizer_l1_l2",
        {"name": "ftrl", "initial_accumulator_value": 0.1, "l1": 0.05, "l2": 0.1},
    ),
    ("tensorflow", "ProximalGradientDescentOptimizer", {"name": "proximal_sgd", "l1": 0.05, "l2": 0.1}),
    (
        "tensorflow", "ProximalAdagradOptimizer",
        {"name": "proximal_adagrad", "initial_accumulator_value": 0.1, "l1": 0.05, "l2": 0.1},
    ),
    ("tensorflow", "RMSPropOptimizer", {"name": "rmsprop_tf"}),
    ("tensorflow", "RMSPropOptimizer_momentum", {"name": "rmsprop_tf", "momentum": 0.5}),
    ("keras", "SGD_nesterov", {"name": "nag"}),
    ("keras", "Adamax", {"name": "adamax", "eps": 1e-7}),
    ("keras", "Nadam", {"name": "nadam", "momentum_decay": 1.0, "eps": 1e-7}),
    ("keras", "Adam", {"name": "adam", "eps": 1e-7}),
    ("keras", "Ftrl", {"name": "ftrl", "initial_accumulator_value": 0.1}),
    ("keras", "RMSprop", {"name": "rmsprop", "alpha": 0.9, "eps": 1e-7}),
    ("keras", "Adagrad", {"name": "adagrad", "initial_accumulator_value": 0.1, "eps": 1e-7}),
    ("keras", "Adadelta", {"name": "adadelta", "lr": 1.0, "rho": 0.95, "eps": 1e-7}),
]  # fmt: skip


def walk(settings: dict, steps: int) -> torch.Tensor:
    """The places after 0, 1, ... steps."""
    place = torch.nn.Parameter(START.clone())
    optimizer = optimizers.build({"lr": 0.02, "weight_decay": 0.0, **settings}, [place])
    places = [place.detach().clone()]
    for _ in range(steps):
        place.grad = (A * place - B).detach()
        optimizer.step()
        places.append(place.detach().clone())
    return torch.stack(places)


@pytest.mark.parametrize(("whose", "original", "settings"), SAME, ids=lambda value: str(value))
def test_an_optimizer_walks_where_the_original_did(whose, original, settings):
    kept = KEPT[whose][original]
    assert kept["hyperparameters"]["learning_rate"] == settings.get("lr", 0.02)
    expected = torch.tensor(kept["trajectory"])
    assert len(expected) == 41
    assert (walk(settings, 40) - expected).abs().max() < 1e-4


def test_each_original_is_compared():
    compared = {(whose, original) for whose, original, _ in SAME}
    assert compared == {(whose, original) for whose in ("tensorflow", "keras") for original in KEPT[whose]}


@pytest.mark.parametrize(
    ("original", "settings"),
    [
        ("FtrlOptimizer", {"name": "ftrl"}),
        ("AdagradDAOptimizer", {"name": "adagrad_da", "initial_accumulator_value": 0.1}),
        ("RMSPropOptimizer", {"name": "rmsprop", "alpha": 0.9, "eps": 1e-10}),
    ],
)
def test_without_the_original_behaviour_it_walks_elsewhere(original, settings):
    expected = torch.tensor(KEPT["tensorflow"][original]["trajectory"])
    assert not (walk(settings, 40) - expected).abs().max() < 1e-2
