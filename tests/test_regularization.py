"""Regularization: each kind does what its formula says, stacked networks do what each does alone, and a recipe without
any computes what it did before there was one."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from test_fit import (
    AIRBENCH,
    MLP,
    RESNET,
    TRAINING,
    Interrupted,
    SaveLast,
    assert_same,
    noise,
    train,
)  # fmt: skip
from test_together import SEEDS, SMALL, assert_alike, optimizer, recipe, train_together
from torch import nn

from lightning_modules import classifier, names, networks, optimizers
from lightning_modules.images import AUGMENTATIONS, Images
from lightning_modules.networks.stacking import stack
from lightning_modules.optimizers.building import OPTIMIZERS
from lightning_modules.regularization import building as regularization
from lightning_modules.regularization.clipping import Clipping
from lightning_modules.regularization.max_norm import MaxNorm
from lightning_modules.regularization.mixup import Mixup, beta
from lightning_modules.regularization.parameters import weights
from lightning_modules.regularization.penalties import Penalties

SGD = {"name": "sgd", "lr": 0.1, "weight_decay": 0.0}
EACH = [
    {"l1": 0.01}, {"l2": 0.02}, {"max_norm": 0.7}, {"clip_norm": 0.05}, {"clip_value": 0.002}, {"mixup": 0.4},
    {"cutout": 0.4}, {"decay": "weights"},
]  # fmt: skip
ALL = {"l1": 0.001, "l2": 0.02, "max_norm": 0.9, "clip_norm": 0.5, "clip_value": 0.1, "mixup": 0.4, "cutout": 0.4,
       "decay": "weights"}  # fmt: skip


def with_(given: dict, base: dict = MLP, **more) -> dict:
    return base | {"regularization": given} | more


def network(name: str = "resnet", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return networks.build(recipe(name), (8, 8, 1), 3)


def with_gradients(made: nn.Module) -> nn.Module:
    torch.manual_seed(9)
    for parameter in made.parameters():
        parameter.grad = torch.randn_like(parameter)
    return made


def gradients(made: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in made.named_parameters()}


def kinds(made: nn.Module) -> dict[nn.Module, list[str]]:
    return {layer: [name for name, _ in layer.named_parameters(recurse=False)] for layer in made.modules()}


@pytest.mark.parametrize("name", SMALL)
def test_weights_are_those_of_linear_layers_and_convolutions(name):
    made = network(name)
    expected = [layer.weight for layer in made.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    assert list(map(id, weights(made))) == list(map(id, expected))
    together = stack([made, network(name, 1)])
    found = weights(together, stacked=True)
    assert [weight.shape[1:] for weight in found] == [weight.shape for weight in expected]


def test_penalties_have_the_gradients_of_what_is_added_to_the_loss():
    made = with_gradients(network())
    with torch.no_grad():
        weights(made)[0][0] = 0.0
    before = gradients(made)
    l1, l2 = 0.3, 0.7
    Penalties([l1], [l2], stacked=False)(weights(made))
    copy = {name: parameter.detach().clone().requires_grad_() for name, parameter in made.named_parameters()}
    counted = [copy[name] for name in copy if copy[name].dim() > 1]
    sum(l1 * weight.abs().sum() + l2 * weight.square().sum() for weight in counted).backward()
    for name, gradient in gradients(made).items():
        added = copy[name].grad
        torch.testing.assert_close(gradient, before[name] if added is None else before[name] + added)


def test_the_loss_that_is_reported_is_without_penalties():
    """Of the first step, which the penalty has not changed yet."""
    settings = {"epochs": 1, "batch_size": 50}
    plain, penalised = train(**settings), train(with_({"l1": 0.1, "l2": 0.1}), **settings)
    assert plain.history[0]["training_loss"] == penalised.history[0]["training_loss"]
    assert plain.history[0]["validation_nll"] != penalised.history[0]["validation_nll"]


def test_l1_leaves_fewer_weights_and_l2_smaller_ones():
    base = MLP | {"optimizer": SGD}
    plain, l1, l2 = (
        torch.cat([tensor.flatten() for name, tensor in train(with_(given, base), epochs=40).state.items()])
        for given in ({}, {"l1": 0.01}, {"l2": 0.05})
    )
    assert l1.abs().sum() < 0.7 * plain.abs().sum()
    assert (l1.abs() < 0.01).sum() > 2 * (plain.abs() < 0.01).sum()
    assert l2.norm() < 0.7 * plain.norm()


def test_l2_is_half_of_the_weight_decay_of_sgd():
    base = MLP | {"optimizer": SGD}
    decayed = with_({"decay": "weights"}, base, optimizer=SGD | {"weight_decay": 0.1})
    one, other = train(decayed), train(with_({"l2": 0.05}, base))
    for name, tensor in one.state.items():
        torch.testing.assert_close(tensor, other.state[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_gradients_are_clipped_as_torch_clips_them(limit):
    made, same = with_gradients(network()), with_gradients(network())
    Clipping([limit], [None], stacked=False)(made.parameters())
    torch.nn.utils.clip_grad_norm_(same.parameters(), limit)
    expected = gradients(same)
    for name, gradient in gradients(made).items():
        torch.testing.assert_close(gradient, expected[name])
    made, same = with_gradients(network()), with_gradients(network())
    Clipping([None], [limit], stacked=False)(made.parameters())
    torch.nn.utils.clip_grad_value_(same.parameters(), limit)
    assert all(torch.equal(gradient, gradients(same)[name]) for name, gradient in gradients(made).items())


def test_both_limits_hold_and_nothing_stays_nothing():
    made = with_gradients(network())
    Clipping([0.5], [0.1], stacked=False)(made.parameters())
    found = torch.cat([gradient.flatten() for gradient in gradients(made).values()])
    assert found.abs().max() <= 0.1
    assert found.norm() == pytest.approx(0.5)
    for parameter in made.parameters():
        parameter.grad.zero_()
    Clipping([0.5], [None], stacked=False)(made.parameters())
    assert all(not gradient.any() for gradient in gradients(made).values())


def test_max_norm_limits_each_units_incoming_weights_and_turns_none():
    for weight in weights(network("cnn")):
        before = weight.detach().clone()
        norms = before.flatten(1).norm(dim=1)
        limit = norms.median().item()
        MaxNorm([limit], stacked=False)([weight])
        after = weight.detach().flatten(1)
        torch.testing.assert_close(after.norm(dim=1), norms.clamp_max(limit))
        assert torch.equal(after[norms < limit], before.flatten(1)[norms < limit])
        torch.testing.assert_close(after / after.norm(dim=1, keepdim=True), before.flatten(1) / norms[:, None])
    nothing = nn.Parameter(torch.zeros(2, 3))
    MaxNorm([1.0], stacked=False)([nothing])
    assert not nothing.any()


@pytest.mark.parametrize("base", [MLP, RESNET, MLP | optimizer("muon", normalize=False)], ids=["mlp", "cnn", "muon"])
def test_max_norm_holds_after_training(base):
    fitted = train(with_({"max_norm": 0.4}, base), epochs=4)
    norms = torch.cat([tensor.flatten(1).norm(dim=1) for tensor in fitted.state.values() if tensor.dim() > 1])
    assert norms.max() <= 0.4 * (1 + 1e-5)
    assert (norms > 0.39).any()


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 5.0])
def test_shares_of_mixup_are_of_the_beta_distribution(alpha):
    shares = beta(alpha, 4000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert shares.dtype == torch.float32
    assert shares.isfinite().all()
    # In steps: a small alpha leaves many shares at 0 or 1 to the last bit, where a test of continuous ones fails.
    edges = np.linspace(0, 1, 11)
    expected = 4000 * np.diff(stats.beta(alpha, alpha).cdf(edges))
    counted = np.histogram(shares.double().numpy(), edges)[0]
    assert stats.chisquare(counted, expected).pvalue > 0.001


def test_mixed_images_are_between_two_and_so_are_their_losses():
    images = Images(*TRAINING, [0.25], [0.2])
    mixup = Mixup([1.0])
    mixup.begin_epoch(images, [torch.Generator().manual_seed(0)])
    index = torch.tensor([7, 0, 31])
    mixed, labels, others, shares = mixup.batch(images, index)
    partner = mixup.partner[0, index]
    assert torch.equal(labels, images.labels[index])
    assert torch.equal(others, images.labels[partner])
    first, second = images.batch(index)[0], images.batch(partner)[0]
    for number, share in enumerate(shares.tolist()):
        assert 0 < share < 1
        torch.testing.assert_close(mixed[number], share * first[number] + (1 - share) * second[number])
    # The loss: by hand, in one step of the whole split.
    module = attached(with_({"mixup": 1.0}, loss="mse"))
    module.regularization.mixup.begin_epoch(module.training_images, [torch.Generator().manual_seed(0)])
    index = torch.arange(50)
    module.loss_sum = torch.zeros(1)
    module.learn(index)
    images, labels, others, shares = module.regularization.mixup.batch(module.training_images, index)
    probabilities = module(images).softmax(-1)
    own, other = ((probabilities - nn.functional.one_hot(those, 3)).square().mean(-1) for those in (labels, others))
    loss = (shares * own + (1 - shares) * other).mean()
    assert module.loss_sum.item() == pytest.approx(50 * loss.item(), rel=1e-5)
    expected = torch.autograd.grad(loss, list(module.network.parameters()))
    for parameter, gradient in zip(module.network.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient)


def attached(given: dict) -> classifier.Classifier:
    images = Images(*TRAINING, [0.25], [0.2])
    return classifier.Classifier(given, [8, 8, 1], 3, 0, 1, 50).attach(images, images)


def test_mixup_of_one_hot_targets_is_the_loss_of_the_mixed_target():
    """As published: cross-entropy is linear in its target."""
    draw = torch.Generator().manual_seed(0)
    logits, share = torch.randn(20, 3, generator=draw), torch.rand(20, generator=draw)
    one, other = (torch.randint(3, (20,), generator=draw) for _ in range(2))
    module = attached(with_({"mixup": 1.0}))
    found = torch.lerp(*(module.loss_of_each(logits, those, module.smoothing) for those in (other, one)), share)
    target = share[:, None] * nn.functional.one_hot(one, 3) + (1 - share)[:, None] * nn.functional.one_hot(other, 3)
    torch.testing.assert_close(found, nn.functional.cross_entropy(logits, target, reduction="none"))


def test_mixup_keeps_a_network_from_learning_by_heart():
    batch = noise(30)
    plain, mixed = (train(with_(given), training=batch, validation=batch, epochs=60) for given in ({}, {"mixup": 1.0}))
    assert mixed.history[-1]["training_loss"] > plain.history[-1]["training_loss"] + 0.2


def test_cutout_replaces_that_of_the_augmentation():
    pixels, labels = np.full((20, 8, 8, 1), 255, np.uint8), np.zeros(20, np.int64)
    images = Images(pixels, labels, [0.0], [1.0], "shift_altflip_cutout", cutout=0.5)
    images.begin_epoch(0)
    covered = (images.batch(torch.arange(20))[0] == 0).sum((1, 2, 3))
    assert covered.tolist() == [16] * 20
    assert images.augmentation.flip == AUGMENTATIONS["shift_altflip_cutout"].flip
    kept = Images(pixels, labels, [0.0], [1.0], "shift_altflip_cutout")
    assert kept.augmentation == AUGMENTATIONS["shift_altflip_cutout"]
    assert train(with_({"cutout": 0.5})).history != train().history


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"rprop"}))  # which has none
def test_decay_can_leave_out_biases_and_normalisation(name):
    """Without gradients weights shrink alone."""
    for decay in ("all", "weights"):
        made = network()
        groups = networks.groups(made, decay)
        more = {"lambd": 0.0} if name == "asgd" else {}  # which shrinks parameters by itself
        step = optimizers.build({"name": name, "lr": 0.1, "weight_decay": 0.1, **more}, groups)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.fill_(1.0)
        for _ in range(3):
            for parameter in made.parameters():
                parameter.grad = torch.zeros_like(parameter)
            step.step()
        decayed = {id(weight) for weight in weights(made)}
        for parameter in made.parameters():
            shrunk = not torch.equal(parameter, torch.ones_like(parameter))
            assert shrunk == (decay == "all" or id(parameter) in decayed)


def test_groups_by_decay_have_every_parameter_once_and_end_when_they_did():
    torch.manual_seed(0)
    made = networks.build(AIRBENCH, (8, 8, 1), 3)
    groups = networks.groups(made, "weights")
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, made.parameters()))
    assert [group.get("until") for group in groups] == [None, None, 3 / 8]
    assert [group.get("weight_decay") for group in groups] == [None, 0.0, 0.0]


@pytest.mark.parametrize("base", [MLP, RESNET], ids=["mlp", "resnet"])
@pytest.mark.parametrize("given", [{}, dict(names.REGULARIZATION)], ids=["empty", "complete"])
def test_none_is_as_if_there_were_no_such_key(given, base):
    assert_same(train(base), train(with_(given, base)))
    for one, other in zip(train_together([base] * 3), train_together([with_(given, base)] * 3)):
        assert_same(one, other)


@pytest.mark.parametrize("given", [*EACH, ALL], ids=lambda given: "+".join(given))
@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_each_learns_together_what_it_learns_alone(name, given):
    # Not adam, which makes much of rounding where a gradient is small.
    one = recipe(name, regularization=given, dropout=0.3, **optimizer("nag", weight_decay=0.1))
    settings = {"augment": "shift_flip"}
    assert train(one, seed=SEEDS[0], **settings).history != train(one | {"regularization": {}}, seed=SEEDS[0]).history
    for seed, fitted in zip(SEEDS, train_together([one] * 3, **settings)):
        assert_alike(train(one, seed=seed, **settings), fitted)


@pytest.mark.parametrize(
    "several",
    [
        *([{key: 0.01}, {}, {key: 0.05}] for key in ("l1", "l2", "clip_norm", "clip_value")),
        [{"max_norm": 0.7}, {}, {"max_norm": 1.0}],
        [{"mixup": 0.2}, {}, {"mixup": 1.0}],
        [{"l1": 0.01, "max_norm": 1.0}, {"clip_norm": 0.1, "mixup": 0.5}, {"l2": 0.01, "clip_value": 0.01}],
    ],
    ids=lambda several: "+".join(several[0]),
)
def test_networks_that_train_together_may_differ_in_it(several):
    recipes = [
        recipe(regularization=given, dropout=0.2, **optimizer("adam", lr=rate))
        for given, rate in zip(several, (0.01, 0.02, 0.005))
    ]
    for one, seed, fitted in zip(recipes, SEEDS, train_together(recipes, augment="shift")):
        assert_alike(train(one, seed=seed, augment="shift"), fitted)


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("rates", [(0.01, 0.01, 0.01), (0.01, 0.02, 0.005)], ids=["one group", "a group each"])
def test_weights_alone_decay_together_as_alone(name, rates):
    recipes = [
        recipe(regularization={"decay": "weights"}, **optimizer(name, lr=rate, weight_decay=0.3)) for rate in rates
    ]
    for one, seed, fitted in zip(recipes, SEEDS, train_together(recipes)):
        assert_alike(train(one, seed=seed), fitted)
        assert fitted.history[0]["lr"] == one["optimizer"]["lr"]


@pytest.mark.parametrize("given", [{"cutout": 0.5}, {"decay": "weights"}], ids=str)
def test_they_may_not_differ_in_cutout_and_decay(given):
    with pytest.raises(ValueError, match=r"may differ in dropout, .*, regularization\.mixup alone"):
        train_together([recipe(regularization=given), recipe(), recipe()])


@pytest.mark.parametrize("moment", ["middle", "end"])
@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(together, moment, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "BLOCK", 2)
    monkeypatch.setattr(SaveLast, "SHARE", 1)
    one = recipe(regularization=ALL, dropout=0.4, schedule="cosine", **optimizer("adamw", weight_decay=0.1))
    other = one | {"regularization": ALL | {"mixup": 0.0, "l1": 0.0, "max_norm": None}}
    settings = {"epochs": 4, "augment": "shift"}

    def run(**more):
        return train_together([one, other, one], **settings, **more) if together else [train(one, **settings, **more)]

    def report(event: dict) -> None:
        if event["epoch"] == 3 and ("row" in event) == (moment == "end"):
            raise Interrupted

    whole = run()
    checkpoint = tmp_path / "replica.ckpt"
    with pytest.raises(Interrupted):
        run(checkpoint=checkpoint, report=report)
    torch.manual_seed(5)
    for first, second in zip(whole, run(checkpoint=checkpoint)):
        assert_same(first, second)


def test_nothing_of_it_is_saved():
    plain, module = (attached(given) for given in (MLP, with_(ALL)))
    assert plain.state_dict().keys() == module.state_dict().keys()
    assert math.isinf(Clipping([None, 1.0], [None, None], stacked=True).norm[0])
    assert regularization.build([MLP], stacked=False).before_step(plain.network) is None


def test_a_step_of_one_process_is_that_of_two_that_divide_it():
    """Each computes the gradients of its part; what is done to the sum is done to the whole mini-batch's."""

    class Half:
        size = 2

        def __init__(self, rank: int) -> None:
            self.rank = rank

        def part(self, count: int) -> tuple[int, int]:
            return (0, count // 2) if self.rank == 0 else (count // 2, count)

        def sum_gradients(self, network: nn.Module) -> None:
            pass

    found = []
    for ranks in ([None], [0, 1]):
        module = attached(with_({"mixup": 0.5, "l1": 0.01, "clip_norm": 0.1}))
        module.regularization.mixup.begin_epoch(module.training_images, [torch.Generator().manual_seed(0)])
        module.loss_sum = torch.zeros(1)
        for rank in ranks:
            index = torch.arange(20)
            module.learn(index) if rank is None else module.learn_part(index, 1.0, Half(rank))
        module.regularization.before_step(module.network)
        found.append(gradients(module.network))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name])
