"""One training: the same bits for the same seed, interrupted or not, and the best epoch by validation."""

import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import environment

from lightning_modules import classifier, networks, sealed, weights
from lightning_modules import fit as fit_module
from lightning_modules.errors import DivergedError, InputError
from lightning_modules.fit import Fitted, SaveLast, fit, hardware_precision
from lightning_modules.images import Images
from lightning_modules.networks.airbench import Whitening

CLASSES = ["left", "middle", "right"]
MLP = {
    "network": {"name": "mlp", "hidden": [16]},
    "activation": "relu",
    "initializer": "he_normal",
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "optimizer": {"name": "adam", "lr": 0.01, "weight_decay": 0.0},
    "schedule": "constant",
}
DROPPING = MLP | {"dropout": 0.5, "schedule": "cosine"}
SLOW = MLP | {"optimizer": {"name": "adam", "lr": 0.003, "weight_decay": 0.0}}
AIRBENCH = MLP | {
    "network": {"name": "airbench", "widths": [4, 4, 4], "depth": 2},
    "initializer": "dirac",
    "activation": "gelu",
    "label_smoothing": 0.2,
    "optimizer": {"name": "muon", "lr": 0.1, "weight_decay": 0.01, "sgd_lr": 0.5, "bias_lr": 0.5},
    "schedule": "linear",
}
RESNET = MLP | {"network": {"name": "resnet", "width": 4, "blocks": [1, 1]}, "schedule": "cosine"}


def bars(count: int, seed: int, noise: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 8×8 images with a bright bar at the left, in the middle or at the right."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    images = random.integers(0, noise, (count, 8, 8, 1))
    for image, label in zip(images, labels):
        image[:, 1 + 3 * label] += 100
    return images.astype(np.uint8), labels


def noise(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that have nothing to do with their labels: what is learnt of them is wrong elsewhere."""
    return bars(count, 2)[0], np.random.default_rng(3).integers(0, 3, count)


def half_wrong(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bars with many wrong labels: validation gets better first, and worse when they are learnt by heart."""
    images, labels = bars(count, 4)
    wrong = np.random.default_rng(3).random(count) < 0.4
    return images, np.where(wrong, (labels + 1) % 3, labels)


TRAINING, VALIDATION = bars(50, 0), bars(30, 1)


def train(recipe: dict = MLP, training=TRAINING, validation=VALIDATION, **settings) -> Fitted:
    given = {"mean": [0.25], "std": [0.2], "seed": 0, "epochs": 3, "batch_size": 8, "threads": 1} | settings
    return fit(recipe, training, validation, class_names=CLASSES, **given)


def assert_same(first: Fitted, second: Fitted) -> None:
    assert first.history == second.history
    assert first.best_epoch == second.best_epoch
    assert first.state.keys() == second.state.keys()
    for name, tensor in first.state.items():
        assert torch.equal(tensor, second.state[name]), name


def predictor(recipe: dict, fitted: Fitted) -> weights.Predictor:
    network = networks.build(recipe, (8, 8, 1), len(CLASSES))
    network.load_state_dict(fitted.state)
    return weights.Predictor(network, [0.25], [0.2]).eval()


def measured(recipe: dict, fitted: Fitted, split=VALIDATION) -> tuple[float, float]:
    """NLL and accuracy, by another way than training takes."""
    predicted, labels = weights.predict(predictor(recipe, fitted), split[0]), torch.from_numpy(split[1])
    nll = torch.nn.functional.nll_loss(predicted, labels)
    return nll.item(), (predicted.argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("recipe", [DROPPING, RESNET, AIRBENCH], ids=["mlp", "resnet", "airbench"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(recipe):
    first = train(recipe, augment="shift_flip")
    torch.manual_seed(99)  # whatever was drawn before
    torch.rand(7)
    assert_same(first, train(recipe, augment="shift_flip"))
    other = train(recipe, augment="shift_flip", seed=1)
    assert any(not torch.equal(tensor, other.state[name]) for name, tensor in first.state.items())


def test_whitening_is_taken_from_training_images_as_they_are():
    """Neither their augmentation nor the seed has a say, and no step changes it."""
    whitening = Whitening((8, 8, 1))
    whitening.fit(Images(*TRAINING, [0.25], [0.2]).first(5000))
    for seed in (0, 1):
        fitted = train(AIRBENCH, augment="shift_flip", seed=seed)
        assert torch.equal(fitted.state["whitening.filters"], whitening.filters)
    assert fitted.state["whitening.bias"].any()


class Interrupted(Exception):
    pass


@pytest.fixture
def every_epoch_is_saved(monkeypatch):
    monkeypatch.setattr(SaveLast, "SHARE", 1)


def test_checkpoints_take_little_of_the_time(tmp_path, monkeypatch):
    save, saved, now = SaveLast.save, [], [0.0]

    def slow(self, trainer: object) -> None:
        saved.append(trainer.current_epoch + 1)
        save(self, trainer)
        now[0] += 0.5

    monkeypatch.setattr(SaveLast, "save", slow)
    # By the clock that `SaveLast` reads an epoch takes no time and a checkpoint half a second, on every machine.
    monkeypatch.setattr("lightning_modules.fit.time", types.SimpleNamespace(monotonic=lambda: now[0]))
    train(epochs=20, checkpoint=tmp_path / "replica.ckpt")
    assert saved == [1]
    # Where a turn ends there is one: the next one goes on from there.
    train(epochs=20, checkpoint=tmp_path / "other.ckpt", turn=10)
    assert saved == [1, 1, 10]


def test_what_takes_no_longer_than_may_be_lost_is_not_saved(tmp_path):
    train(epochs=2, checkpoint=tmp_path / "replica.ckpt", unsaved=3600.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["middle", "end"])
@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("recipe", [DROPPING, RESNET, AIRBENCH], ids=["mlp", "resnet", "airbench"])
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(
    recipe, epoch, moment, every_epoch_is_saved, tmp_path, monkeypatch
):
    monkeypatch.setattr(classifier, "BLOCK", 2)
    settings = {"augment": "shift_altflip_cutout", "epochs": 4, "early_stopping": 10}
    whole = train(recipe, **settings)

    def report(event: dict) -> None:
        if event["epoch"] == epoch and ("row" in event) == (moment == "end"):
            raise Interrupted

    checkpoint = tmp_path / "a folder" / "replica.ckpt"
    with pytest.raises(Interrupted):
        train(recipe, **settings, checkpoint=checkpoint, report=report)
    assert checkpoint.exists() == (epoch > 1)
    torch.manual_seed(5)
    seen = []
    resumed = train(recipe, **settings, checkpoint=checkpoint, report=seen.append)
    assert [event["row"]["epoch"] for event in seen if "row" in event] == list(range(epoch, 5))
    assert_same(whole, resumed)


@pytest.mark.parametrize("epoch", range(2, 10))
def test_early_stopping_remembers_what_was_before_an_interruption(epoch, every_epoch_is_saved, tmp_path):
    settings = {"training": half_wrong(40), "epochs": 40, "early_stopping": 3}
    whole = train(SLOW, **settings)
    assert (whole.best_epoch, len(whole.history)) == (6, 9)  # better, worse, better in between

    def report(event: dict) -> None:
        if event["epoch"] == epoch and "row" in event:
            raise Interrupted

    checkpoint = tmp_path / "replica.ckpt"
    with pytest.raises(Interrupted):
        train(SLOW, **settings, checkpoint=checkpoint, report=report)
    assert_same(whole, train(SLOW, **settings, checkpoint=checkpoint))


@pytest.mark.parametrize("settings", [{"epochs": 3}, {"epochs": 40, "early_stopping": 2}], ids=["epochs", "early"])
def test_a_finished_training_that_is_resumed_stays_as_it_is(settings, tmp_path):
    # The process may die after the last checkpoint and before its result is written.
    settings = {**settings, "training": half_wrong(40), "checkpoint": tmp_path / "replica.ckpt"}
    finished = train(SLOW, **settings)
    assert_same(finished, train(SLOW, **settings))


@pytest.mark.parametrize(("turn", "calls"), [(1, 9), (4, 3), (9, 1), (40, 1)])
def test_a_training_in_turns_is_the_training(turn, calls, tmp_path):
    settings = {"training": half_wrong(40), "epochs": 40, "early_stopping": 3}
    parts = [train(SLOW, **settings, turn=turn, checkpoint=tmp_path / "replica.ckpt") for _ in range(calls)]
    assert [part.finished for part in parts] == [False] * (calls - 1) + [True]
    assert [len(part.history) for part in parts] == [min(9, turn * (number + 1)) for number in range(calls)]
    assert_same(train(SLOW, **settings), parts[-1])


@pytest.mark.parametrize("turn", [{"turn": 1}, {"turn": 0, "checkpoint": Path("replica.ckpt")}])
def test_turns_that_come_to_no_end_are_refused(turn):
    with pytest.raises(ValueError, match="give 1 or more, and a checkpoint"):
        train(epochs=2, **turn)


def test_only_whole_checkpoints_are_left(tmp_path):
    train(checkpoint=tmp_path / "replica.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["replica.ckpt"]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_it_learns_one_batch_by_heart(name):
    settings = {
        "mlp": {"hidden": [16]},
        "shallow": {"hidden": 16},
        "lenet": {"channels": [6, 16], "hidden": [16, 16]},
        "cnn": {"channels": [4, 4, 4, 4, 4], "hidden": 16},
        "resnet": {"width": 8, "blocks": [1, 1]},
        "split_merge": {"widths": [8, 16]},
        "rnn": {"hidden": 32},
        "lstm": {"hidden": 32},
        "gru": {"hidden": 32},
        "airbench": {"widths": [32, 32], "depth": 2},
    }[name]
    recipe = MLP | {"network": {"name": name, **settings}}
    batch = noise(8)
    fitted = train(recipe, training=batch, validation=batch, epochs=120)
    assert measured(recipe, fitted, batch)[1] == 1.0
    assert fitted.history[-1]["training_loss"] < 0.05
    assert fitted.history[-1]["training_loss"] < fitted.history[0]["training_loss"] / 10


def test_it_learns_what_there_is_to_learn():
    assert measured(MLP, train(epochs=15))[1] >= 0.9


def test_early_stopping_stops_and_the_best_epochs_weights_come_back():
    fitted = train(training=half_wrong(20), epochs=60, early_stopping=3)
    losses = [row["validation_nll"] for row in fitted.history]
    assert len(losses) == fitted.best_epoch + 3 < 60
    assert losses[fitted.best_epoch - 1] == min(losses) < min(losses[0], losses[-1])
    nll, accuracy = measured(MLP, fitted)
    assert nll == pytest.approx(min(losses), rel=1e-5)
    assert accuracy == pytest.approx(fitted.history[fitted.best_epoch - 1]["validation_accuracy"])


def test_the_best_epoch_can_go_by_accuracy():
    fitted = train(epochs=12, monitor="accuracy", early_stopping=4)
    accuracies = [row["validation_accuracy"] for row in fitted.history]
    assert fitted.best_epoch == accuracies.index(max(accuracies)) + 1
    assert measured(MLP, fitted)[1] == pytest.approx(max(accuracies))
    assert len(accuracies) == min(12, fitted.best_epoch + 4)


def test_without_early_stopping_all_epochs_run():
    fitted = train(training=noise(20), epochs=12)
    assert len(fitted.history) == 12
    assert fitted.best_epoch < 12


def test_the_history_has_a_row_of_finite_numbers_for_every_epoch():
    fitted = train(MLP | {"schedule": "linear"}, epochs=4)
    assert [row["epoch"] for row in fitted.history] == [1, 2, 3, 4]
    for row in fitted.history:
        assert set(row) == {"epoch", "training_loss", "validation_nll", "validation_accuracy", "lr"}
        assert np.isfinite(list(row.values())).all()
    # That of each epoch's last step, not of the one after it.
    steps = -(-len(TRAINING[0]) // 8)
    assert [row["lr"] for row in fitted.history] == pytest.approx(
        [0.01 * (1 - (epoch * steps - 1) / (4 * steps)) for epoch in (1, 2, 3, 4)]
    )


def test_the_training_loss_is_the_mean_over_images_whatever_the_batches():
    # A rate this small leaves the weights as they are; 50 images make six batches of 8 and one of 2.
    still = MLP | {"optimizer": {"name": "sgd", "lr": 1e-12, "weight_decay": 0.0}}
    fitted = train(still, validation=TRAINING, epochs=1)
    row = fitted.history[0]
    assert row["training_loss"] == pytest.approx(row["validation_nll"], rel=1e-5)


def test_the_report_runs_through_every_epoch(monkeypatch):
    monkeypatch.setattr(classifier, "BLOCK", 2)
    seen = []
    fitted = train(epochs=2, report=seen.append)
    assert [event["row"] for event in seen if "row" in event] == fitted.history
    assert [event["done"] for event in seen if event["epoch"] == 1] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("recipe", [DROPPING, RESNET, AIRBENCH], ids=["mlp", "resnet", "airbench"])
def test_the_size_of_a_block_changes_nothing(recipe, monkeypatch):
    results = []
    for block in (1, 3, 50):
        monkeypatch.setattr(classifier, "BLOCK", block)
        results.append(train(recipe, augment="shift", epochs=2))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_schedule_goes_by_the_planned_epochs(schedule):
    # A training planned longer begins alike, where its learning rate does.
    recipe = MLP | {"schedule": schedule}
    first, longer = train(recipe, epochs=2).history, train(recipe, epochs=4).history
    assert (first == longer[:2]) == (schedule == "constant")


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_loss_that_is_no_number_ends_the_training_and_names_the_epoch(epoch, tmp_path):
    images, labels = TRAINING
    explosive = MLP | {"optimizer": {"name": "sgd", "lr": 1e30, "weight_decay": 0.0}}
    checkpoint = tmp_path / "replica.ckpt"
    if epoch == 2:
        train(epochs=1, checkpoint=checkpoint)  # the first epoch is a good one
        state = torch.load(checkpoint, weights_only=True)
        state["state_dict"]["network.1.weight"].fill_(float("nan"))
        torch.save(state, checkpoint)
        sealed.seal(checkpoint)
        explosive = MLP
    with pytest.raises(DivergedError, match=rf"(training loss|validation nll) became (nan|inf) in epoch {epoch}\b"):
        train(explosive, training=(images, labels), checkpoint=checkpoint)


@pytest.mark.parametrize("recipe", [MLP, RESNET], ids=["mlp", "resnet"])
def test_bfloat16_trains(recipe):
    exact, mixed = train(recipe, epochs=8), train(recipe, epochs=8, precision="bfloat16")
    assert mixed.history != exact.history
    assert mixed.history[-1]["training_loss"] < mixed.history[0]["training_loss"]
    assert mixed.history[-1]["training_loss"] == pytest.approx(exact.history[-1]["training_loss"], abs=0.2)
    # The weights themselves are kept in full precision.
    assert {tensor.dtype for tensor in mixed.state.values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize("visible", [None, "1,0"])
def test_the_environment_is_left_alone(visible, monkeypatch):
    """CUDA counts the GPUs that it sees once in a process, and whoever calls `fit` may want them later."""
    name = "CUDA_VISIBLE_DEVICES"
    monkeypatch.delenv(name, raising=False)
    if visible is not None:
        monkeypatch.setenv(name, visible)
    seen = []
    train(DROPPING, epochs=1, report=lambda event: seen.append(os.environ.get(name)))
    assert {*seen, os.environ.get(name)} == {visible}


def test_automatic_precision_is_one_of_the_two():
    assert hardware_precision("auto", "cpu") in ("float32", "bfloat16")
    assert hardware_precision("float32", "gpu") == "float32"


def test_automatic_precision_is_float32_where_onednn_is_held_to_less():
    code = "from lightning_modules.fit import hardware_precision; print(hardware_precision('auto', 'cpu'))"
    env = environment(ONEDNN_MAX_CPU_ISA="AVX2")
    assert subprocess.check_output([sys.executable, "-c", code], env=env, text=True) == "float32\n"


def test_an_optimizer_that_torch_refuses_is_bad_input():
    refused = MLP | {"optimizer": {"name": "nag", "lr": 0.1, "weight_decay": 0.0, "momentum": 0.0}}
    with pytest.raises(InputError, match="nag"):
        train(refused)


def test_label_smoothing_costs_confidence():
    batch = noise(8)
    sure = train(training=batch, validation=batch, epochs=100)
    smoothed = train(MLP | {"label_smoothing": 0.3}, training=batch, validation=batch, epochs=100)
    assert smoothed.history[-1]["validation_nll"] > sure.history[-1]["validation_nll"] + 0.05


def test_a_checkpoint_loads_by_itself(tmp_path):
    train(RESNET, checkpoint=tmp_path / "replica.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = classifier.Classifier.load_from_checkpoint(tmp_path / "replica.ckpt", weights_only=True)
    assert module.hparams.recipe == RESNET
    assert module.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


class Runs:
    """A pickle of it makes a folder where it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("content", [{"state_dict": Runs()}, {"state_dict": 1}, Runs(), []])
def test_what_is_no_checkpoint_is_refused_and_never_run(tmp_path, monkeypatch, content, old):
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "replica.ckpt"
    torch.save(content, checkpoint, _use_new_zipfile_serialization=not old)
    sealed.seal(checkpoint)  # which anybody can
    with pytest.raises(InputError, match=r"replica\.ckpt is no checkpoint of this project: remove it"):
        train(checkpoint=checkpoint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["replica.ckpt"]


def test_a_damaged_checkpoint_is_put_aside_and_the_training_begins_anew(every_epoch_is_saved, tmp_path):
    checkpoint = tmp_path / "replica.ckpt"
    aside = tmp_path / "replica.ckpt.damaged"
    whole = train(DROPPING, epochs=4)

    def report(event: dict) -> None:
        if event["epoch"] == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(DROPPING, epochs=4, checkpoint=checkpoint, report=report)
    saved = checkpoint.read_bytes()
    flips = []
    for position in range(0, len(saved), len(saved) // 150):
        flips.append(bytearray(saved))
        flips[-1][position] ^= 1
    for damaged in (*flips, b"", saved[:1000], saved[:-1], saved + b"0"):
        checkpoint.write_bytes(damaged)
        assert fit_module.checked(checkpoint) == aside
        assert aside.read_bytes() == damaged
        assert not checkpoint.exists()
    checkpoint.write_bytes(saved)
    assert fit_module.checked(checkpoint) is None
    checkpoint.write_bytes(flips[75])
    seen = []
    assert_same(whole, train(DROPPING, epochs=4, checkpoint=checkpoint, report=seen.append))
    assert seen[0] == {"replica": 0, "aside": aside}
    assert [event["row"]["epoch"] for event in seen if "row" in event] == [1, 2, 3, 4]
    # What it has saved since is whole, and gone on with.
    seen.clear()
    train(DROPPING, epochs=5, checkpoint=checkpoint, report=seen.append)
    assert seen[0] == {"replica": 0, "aside": None}
    assert [event["row"]["epoch"] for event in seen if "row" in event] == [5]


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(every_epoch_is_saved, tmp_path, monkeypatch):
    def full(file: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealed, "seal", full)
    with pytest.raises(OSError, match="No space left"):
        train(epochs=2, checkpoint=tmp_path / "replica.ckpt")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("more", [{"mixup": 0.2}, {"cutout": 0.25}, {"augment": "shift"}, {"dropout": 0.5}])
def test_the_order_of_the_images_is_the_seeds_alone(more, monkeypatch):
    """Whatever else is drawn: so that what differs in it is compared on the same mini-batches."""
    orders: list[list] = []
    draw_order = classifier.Classifier.draw_order

    def noted(module):
        found = draw_order(module)
        orders[-1].append(found.tolist())
        return found

    monkeypatch.setattr(classifier.Classifier, "draw_order", noted)
    for changed in ({}, more):
        orders.append([])
        regularization = {key: value for key, value in changed.items() if key in ("mixup", "cutout")}
        recipe = MLP | {"regularization": regularization, "dropout": changed.get("dropout", 0.0)}
        train(recipe, epochs=3, augment=changed.get("augment", "none"))
    assert len(orders[0]) == 4  # one more than epochs: an epoch's end draws the next one's
    assert orders[0][0] != orders[0][1]
    assert orders[0] == orders[1]
