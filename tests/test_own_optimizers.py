"""The optimizers that are written here: what their names promise beyond the originals' trajectories."""

import copy
import math

import numpy as np
import pytest
import torch

from lightning_modules import optimizers
from lightning_modules.errors import InputError
from lightning_modules.names import OPTIMIZERS
from lightning_modules.optimizers.building import LINEAR, TAKES_TENSORS
from lightning_modules.optimizers.ftrl import Ftrl
from lightning_modules.optimizers.proximal_adagrad import ProximalAdagrad

PROXIMAL = ("adagrad_da", "ftrl", "proximal_adagrad", "proximal_sgd")


def parameters(seed: int = 0, *first: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*first, *shape, generator=generator)) for shape in ((3, 4), (3,), (2, 3))]


def give_gradients(places: list[torch.nn.Parameter], seed: int, size: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)
    for place in places:
        place.grad = size * torch.randn(place.shape, generator=generator)


def walked(settings: dict, steps: int = 12, rates=None, size: float = 1.0) -> list[torch.Tensor]:
    """Where the parameters end after steps with random gradients. `rates`: a learning rate for each step."""
    places = parameters()
    optimizer = optimizers.build({"lr": 0.1, "weight_decay": 0.0, **settings}, places)
    for step in range(steps):
        give_gradients(places, step, size)
        if rates:
            optimizer.param_groups[0]["lr"] = rates[step]
        optimizer.step()
    return [place.detach() for place in places]


def assert_close(first: list[torch.Tensor], second: list[torch.Tensor], **tolerance) -> None:
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("name", PROXIMAL)
def test_a_strong_l1_gives_zeros_exactly_and_no_l1_none(name):
    sparse = torch.cat([place.flatten() for place in walked({"name": name, "l1": 2.0})])
    assert (sparse == 0).any()
    dense = torch.cat([place.flatten() for place in walked({"name": name})])
    assert (dense != 0).all()


@pytest.mark.parametrize("name", PROXIMAL)
def test_l2_shrinks(name):
    plain, shrunk = walked({"name": name}), walked({"name": name, "l2": 1.0})
    assert sum(place.square().sum() for place in shrunk) < sum(place.square().sum() for place in plain)


@pytest.mark.parametrize("rates", [None, [0.1 * (12 - step) / 12 for step in range(12)]], ids=["constant", "linear"])
@pytest.mark.parametrize("name", ["ftrl", "proximal_adagrad"])
def test_without_l1_and_l2_it_is_adagrad(name, rates):
    assert_close(walked({"name": name}, rates=rates), walked({"name": "adagrad"}, rates=rates))


@pytest.mark.parametrize(
    ("general", "special"),
    [
        ({"name": "momentum", "momentum": 0.0}, {"name": "sgd"}),
        ({"name": "proximal_sgd"}, {"name": "sgd"}),
        ({"name": "gradient_descent"}, {"name": "sgd"}),
        ({"name": "adamw"}, {"name": "adam"}),
    ],
    ids=str,
)
def test_a_general_case_contains_its_special_case(general, special):
    assert_close(walked(general), walked(special))


@pytest.mark.parametrize("name", ["ftrl", "proximal_adagrad"])
def test_the_short_way_without_l1_and_l2_is_the_long_one(name):
    """An L1 so small that it cannot be seen takes the long way."""
    assert_close(walked({"name": name}), walked({"name": name, "l1": 1e-30}))


def mcmahan(start: np.ndarray, gradients: list[np.ndarray], rates: list[float], power, first, l1, l2) -> np.ndarray:
    """FTRL-Proximal, coordinate by coordinate, as McMahan et al. write it in 2013 (algorithm 1), with the inverse of
    the rate n^(-power)/rate for (beta + √n)/alpha, and 2·l2 for their l2."""
    w, z, n = start.astype(np.float64).copy(), np.zeros_like(start, np.float64), np.full_like(start, first, np.float64)
    inverse = n**-power / rates[0]
    for g, rate in zip(gradients, rates):
        n = n + g * g
        newest = n**-power / rate
        sigma = newest - inverse
        z = z + g - sigma * w
        inverse = newest
        w = np.where(np.abs(z) <= l1, 0.0, -(z - np.sign(z) * l1) / (inverse + 2 * l2))
    return w


@pytest.mark.parametrize("rates", [[0.1] * 12, [0.1 / (1 + step) for step in range(12)]], ids=["constant", "falling"])
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
@pytest.mark.parametrize(("power", "first"), [(-0.5, 0.0), (-0.5, 0.1), (-0.3, 0.0), (-0.7, 0.2), (0.0, 0.1)])
def test_ftrl_is_the_papers_formula(power, first, l1, l2, rates):
    settings = {"name": "ftrl", "lr_power": power, "initial_accumulator_value": first, "l1": l1, "l2": l2}
    ours = walked(settings, rates=rates)
    places = parameters()
    starts = [place.detach().numpy().copy() for place in places]
    gradients = []
    for step in range(12):
        give_gradients(places, step)
        gradients.append([place.grad.numpy() for place in places])
    for number, start in enumerate(starts):
        theirs = mcmahan(start, [each[number] for each in gradients], rates, power, first, l1, l2)
        np.testing.assert_allclose(ours[number].numpy(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("anchor", ["init", "zero"])
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.05, 0.0), (0.05, 0.3)])
def test_adagrad_da_minimises_what_its_docstring_says(anchor, l1, l2):
    rates = [0.1 / (1 + step) for step in range(12)]
    settings = {"name": "adagrad_da", "anchor": anchor, "l1": l1, "l2": l2, "initial_accumulator_value": 0.1}
    ours = walked(settings, rates=rates)
    places = parameters()
    anchors = [place.detach().double() * (anchor == "init") for place in places]
    sums = [torch.zeros_like(place, dtype=torch.double) for place in places]
    squares = [torch.full_like(place, 0.1, dtype=torch.double) for place in places]
    for step, rate in enumerate(rates):
        give_gradients(places, step)
        for place, total, square in zip(places, sums, squares):
            total += rate * place.grad
            square += place.grad.double() ** 2

    for place, total, square, at in zip(ours, sums, squares, anchors):

        def objective(w, total=total, square=square, at=at):
            penalty = sum(rates) * (l1 * w.abs() + l2 / 2 * w**2)
            return total * w + square.sqrt() / 2 * (w - at) ** 2 + penalty

        here = objective(place.double())
        for move in (1e-3, -1e-3):
            assert (objective(place.double() + move) > here).all()


@pytest.mark.parametrize("name", ["ftrl", "proximal_adagrad", "proximal_sgd", "adagrad_da"])
def test_a_schedule_that_ends_at_zero_leaves_the_weights_where_they_are(name):
    rates = [0.1] * 10 + [1e-6, 0.0]
    before = walked({"name": name, "l1": 0.01, "l2": 0.01}, steps=10, rates=rates)
    after = walked({"name": name, "l1": 0.01, "l2": 0.01}, rates=rates)
    if name != "adagrad_da":  # whose weights follow √n too
        assert_close(before, after, atol=1e-4, rtol=0)
    ends = walked({"name": name, "l1": 0.01, "l2": 0.01}, steps=11, rates=rates)
    assert_close(ends, after, atol=0, rtol=0)  # a rate of 0 moves nothing


@pytest.mark.parametrize("name", ["ftrl", "adagrad_da", "proximal_adagrad", "rmsprop_tf"])
def test_what_never_had_a_gradient_stays_where_it_is(name):
    place = torch.nn.Parameter(torch.tensor([0.3, -0.7, 0.11]))
    start = place.detach().clone()
    optimizer = optimizers.build({"name": name, "lr": 0.1, "weight_decay": 0.0}, [place])
    for _ in range(50):
        place.grad = torch.zeros(3)
        optimizer.step()
    torch.testing.assert_close(place.detach(), start)


def test_an_initial_accumulator_wipes_out_what_ftrl_starts_from_and_an_anchor_keeps_it():
    """With gradients as small as a deep network's are."""
    start = [place.detach() for place in parameters()]

    def moved(**settings) -> list[torch.Tensor]:
        return walked(settings | {"lr": 1e-3}, size=0.01)

    for wiped in (
        moved(name="ftrl", initial_accumulator_value=0.1), moved(name="adagrad_da", anchor="zero"),
    ):  # fmt: skip
        assert sum(place.abs().sum() for place in wiped) < sum(place.abs().sum() for place in start) / 50
    for kept in (moved(name="ftrl"), moved(name="adagrad_da"), moved(name="adagrad_da", initial_accumulator_value=0.1)):
        assert_close(kept, start, atol=0.02, rtol=0)


def test_lion_is_the_papers_formula():
    settings = {"name": "lion", "weight_decay": 0.1, "betas": [0.8, 0.95]}
    ours, places = walked(settings), parameters()
    with torch.no_grad():
        moments = [torch.zeros_like(place) for place in places]
        for step in range(12):
            give_gradients(places, step)
            for place, moment in zip(places, moments):
                place -= 0.1 * ((0.8 * moment + 0.2 * place.grad).sign() + 0.1 * place)
                moment.mul_(0.95).add_(place.grad, alpha=0.05)
    assert_close(ours, [place.detach() for place in places])


OPTIONS: dict[str, list[dict]] = {
    "adagrad_da": [{}, {"l1": 0.1, "l2": 0.1}, {"anchor": "zero", "l1": 0.1}],
    "ftrl": [{}, {"l1": 0.1, "l2": 0.1}, {"lr_power": -0.3, "initial_accumulator_value": 0.1}],
    "lion": [{}],
    "proximal_adagrad": [{}, {"l1": 0.1, "l2": 0.1}],
    "proximal_sgd": [{}, {"l1": 0.1, "l2": 0.1}],
    "rmsprop_tf": [{}, {"momentum": 0.5}],
}
CASES = [{"name": name, **own} for name, options in OPTIONS.items() for own in options]


@pytest.mark.parametrize(
    "settings", [*CASES, *({"name": name} for name in sorted(OPTIMIZERS.keys() - OPTIONS))], ids=str
)
def test_a_state_dict_goes_on_identically(settings, tmp_path):
    """From a file that only plain values are read from, as a checkpoint is."""
    places = parameters()
    optimizer = optimizers.build({"lr": 0.1, "weight_decay": 0.0, **settings}, places)
    for step in range(5):
        give_gradients(places, step)
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state")
    others = copy.deepcopy(places)
    other = optimizers.build(
        {"lr": 0.5, "weight_decay": 0.3 if settings["name"] != "rprop" else 0.0, **settings}, others
    )
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for step in range(5, 10):
        for those, one in ((places, optimizer), (others, other)):
            give_gradients(those, step)
            one.step()
    assert all(torch.equal(one, another) for one, another in zip(places, others))


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize("schedule", [False, True])
def test_a_tensor_of_rates_is_an_optimizer_for_each_network(settings, schedule):
    """Three stacked networks, of which one may rest for some steps, in parameters of two dimensions."""
    rates, decays = torch.tensor([[0.1], [0.03], [0.01]]), torch.tensor([[0.0], [0.1], [0.2]])
    stacked = torch.nn.Parameter(torch.randn(3, 7, generator=torch.Generator().manual_seed(0)))
    alone = [torch.nn.Parameter(row.clone()) for row in stacked.detach()]
    given = {"lr": 0.1, "weight_decay": 0.0, **settings}
    together = optimizers.build(given, [stacked])
    together.param_groups[0] |= {"lr": rates, "weight_decay": decays}
    each = [
        optimizers.build(given | {"lr": rate.item(), "weight_decay": decay.item()}, [place])
        for rate, decay, place in zip(rates, decays, alone)
    ]
    for step in range(8):
        factor = 0.5 if schedule and step > 3 else 1.0
        together.param_groups[0]["lr"] = rates * factor
        give_gradients([stacked], step)
        together.step()
        for number, (place, optimizer) in enumerate(zip(alone, each)):
            place.grad = stacked.grad[number].clone()
            optimizer.param_groups[0]["lr"] = (rates * factor)[number].item()
            optimizer.step()
    torch.testing.assert_close(stacked.detach(), torch.stack([place.detach() for place in alone]), rtol=1e-4, atol=1e-6)


def stack_of(settings: dict, device: str = "cpu") -> tuple[list[torch.nn.Parameter], optimizers.StackedOptimizer]:
    places = [torch.nn.Parameter(place.detach().to(device)) for place in parameters(0, 3)]
    each = [{**settings, "lr": rate, "weight_decay": decay} for rate, decay in ((0.1, 0.0), (0.03, 0.1), (0.01, 0.2))]
    return places, optimizers.StackedOptimizer(each, [{"params": places}])


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_a_stacks_state_goes_to_where_its_weights_are(settings):
    """A checkpoint is read into main memory. The device `meta` stands for a GPU."""
    places, optimizer = stack_of(settings)
    give_gradients(places, 0)
    optimizer.step()
    _, there = stack_of(settings, "meta")
    there.load_state_dict(optimizer.state_dict())
    [inner] = there.parts[0].inner
    held = [*inner.param_groups[0].values(), *(one for state in inner.state.values() for one in state.values())]
    devices = {one.device.type for one in held if isinstance(one, torch.Tensor)}
    assert devices == {"meta"}


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_a_schedule_may_end_lower_than_single_precision_goes(settings):
    """Such as {name: step, every: 0.02, factor: 0.1}."""
    rates = [0.1, 0.1, 1e-29, 1e-40, 1e-60, 0.0]
    assert all(place.isfinite().all() for place in walked(settings, 6, rates))
    places, optimizer = stack_of(settings)
    for step, rate in enumerate(rates):
        give_gradients(places, step)
        optimizer.param_groups[0]["lr"] = rate / 0.1
        optimizer.step()
    assert all(place.isfinite().all() for place in places)


def test_these_take_tensors():
    assert set(TAKES_TENSORS) == set(OPTIONS)


def updates(name: str, rates: list[float]) -> list[torch.Tensor]:
    """The update of each step, from the same gradients at the same place, divided by the step's rate."""
    place = torch.nn.Parameter(torch.tensor([0.5, -2.0]))
    optimizer = optimizers.build({"name": name, "lr": rates[0], "weight_decay": 0.0}, [place])
    made = []
    for step, rate in enumerate(rates):
        place.data = torch.tensor([0.5, -2.0])
        place.grad = torch.tensor([math.cos(step), 0.1 + step])
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        made.append((place.detach() - torch.tensor([0.5, -2.0])) / rate)
    return made


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_linear_in_the_rate_or_not(name):
    slow, fast = updates(name, [0.25] * 6), updates(name, [1.0, 2.0, 0.5, 2.0, 1.0, 0.5])
    linear = all(torch.allclose(one, other, rtol=1e-4) for one, other in zip(slow, fast))
    if name in LINEAR:
        assert linear
    elif name in ("asgd", "rprop"):
        assert not linear
    else:
        # Linear at these defaults or apart from a change of rate, but not in general.
        assert name in {*TAKES_TENSORS, "adafactor", "muon"}


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(("name", "key"), [(name, key) for name in OPTIONS for key in ("lr", *OPTIMIZERS[name])])
def test_a_hyper_parameter_out_of_its_range_is_refused(name, key, bad):
    if key in ("betas", "anchor"):
        value = [0.9, bad] if key == "betas" else str(bad)
    else:
        value = -bad if key == "lr_power" else bad
    with pytest.raises(InputError, match=f"optimizer {name} refuses .*{key} is"):
        optimizers.build({"name": name, "lr": 0.1, "weight_decay": 0.0, key: value}, parameters())


def test_groups_have_settings_of_their_own():
    first, second = parameters()[:1], parameters()[:1]
    optimizer = ProximalAdagrad([{"params": first, "l1": 5.0}, {"params": second, "lr": 0.0}], lr=0.1)
    start = second[0].detach().clone()
    give_gradients(first, 0)
    give_gradients(second, 0)
    optimizer.step()
    assert (first[0] == 0).any()
    assert torch.equal(second[0], start)


def test_a_parameter_without_a_gradient_is_left_out():
    with_one, without = parameters()[:2]
    start = without.detach().clone()
    optimizer = Ftrl([with_one, without], lr=0.1, l1=0.1)
    give_gradients([with_one], 0)
    optimizer.step()
    assert torch.equal(without, start)
    assert not optimizer.state[without]


def test_a_closure_is_called_and_its_loss_returned():
    place = torch.nn.Parameter(torch.ones(2))
    optimizer = Ftrl([place], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = place.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2
    assert (place < 1).all()


@pytest.mark.parametrize("settings", [case for case in CASES if case["name"] != "lion"], ids=str)
def test_a_gradient_that_is_no_number_is_not_hidden(settings):
    """A training that diverges has to be seen to do so, also where L1 makes zeros. (Lion's sign of it is 0.)"""
    place = torch.nn.Parameter(torch.tensor([0.1, 0.2]))
    optimizer = optimizers.build({"lr": 0.1, "weight_decay": 0.0, **settings}, [place])
    place.grad = torch.tensor([math.nan, 1.0])
    optimizer.step()
    assert place.isnan().tolist() == [True, False]
