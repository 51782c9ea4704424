"""Dropout by random bytes: the rate that was asked for, the expectation unchanged, every mask its own."""

import pytest
import torch

from lightning_modules.regularization.dropout import STEPS, Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_scale_of_the_rest(rate, dtype):
    torch.manual_seed(0)
    dropped = Dropout(rate)(torch.ones(1000, 100, dtype=dtype))
    assert dropped.dtype == dtype
    assert (dropped == 0).double().mean().item() == pytest.approx(rate, abs=0.006)  # 1/512 and chance
    assert len(dropped.unique()) == 2
    assert dropped.double().mean().item() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(("rate", "share"), [(1e-6, 1 / 256), (0.9999, 255 / 256), (0.0, 0.0)])
def test_a_rate_is_rounded_to_what_bytes_can_say(rate, share):
    torch.manual_seed(0)
    dropped = Dropout(rate)(torch.ones(1000, 1000))
    assert (dropped == 0).double().mean().item() == pytest.approx(share, rel=0.1)


def test_nothing_is_dropped_when_predicting():
    values = torch.randn(5, 7)
    assert torch.equal(Dropout(0.5).eval()(values), values)


def test_each_step_has_its_own_mask_and_the_last_batch_of_an_epoch_is_smaller():
    torch.manual_seed(0)
    layer = Dropout(0.5)
    masks = [layer(torch.ones(6, 50)) for _ in range(2 * STEPS + 1)]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == len(masks)
    assert layer(torch.ones(2, 50)).shape == (2, 50)
    assert layer(torch.ones(9, 50)).shape == (9, 50)


def test_an_epoch_begins_with_masks_of_its_own_seed():
    layer = Dropout(0.5)
    firsts = []
    for seed in (1, 2, 1):
        layer.begin_epoch([torch.Generator().manual_seed(seed)])
        firsts.append(layer(torch.ones(6, 50)))
        layer(torch.ones(6, 50))
    assert torch.equal(firsts[0], firsts[2])
    assert not torch.equal(firsts[0], firsts[1])


def test_gradients_go_where_values_went():
    values = torch.ones(20, 30, requires_grad=True)
    dropped = Dropout(0.5)(values)
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped.detach())


def test_replicas_have_their_own_rates_and_the_masks_they_have_alone():
    rates, seeds = [0.0, 0.25, 0.5], [1, 2, 3]
    together = Dropout(rates, replicas=3)
    together.begin_epoch([torch.Generator().manual_seed(seed) for seed in seeds])
    for _ in range(STEPS + 2):
        dropped = together(torch.ones(3, 6, 50))
    for number, (rate, seed) in enumerate(zip(rates, seeds)):
        alone = Dropout(rate)
        alone.begin_epoch([torch.Generator().manual_seed(seed)])
        for _ in range(STEPS + 2):
            own = alone(torch.ones(6, 50))
        assert torch.equal(dropped[number], own)
