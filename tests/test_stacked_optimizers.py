"""One optimizer for stacked networks does to each what its own would, given the same gradients."""

import pytest
import torch
from torch import nn

from lightning_modules import names
from lightning_modules.optimizers import LINEAR, TAKES_TENSORS, build, stacking

RATES = [0.02, 0.001, 0.3]
SHAPES = [(6, 5), (6,), (4, 3, 2, 2), (4,), (3, 8), (3,)]  # of layers, the last one's are the head's
FACTORS = [0.5, 1.0, 0.7, 0.1, 0.0]  # of a schedule


def settings(name: str, decays: list[float], **own) -> list[dict]:
    return [
        {"name": name, "lr": rate, "weight_decay": decay, **names.OPTIMIZERS[name], **own}
        for rate, decay in zip(RATES, decays)
    ]


def groups(parameters: list[nn.Parameter], divided: bool, dimensions: int) -> list[dict]:
    if not divided:
        return [{"params": parameters}]
    return [
        {"params": [one for one in parameters if one.dim() > dimensions]},
        {"params": [one for one in parameters if one.dim() <= dimensions], "weight_decay": 0.0},
    ]


def trained(given: list[dict], divided: bool = False, interrupted: bool = False) -> tuple[list, list]:
    """The parameters of networks of which each has its optimizer, and those of the same networks stacked."""
    torch.manual_seed(3)
    first = [torch.randn(len(given), *shape) for shape in SHAPES]
    gradients = [[torch.randn_like(tensor) for tensor in first] for _ in FACTORS]
    alone = [[nn.Parameter(tensor[number].clone()) for tensor in first] for number in range(len(given))]
    for number, one in enumerate(given):
        optimizer = build(one, groups(alone[number], divided, 1))
        rates = [group["lr"] for group in optimizer.param_groups]
        for step, factor in enumerate(FACTORS):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * factor
            for parameter, gradient in zip(alone[number], gradients[step]):
                parameter.grad = gradient[number].clone()
            optimizer.step()
    together = [nn.Parameter(tensor.clone()) for tensor in first]
    whole = stacking.StackedOptimizer(given, groups(together, divided, 2))
    for step, factor in enumerate(FACTORS):
        if interrupted and step == 2:
            state = whole.state_dict()
            together = [nn.Parameter(parameter.detach().clone()) for parameter in together]
            whole = stacking.StackedOptimizer(given, groups(together, divided, 2))
            whole.load_state_dict(state)
        whole.param_groups[0]["lr"] = factor
        for parameter, gradient in zip(together, gradients[step]):
            parameter.grad = gradient.clone()
        whole.step()
    return alone, together


def assert_alike(alone: list, together: list) -> None:
    for number, parameters in enumerate(alone):
        for parameter, stacked in zip(parameters, together):
            assert torch.allclose(parameter, stacked[number], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(names.OPTIMIZERS))
def test_each_network_gets_the_steps_of_its_own_optimizer(name):
    assert_alike(*trained(settings(name, [0.0, 0.0, 0.0])))


@pytest.mark.parametrize("divided", [False, True], ids=["all decay", "matrices decay"])
@pytest.mark.parametrize("name", sorted(names.OPTIMIZERS.keys() - {"rprop"}))  # which has no decay
def test_so_it_does_where_weights_decay(name, divided):
    assert_alike(*trained(settings(name, [0.1, 0.0, 0.02]), divided))


def test_muon_may_leave_the_lengths_of_rows_as_they_are():
    assert_alike(*trained(settings("muon", [0.1, 0.0, 0.02], normalize=False)))


@pytest.mark.parametrize("name", sorted(stacking.STACKED))
def test_its_state_can_be_saved_and_loaded(name):
    assert_alike(*trained(settings(name, [0.0, 0.0, 0.0]), interrupted=True))


def test_every_optimizer_has_one_way_to_be_stacked():
    assert sorted({*LINEAR, *TAKES_TENSORS} | stacking.STACKED.keys()) == sorted(names.OPTIMIZERS)
    assert not stacking.STACKED.keys() & {*LINEAR, *TAKES_TENSORS}
