"""Muon: orthogonal steps for what is inside of a network, SGD for the rest."""

import pytest
import torch
from torch import nn

from lightning_modules.optimizers.muon import Muon, orthogonal


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3), nn.Flatten(), nn.Linear(24, 8), nn.Linear(8, 3)
    )


def backward(layers: nn.Module, seed: int = 1) -> None:
    images = torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    layers.zero_grad()
    layers(images).square().sum().backward()


@pytest.mark.parametrize("shape", [(8, 8), (8, 30), (30, 8), (4, 8, 30), (2, 3, 30, 8)], ids=str)
def test_singular_values_are_near_one_and_directions_kept(shape):
    matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    made = orthogonal(matrices, steps=10)
    assert made.shape == matrices.shape
    # The quintic does not converge to one: Jordan et al. give a range of about 0.7 to 1.2.
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.65
    assert values.max() < 1.25
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inner = left.mT @ made @ right.mT
    off_diagonal = inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
    assert off_diagonal.abs().max() < 1e-3


def test_a_batch_of_matrices_is_each_by_itself_and_the_length_does_not_matter():
    matrices = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0))
    made = orthogonal(matrices, 3)
    for matrix, direction in zip(matrices, made):
        torch.testing.assert_close(orthogonal(1000 * matrix, 3), direction, atol=1e-5, rtol=1e-4)
    assert not orthogonal(torch.zeros(4, 4), 3).any()


def test_torchs_own_muon_orthogonalises_alike():
    """torch.optim.Muon, in bfloat16, without momentum, decay and the factor by which it adjusts its step."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    gradient = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    place = nn.Parameter(torch.zeros(6, 9))
    place.grad = gradient
    torch.optim.Muon([place], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False, ns_steps=5).step()
    torch.testing.assert_close(-place.detach(), orthogonal(gradient, 5), atol=0.05, rtol=0)


def test_who_gets_which_step():
    layers = network()
    optimizer = Muon(layers.parameters(), lr=0.2, weight_decay=0.03, sgd_lr=0.3, bias_lr=0.4)
    inside, head, biases = optimizer.param_groups
    weights = [layer.weight for layer in layers if hasattr(layer, "weight")]
    assert [id(parameter) for parameter in inside["params"]] == [id(weight) for weight in weights[:-1]]
    assert [id(parameter) for parameter in head["params"]] == [id(weights[-1])]
    assert [id(parameter) for parameter in biases["params"]] == [id(it) for it in layers.parameters() if it.ndim == 1]
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.3, 0.4]
    # A step takes the same share of all, whatever its learning rate.
    assert [group["lr"] * group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.03] * 3)


def test_groups_are_split_and_keep_what_they_say():
    layers = network()
    bias, *rest = layers[0].bias, *(p for p in layers.parameters() if p is not layers[0].bias)
    optimizer = Muon([{"params": rest}, {"params": [bias], "until": 0.5}], lr=0.2, bias_lr=0.4)
    assert [group.get("until") for group in optimizer.param_groups] == [None, None, None, 0.5]
    assert optimizer.param_groups[3]["lr"] == 0.4
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, layers.parameters()))


def test_the_last_layer_and_biases_take_the_steps_of_torchs_sgd():
    ours, theirs = network(), network()
    optimizer = Muon(ours.parameters(), lr=0.2, weight_decay=0.01, sgd_lr=0.05, bias_lr=0.02, sgd_momentum=0.8)
    inside = [layer.weight for layer in theirs if hasattr(layer, "weight")][:-1]
    other = [parameter for parameter in theirs.parameters() if all(parameter is not one for one in inside)]
    reference = torch.optim.SGD(
        [
            {"params": [p for p in other if p.ndim == 2], "lr": 0.05, "weight_decay": 0.01 / 0.05},
            {"params": [p for p in other if p.ndim == 1], "lr": 0.02, "weight_decay": 0.01 / 0.02},
        ],
        momentum=0.8, nesterov=True,
    )  # fmt: skip
    for step in range(3):
        backward(ours, seed=step)
        for mine, its in zip(ours.parameters(), theirs.parameters()):
            its.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    for mine, its in zip(ours.parameters(), theirs.parameters()):
        if any(its is one for one in other):
            torch.testing.assert_close(mine, its)


def test_filters_of_one_shape_step_together_as_each_would_alone():
    together, apart = network(), network()
    whole = Muon(together.parameters(), lr=0.1)
    backward(together)
    for mine, its in zip(together.parameters(), apart.parameters()):
        its.grad = mine.grad.clone()
    whole.step()
    head = apart[-1].weight
    for layer in apart[:-1]:
        if hasattr(layer, "weight"):
            Muon([layer.weight, nn.Parameter(head.detach().clone())], lr=0.1).step()
    for mine, its in zip(together[:-1].parameters(), apart[:-1].parameters()):
        if mine.ndim > 1:
            torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_step_goes_the_length_of_its_rate_from_the_normalised_weight(normalize):
    layers = network()
    weight = layers[1].weight
    before = weight.detach().clone()
    optimizer = Muon(layers.parameters(), lr=0.01, weight_decay=0.5, normalize=normalize, steps=10)
    backward(layers)
    optimizer.step()
    start = before * len(before) ** 0.5 / before.norm() if normalize else before * (1 - 0.5)
    lengths = torch.linalg.svdvals((weight.detach() - start).flatten(1))
    assert lengths.min() > 0.006
    assert lengths.max() < 0.013


def test_a_parameter_without_gradient_stays_and_its_state_is_saved():
    layers = network()
    layers[1].weight.requires_grad_(False)
    before = layers[1].weight.clone()
    optimizer = Muon(layers.parameters(), lr=0.1)
    backward(layers)
    optimizer.step()
    assert torch.equal(layers[1].weight, before)
    again = Muon(network().parameters(), lr=0.1)
    again.load_state_dict(optimizer.state_dict())
    assert again.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_in_mixed_precision_the_iteration_is_too():
    layers = network()
    backward(layers)
    exact, mixed = network(), network()
    for copy, inside in ((exact, False), (mixed, True)):
        for mine, its in zip(layers.parameters(), copy.parameters()):
            its.grad = mine.grad.clone()
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            Muon(copy.parameters(), lr=0.1).step()
    difference = (exact[1].weight - mixed[1].weight).abs().max()
    assert 0 < difference < 0.01
    assert mixed[1].weight.dtype == torch.float32
