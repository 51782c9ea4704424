"""What is learned beside classes: numbers and sequences, by themselves and in stacks."""

import itertools
import math

import numpy as np
import pytest
import torch

from lightning_modules import names, tasks, weights
from lightning_modules.errors import InputError
from lightning_modules.fit import fit, fit_together
from lightning_modules.tasks import regression, sequence

TARGET = {"name": "height", "mean": 170.0, "std": 10.0}
NUMBERS = {"task": "regression", "class_names": [], "target": TARGET}
STRINGS = {"task": "sequence", "class_names": ["a", "b", "c"]}
ADAM = {"name": "adam", "lr": 0.02, "weight_decay": 0.0}
PLAIN = {
    "activation": "relu", "initializer": "he_normal", "dropout": 0.0, "label_smoothing": 0.0, "optimizer": ADAM,
    "schedule": "constant", "replicas": 1,
}  # fmt: skip
LINEAR = PLAIN | {"network": {"name": "mlp", "hidden": []}, "loss": "mse"}
READER = PLAIN | {"network": {"name": "gru", "hidden": 16}, "activation": "tanh", "loss": "ctc"}


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Measurements, float32 N×1×1×3, in units of their own, and a number that is linear in them."""
    draw = np.random.default_rng(seed)
    plain = draw.standard_normal((count, 3))
    images = (plain * [0.01, 1.0, 100.0] + [5.0, 0.0, -300.0]).astype(np.float32)
    return images.reshape(-1, 1, 1, 3), (170 + plain @ [8.0, 6.0, 0.0]).astype(np.float32)


def strings(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images 4×12×1 of one to three signs, each four columns wide with its own row alight; padded labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, (count, 3))
    labels[np.arange(3) >= draw.integers(1, 4, (count, 1))] = sequence.PADDING
    images = np.zeros((count, 4, 12, 1), np.uint8)
    for number, place in itertools.product(range(count), range(3)):
        if labels[number, place] >= 0:
            images[number, labels[number, place], 4 * place + 1 : 4 * place + 3] = 255
    return images, labels


SETTINGS = {
    "regression": NUMBERS | {"mean": [5.0, 0.0, -300.0], "std": [0.01, 1.0, 100.0], "batch_size": 20},
    "sequence": STRINGS | {"mean": [0.2], "std": [0.4], "batch_size": 20},
}
MADE = {"regression": (LINEAR, rows), "sequence": (READER, strings)}


def trained(task: str, epochs: int, recipe: dict | None = None, **more):
    plain, make = MADE[task]
    return fit(recipe or plain, make(200, 0), make(60, 1), seed=0, **SETTINGS[task] | {"epochs": epochs} | more)


def test_the_known_names_are_those_of_the_code():
    assert names.TASKS.keys() == tasks.TASKS.keys() == names.ENSEMBLES_OF.keys()
    for name, known in names.ENSEMBLES_OF.items():
        assert tasks.TASKS[name].ENSEMBLES.keys() == set(known)
    assert {*names.TASKS["regression"]} == regression.LOSSES.keys()
    assert tasks.of({"class_names": ["a", "b"]}).outputs == 2  # of a card that says nothing of a task


@pytest.mark.parametrize("loss", names.TASKS["regression"])
def test_a_number_is_learned_in_its_own_unit(loss):
    result = trained("regression", 60, LINEAR | {"loss": loss})
    best = result.history[result.best_epoch - 1]
    assert best["validation_mae"] < 0.5  # of 10
    assert best["validation_r2"] > 0.99
    assert best["validation_mse"] == min(row["validation_mse"] for row in result.history)


def test_a_sequence_is_learned():
    result = trained("sequence", 30)
    best = result.history[result.best_epoch - 1]
    assert best["validation_accuracy"] > 0.9
    assert best["validation_cer"] < 0.05


@pytest.mark.parametrize("task", MADE)
def test_a_saved_member_predicts_what_was_measured(task, tmp_path):
    result, make = trained(task, 3), MADE[task][1]
    card = SETTINGS[task] | {"recipe": MADE[task][0], "replicas": [{}], "shape": list(make(1, 0)[0].shape[1:])}
    weights.save(tmp_path, card, [result.state])
    card, [predictor] = weights.load(tmp_path)
    images, labels = make(60, 1)
    before = images.copy()
    predicted = weights.predict(predictor, images)
    assert (images == before).all()  # normalised, and not in place
    scores = tasks.of(card).score(predicted, torch.from_numpy(labels))
    best = result.history[result.best_epoch - 1]
    for name, value in scores.items():
        assert value == pytest.approx(best[f"validation_{name}"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("network", names.RECURRENT)
def test_readers_in_a_stack_learn_what_they_would_alone(network):
    recipe = READER | {"network": {"name": network, "hidden": 8}, "dropout": 0.2}
    given = SETTINGS["sequence"] | {"epochs": 2}
    together = fit_together([recipe] * 2, strings(100, 0), strings(30, 1), seeds=[3, 4], **given)
    for seed, result in zip((3, 4), together):
        alone = fit(recipe, strings(100, 0), strings(30, 1), seed=seed, **given)
        for row, same in zip(result.history, alone.history, strict=True):
            assert row == pytest.approx(same, rel=1e-3, abs=1e-3)


def test_regressions_in_a_stack_learn_what_they_would_alone():
    recipe = LINEAR | {"network": {"name": "mlp", "hidden": [8]}, "dropout": 0.2}
    given = SETTINGS["regression"] | {"epochs": 3}
    together = fit_together([recipe] * 2, rows(100, 0), rows(30, 1), seeds=[3, 4], **given)
    for seed, result in zip((3, 4), together):
        alone = fit(recipe, rows(100, 0), rows(30, 1), seed=seed, **given)
        for row, same in zip(result.history, alone.history, strict=True):
            assert row == pytest.approx(same, rel=1e-3)


@pytest.mark.parametrize(
    ("task", "loss", "fits"), [("regression", "cross_entropy", "mse or mae"), ("sequence", "mse", "ctc")]
)
def test_a_loss_that_does_not_fit_is_refused_with_what_does(task, loss, fits):
    with pytest.raises(InputError, match=f"loss {loss} does not fit task {task}: it takes {fits}"):
        trained(task, 1, MADE[task][0] | {"loss": loss})


def test_a_network_without_steps_is_refused():
    with pytest.raises(InputError, match="network mlp gives no answer at each step: rnn, lstm, gru do"):
        trained("sequence", 1, READER | {"network": {"name": "mlp", "hidden": [8]}})


# --- Numbers --------------------------------------------------------------------------------------------------------


def test_scores_of_numbers_are_what_they_are_called():
    draw = np.random.default_rng(0)
    truth, predicted = 170 + 10 * draw.standard_normal((2, 500)).astype(np.float32)
    found = tasks.of(NUMBERS).score(torch.from_numpy(predicted)[:, None], torch.from_numpy(truth))
    errors = predicted.astype(float) - truth
    assert found["mse"] == pytest.approx((errors**2).mean())
    assert found["mae"] == pytest.approx(abs(errors).mean())
    assert found["r2"] == pytest.approx(1 - (errors**2).mean() / truth.astype(float).var())
    assert math.isnan(tasks.of(NUMBERS).score(torch.zeros(3, 1), torch.ones(3))["r2"])  # of a constant


def test_a_constant_target_is_learned_too():
    constant = np.full(40, 3.0, np.float32)
    card = NUMBERS | {"target": {"name": "three", "mean": 3.0, "std": 0.0}}
    given = SETTINGS["regression"] | card | {"epochs": 30}
    result = fit(LINEAR, (rows(40, 0)[0], constant), (rows(40, 1)[0], constant), seed=0, **given)
    assert result.history[-1]["validation_mae"] < 0.5
    assert math.isnan(result.history[-1]["validation_r2"])


def test_a_mean_of_one_is_its_member():
    predicted = torch.randn(1, 7, 1)
    assert regression.mean(predicted).equal(predicted[0])
    several = torch.randn(4, 7, 1)
    assert regression.mean(several, torch.tensor([0.0, 1.0, 0.0, 0.0])).equal(several[1])


# --- Sequences ------------------------------------------------------------------------------------------------------


def certain(steps: list[int], classes: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(steps), classes).float().mul(0.96).add(0.01).log()


@pytest.mark.parametrize(
    ("steps", "read"),
    [
        ([0, 0, 3, 0, 1], [0, 0, 1]),
        ([3, 3, 3], []),
        ([2, 2, 2], [2]),
        ([3, 1, 3, 1, 1], [1, 1]),
        ([0, 1, 2], [0, 1, 2]),
    ],
)
def test_repetitions_and_blanks_are_left_out(steps, read):
    found = sequence.decoded(certain(steps))
    assert found.tolist() == read + [sequence.PADDING] * (len(steps) - len(read))


def edits(one: list[int], other: list[int]) -> int:
    if not one or not other:
        return len(one) + len(other)
    return min(
        edits(one[1:], other) + 1, edits(one, other[1:]) + 1, edits(one[1:], other[1:]) + (one[0] != other[0])
    )  # fmt: skip


def test_the_edit_distance_is_that_of_its_definition():
    draw = np.random.default_rng(0)
    pairs = [[draw.integers(0, 3, draw.integers(0, 5)).tolist() for _ in range(2)] for _ in range(60)]
    padded = [torch.tensor([one + [sequence.PADDING] * (5 - len(one)) for one in side]) for side in zip(*pairs)]
    assert sequence.distances(*padded).tolist() == [edits(*pair) for pair in pairs]


def test_ctc_is_the_sum_over_all_alignments():
    draw = torch.Generator().manual_seed(0)
    given = torch.randn(1, 4, 3, generator=draw).log_softmax(-1)  # two classes and the blank
    total = sum(
        given[0, range(4), path].sum().exp()
        for path in map(list, itertools.product(range(3), repeat=4))
        if sequence.decoded(certain(path, 3)).tolist()[:3] == [0, 1, sequence.PADDING]
    )
    assert sequence.ctc(given, torch.tensor([[0, 1, sequence.PADDING]])).item() == pytest.approx(-math.log(total))


def test_scores_of_sequences():
    predicted = torch.stack([certain([0, 3, 1]), certain([0, 0, 0]), certain([3, 3, 3])])
    found = tasks.of(STRINGS).score(predicted, torch.tensor([[0, 1, -1], [0, 1, 2], [2, -1, -1]]))
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["cer"] == pytest.approx((0 + 2 + 1) / 6)


def test_a_vote_of_sequences_is_a_distribution_at_each_step():
    predicted = torch.randn(3, 5, 4, 4).log_softmax(-1)
    assert sequence.soft_vote(predicted).exp().sum(-1).allclose(torch.ones(5, 4))
    assert sequence.soft_vote(predicted[:1]).allclose(predicted[0])
