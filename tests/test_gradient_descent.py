"""Full-batch gradient descent: one step an epoch, of the gradient over the whole training split."""

import pytest
import torch
from test_fit import MLP, TRAINING, Interrupted, assert_same, bars, train
from test_together import SEEDS, assert_alike, train_together

from lightning_modules.classifier import Classifier
from lightning_modules.images import Images

DESCENT = MLP | {"optimizer": {"name": "gradient_descent", "lr": 0.5, "weight_decay": 0.01}, "schedule": "linear"}
SGD = DESCENT | {"optimizer": DESCENT["optimizer"] | {"name": "sgd"}}


@pytest.mark.parametrize("batch_size", [7, 16, 50, 1000])  # 50 images: a last part of one, of two, and one part alone
def test_a_step_is_that_of_sgd_with_all_images_in_a_mini_batch(batch_size):
    whole = train(SGD, batch_size=len(TRAINING[1]), epochs=6)
    assert_alike(whole, train(DESCENT, batch_size=batch_size, epochs=6))
    # And not that of mini-batches.
    small = train(SGD, batch_size=7, epochs=6)
    assert small.history[-1]["training_loss"] != pytest.approx(whole.history[-1]["training_loss"], rel=0.05)


def test_images_that_count_less_than_the_others_would_be_noticed():
    """The last part is smaller: its mean has to weigh less, not as much as the others'."""
    module = Classifier(DESCENT, [8, 8, 1], 3, seed=0, epochs=1, batch_size=7)
    images = Images(*TRAINING, [0.25], [0.2])
    module.attach(images, images)
    assert sum(share for _, share in module.parts(torch.arange(50))) == pytest.approx(1)
    assert [round(share * 50) for _, share in module.parts(torch.arange(50))] == [7] * 7 + [1]


def test_no_more_images_than_a_mini_batch_has_are_in_memory_at_once(monkeypatch):
    seen = []
    forward = Classifier.forward

    def watched(module: Classifier, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(len(images))
        return forward(module, images)

    monkeypatch.setattr(Classifier, "forward", watched)
    train(DESCENT, batch_size=16, epochs=2)
    assert seen == [16, 16, 16, 2] * 2


def test_the_schedule_goes_by_epochs():
    fitted = train(DESCENT, epochs=4)
    assert [row["lr"] for row in fitted.history] == pytest.approx([0.5, 0.375, 0.25, 0.125])


def test_each_learns_together_what_it_learns_alone():
    recipes = [DESCENT | {"optimizer": DESCENT["optimizer"] | {"lr": rate}} for rate in (0.5, 0.2, 0.1)]
    for one, seed, fitted in zip(recipes, SEEDS, train_together(recipes, epochs=4)):
        assert_alike(train(one, seed=seed, epochs=4), fitted)


def test_an_interrupted_descent_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_modules.fit.SaveLast.SHARE", 1)
    dropping = DESCENT | {"dropout": 0.3}
    settings = {"epochs": 5, "augment": "shift"}
    whole = train(dropping, **settings)

    def report(event: dict) -> None:
        if event["epoch"] == 4 and "row" not in event:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(dropping, **settings, checkpoint=tmp_path / "one.ckpt", report=report)
    assert_same(whole, train(dropping, **settings, checkpoint=tmp_path / "one.ckpt"))


def test_the_loss_falls_in_each_epoch():
    fitted = train(DESCENT | {"schedule": "constant"}, training=bars(40, 0), epochs=10)
    losses = [row["training_loss"] for row in fitted.history]
    assert losses == sorted(losses, reverse=True)
