"""Each schedule is torch's of that meaning, goes on from a checkpoint, and refuses what it cannot do."""

import math

import numpy as np
import pytest
import torch
from test_fit import MLP, TRAINING, VALIDATION, Interrupted, assert_same, half_wrong, train
from test_together import recipe, train_together
from torch import optim
from torch.optim import lr_scheduler

from lightning_modules import names, optimizers
from lightning_modules.errors import InputError
from lightning_modules.networks.stacking import NotStackableError
from lightning_modules.optimizers.schedules import SCHEDULES

STEPS = 40
PLATEAU = {"name": "reduce_on_plateau", "factor": 0.5, "patience": 1}


def sgd(*groups: dict) -> optim.Optimizer:
    groups = groups or ({},)
    return optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], **group} for group in groups], lr=0.2)


def rates(optimizer: optim.Optimizer, scheduler: lr_scheduler.LRScheduler, steps: int = STEPS) -> list[float]:
    """The learning rate of each step."""
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def ours(given: str | dict, steps: int = STEPS) -> list[float]:
    optimizer = sgd()
    return rates(optimizer, optimizers.schedule(given, optimizer, steps), steps)


def torchs(make, steps: int = STEPS) -> list[float]:
    optimizer = sgd()
    return rates(optimizer, make(optimizer), steps)


def warm(optimizer: optim.Optimizer) -> lr_scheduler.LRScheduler:
    before = lr_scheduler.LinearLR(optimizer, start_factor=1 / 11, total_iters=10)
    after = lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    return lr_scheduler.SequentialLR(optimizer, [before, after], milestones=[10])


SAME = {
    "constant": ("constant", lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0)),
    "linear": ("linear", lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)),
    "cosine": ("cosine", lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, STEPS)),
    "warm-up": ({"name": "cosine", "warmup": 0.25}, warm),
    "step": ({"name": "step", "every": 0.25, "factor": 0.3}, lambda optimizer: lr_scheduler.StepLR(optimizer, 10, 0.3)),
    "one_cycle": ("one_cycle", lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.2, STEPS, cycle_momentum=False)),
    "restarts": (
        {"name": "cosine_restarts", "cycles": 4},
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10),
    ),
}


@pytest.mark.parametrize("which", SAME)
@pytest.mark.filterwarnings("ignore:The epoch parameter in")  # of SequentialLR
def test_a_schedule_is_torchs(which):
    given, make = SAME[which]
    assert ours(given) == pytest.approx(torchs(make), rel=1e-6, abs=1e-9)


def test_all_but_plateaus_are_compared_with_torchs():
    compared = {names.completed(given, names.SCHEDULES)["name"] for given, _ in SAME.values()}
    assert compared == set(SCHEDULES) - {"reduce_on_plateau"}


@pytest.mark.parametrize("given", ["cosine", {"name": "cosine"}, {"name": "cosine", "warmup": 0.0}])
def test_a_cosine_without_warm_up_has_the_bits_that_it_had(given):
    assert ours(given) == [0.2 * (0.5 * (1.0 + math.cos(math.pi * (step / STEPS)))) for step in range(STEPS)]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 1000, 2811])
@pytest.mark.parametrize("name", sorted(SCHEDULES.keys() - {"reduce_on_plateau"}))
def test_a_rate_is_never_zero_nor_above_the_recipes_before_the_end(name, steps):
    """Zero would end the training of groups with `until`."""
    seen = ours(name, steps)
    assert all(0 < rate <= 0.2 * (1 + 1e-9) for rate in seen)
    assert max(seen) > 0.1 or name == "one_cycle"


@pytest.mark.parametrize("steps", [3, 7, 30, 300, 999])
@pytest.mark.parametrize("cycles", [1, 3, 7])
def test_each_cycle_starts_at_the_recipes_rate(steps, cycles):
    seen = ours({"name": "cosine_restarts", "cycles": cycles}, steps * cycles)
    assert seen[::steps] == pytest.approx([0.2] * cycles)


@pytest.mark.parametrize("parts", [3, 7, 10])
def test_a_third_of_the_steps_is_a_third_whatever_the_rounding(parts):
    seen = ours({"name": "step", "every": 1 / parts, "factor": 0.5}, 30 * parts)
    assert seen[::30] == pytest.approx([0.2 * 0.5**part for part in range(parts)])


@pytest.mark.parametrize("sign", [1, -1], ids=["nll", "accuracy"])
def test_a_plateau_is_torchs(sign):
    """Of an accuracy, more is better; it comes with its sign changed."""
    values = [1.0, 0.9, 0.89999, 0.9, 0.95, 0.8, 0.85, 0.84, 0.83, 0.82, 0.81, 0.7, 0.7, 0.7, 0.7, 0.7]
    if sign < 0:
        values = [1.2 - value for value in values]
    one, other = sgd(), sgd()
    scheduler = optimizers.schedule({**PLATEAU, "patience": 2}, one, STEPS)
    theirs = lr_scheduler.ReduceLROnPlateau(other, "min" if sign > 0 else "max", factor=0.5, patience=2)
    seen = set()
    for value in values:
        for _ in range(3):
            one.step()
            scheduler.step()
        before = one.param_groups[0]["lr"]
        assert optimizers.last_rates(scheduler) == [before]
        optimizers.epoch_ended(scheduler, sign * value)
        theirs.step(value)
        assert one.param_groups[0]["lr"] == pytest.approx(other.param_groups[0]["lr"])
        seen.add(one.param_groups[0]["lr"])
    assert len(seen) > 2


def test_a_plateau_lowers_the_rates_of_all_groups_of_which_some_end_early():
    optimizer = sgd({}, {"until": 0.5})
    scheduler = optimizers.schedule({**PLATEAU, "patience": 0}, optimizer, 4)
    optimizer.step()
    scheduler.step()
    for value in (1.0, 2.0, 2.0):
        optimizers.epoch_ended(scheduler, value)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.05])
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0])


def test_others_do_not_go_by_validation():
    optimizer = sgd()
    scheduler = optimizers.schedule("cosine", optimizer, STEPS)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        before = optimizer.param_groups[0]["lr"]
        optimizers.epoch_ended(scheduler, 1.0)
        assert optimizer.param_groups[0]["lr"] == before


def test_a_training_lowers_its_rate_where_validation_gets_no_better_and_says_so():
    fitted = train(MLP | {"schedule": PLATEAU}, training=half_wrong(40), epochs=15)
    best, waited, rate = math.inf, 0, 0.01
    for row in fitted.history:
        assert row["lr"] == pytest.approx(rate)
        if row["validation_nll"] < best * (1 - 1e-4):
            best, waited = row["validation_nll"], 0
        else:
            waited += 1
        if waited > 1:
            rate, waited = rate / 2, 0
    assert rate < 0.01


@pytest.mark.parametrize(
    "given", [PLATEAU, {"name": "cosine", "warmup": 0.3}, "one_cycle", "step", "cosine_restarts"], ids=str
)
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(given, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_modules.fit.SaveLast.SHARE", 1)
    settings = {"training": half_wrong(40), "epochs": 12}
    whole = train(MLP | {"schedule": given}, **settings)
    assert len({row["lr"] for row in whole.history}) > 1

    def report(event: dict) -> None:
        if event["epoch"] == 9 and "row" not in event:
            raise Interrupted

    checkpoint = tmp_path / "replica.ckpt"
    with pytest.raises(Interrupted):
        train(MLP | {"schedule": given}, **settings, checkpoint=checkpoint, report=report)
    assert_same(whole, train(MLP | {"schedule": given}, **settings, checkpoint=checkpoint))


@pytest.mark.parametrize("given", [{"name": "cosine", "warmup": 0.3}, "step", "one_cycle", "cosine_restarts"], ids=str)
def test_networks_that_train_together_share_a_schedule(given):
    together = train_together([recipe(schedule=given)] * 3, training=TRAINING, validation=VALIDATION)
    alone = train(recipe(schedule=given), seed=5)
    assert [row["lr"] for row in together[0].history] == [row["lr"] for row in alone.history]


def test_networks_that_train_together_cannot_wait_for_a_plateau_each():
    with pytest.raises(NotStackableError, match="goes by how well each network does"):
        train_together([recipe(schedule="reduce_on_plateau")] * 3)


BAD = [
    ("cosine", "warmup", 1.0), ("cosine", "warmup", -0.1), ("one_cycle", "warmup", 0.0), ("one_cycle", "warmup", 1.0),
    ("one_cycle", "div_factor", 0.5), ("one_cycle", "final_div_factor", 0), ("step", "every", 0), ("step", "every", 1),
    ("step", "factor", 0.0), ("step", "factor", 1.5), ("cosine_restarts", "cycles", 0),
    ("cosine_restarts", "cycles", 2.5),
    ("reduce_on_plateau", "factor", 0), ("reduce_on_plateau", "patience", -1), ("reduce_on_plateau", "patience", 1.5),
    ("reduce_on_plateau", "threshold", -0.1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key", "value"), BAD)
def test_what_is_out_of_its_range_is_refused(name, key, value):
    with pytest.raises(InputError, match=f"^{key} is {value}, but has to be"):
        optimizers.schedule({"name": name, key: value}, sgd(), STEPS)
    with pytest.raises(InputError, match=f"^{key} is nan"):
        optimizers.schedule({"name": name, key: np.nan}, sgd(), STEPS)


def test_every_hyper_parameter_has_a_range():
    own = {(name, key) for name, keys in names.SCHEDULES.items() for key in keys}
    assert own <= set(names.LIMITS)
    assert {(name, key) for name, key, _ in BAD} == own
