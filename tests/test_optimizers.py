"""Optimizers and schedules by name: what params.yaml may say is what torch takes, and all of them go downhill."""

import inspect

import pytest
import torch

from lightning_modules import names, optimizers
from lightning_modules.errors import InputError
from lightning_modules.optimizers import OPTIMIZERS, SCHEDULES

# What torch adds to the method: how it is computed, not what.
NOT_THE_METHOD = {"params", "lr", "weight_decay", "foreach", "maximize", "capturable", "differentiable", "fused"}

# Sensible for a quadratic of curvatures 1 and 10.
RATES = {
    "adadelta": 10.0, "adafactor": 0.1, "adagrad": 0.5, "adagrad_da": 0.5, "adam": 0.05, "adamax": 0.05, "adamw": 0.05,
    "asgd": 0.05, "ftrl": 0.5, "gradient_descent": 0.05, "lion": 0.02, "momentum": 0.02, "muon": 0.05, "nadam": 0.05,
    "nag": 0.02, "proximal_adagrad": 0.5, "proximal_sgd": 0.05, "radam": 0.05, "rmsprop": 0.02, "rmsprop_tf": 0.02,
    "rprop": 0.05, "sgd": 0.05,
}  # fmt: skip

# Of torch's optimizers those whose usual learning rate is another library's, or ours.
NOT_TORCHS = ("gradient_descent", "momentum", "nag", "rmsprop", "sgd")


def plain(value):
    """As params.yaml would hold it."""
    if isinstance(value, torch.Tensor):
        return value.item()
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def test_the_known_names_are_those_of_the_code():
    assert set(names.OPTIMIZERS) == set(OPTIMIZERS) == set(RATES) == set(names.LEARNING_RATES)
    assert set(names.SCHEDULES) == set(SCHEDULES)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_known_hyper_parameters_and_defaults_are_torchs(name):
    kind, preset = OPTIMIZERS[name]
    signature = {
        key: plain(parameter.default)
        for key, parameter in inspect.signature(kind).parameters.items()
        if key not in NOT_THE_METHOD
    }
    expected = signature | preset
    if kind is torch.optim.SGD and name != "sgd":
        del expected["nesterov"]  # what tells momentum and nag apart
    if name in ("nag", "gradient_descent"):
        del expected["dampening"]  # neither Nesterov's momentum nor none has any
    if name == "gradient_descent":
        del expected["momentum"]
    assert names.OPTIMIZERS[name] == expected


@pytest.mark.parametrize("name", [name for name, (kind, _) in OPTIMIZERS.items() if "torch." in kind.__module__])
def test_a_learning_rate_is_torchs_but_where_the_table_says_whose(name):
    default = plain(inspect.signature(OPTIMIZERS[name][0]).parameters["lr"].default)
    assert (names.LEARNING_RATES[name] == default) == (name not in NOT_TORCHS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_defaults_can_be_given(name):
    parameter = torch.nn.Parameter(torch.ones(2))
    given = optimizers.build({"name": name, "lr": 0.1, "weight_decay": 0.0, **names.OPTIMIZERS[name]}, [parameter])
    short = optimizers.build({"name": name, "lr": 0.1, "weight_decay": 0.0}, [parameter])
    for key, value in short.param_groups[0].items():
        if key != "params":
            assert given.param_groups[0][key] == value


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_downhill(name):
    curvatures = torch.tensor([[1.0, 10.0]])
    place = torch.nn.Parameter(torch.tensor([[1.0, -1.0]]))
    optimizer = optimizers.build({"name": name, "lr": RATES[name], "weight_decay": 0.0}, [place])
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = (curvatures * place.square()).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"rprop"}))
def test_weight_decay_shrinks_what_has_no_gradient(name):
    place = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = optimizers.build({"name": name, "lr": 0.1, "weight_decay": 0.1}, [place])
    for _ in range(3):
        place.grad = torch.zeros(2, 2)
        optimizer.step()
    assert (place.abs() < 1).all()


def test_a_list_of_params_yaml_is_a_tuple_of_torch():
    optimizer = optimizers.build(
        {"name": "adam", "lr": 0.1, "weight_decay": 0.0, "betas": [0.8, 0.9]}, [torch.nn.Parameter(torch.ones(1))]
    )
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "adam", "betas": [0.9, 1.5]},
        {"name": "adam", "betas": [0.9]},
        {"name": "adam", "rho": 0.9},
        {"name": "nag", "momentum": 0.0},
        {"name": "muon", "bias_lr": 0.0},
        {"name": "muon", "momentum": 1.0},
        {"name": "muon", "steps": 2.5},
        {"name": "rmsprop", "alpha": -1.0},
        {"name": "rprop", "weight_decay": 0.1},
        {"name": "rprop", "etas": [1.5, 1.2]},
    ],
    ids=str,
)
def test_what_torch_refuses_is_bad_input_that_names_the_optimizer(settings):
    with pytest.raises(InputError, match=f"optimizer {settings['name']} refuses"):
        optimizers.build({"lr": 0.1, "weight_decay": 0.0, **settings}, [torch.nn.Parameter(torch.ones(1))])


def test_a_group_that_is_trained_for_a_share_ends_there_and_is_frozen():
    early, late = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    groups = [{"params": [late]}, {"params": [early], "until": 0.25}]
    optimizer = optimizers.build({"name": "adam", "lr": 0.1, "weight_decay": 0.0}, groups)
    schedule = optimizers.schedule("linear", optimizer, 8)
    rates, values = [], []
    for _ in range(9):
        optimizers.freeze_ended(optimizer)
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.zero_grad()
        (early.sum() + late.sum()).backward()
        optimizer.step()
        schedule.step()
        assert optimizers.last_rates(schedule) == rates[-1]
        values.append(early.tolist())
    assert [rate for rate, _ in rates] == pytest.approx([0.1 * (8 - step) / 8 for step in range(9)])
    assert [rate for _, rate in rates] == pytest.approx([0.1, 0.05, 0, 0, 0, 0, 0, 0, 0])
    assert values[0] != values[1] == values[-1]
    assert not early.requires_grad
    assert late.requires_grad  # at the very end too: it has no share of its own


def test_a_constant_schedule_ends_for_a_share_too():
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = optimizers.build(
        {"name": "sgd", "lr": 0.1, "weight_decay": 0.0}, [{"params": [parameter], "until": 0.5}]
    )
    schedule = optimizers.schedule("constant", optimizer, 4)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [0.1, 0.1, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "factors"),
    [("constant", [1, 1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25, 0]), ("cosine", [1, 0.8535534, 0.5, 0.1464466, 0])],
)
def test_a_schedule_ends_where_it_should_and_stays_there(name, factors):
    steps = 8
    optimizer = optimizers.build({"name": "sgd", "lr": 0.2, "weight_decay": 0.0}, [torch.nn.Parameter(torch.ones(1))])
    schedule = optimizers.schedule(name, optimizer, steps)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps + 2):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[: steps + 1 : 2] == pytest.approx([0.2 * factor for factor in factors], abs=1e-7)
    assert rates[steps:] == pytest.approx([0.2 * factors[-1]] * 3)
