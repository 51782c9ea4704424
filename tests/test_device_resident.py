"""A training step leaves the device alone: it reads nothing back and takes nothing from the host.

Shown on torch's `meta` device, which computes shapes and no values: what would have to wait for a GPU fails there, and
what would be copied between host and GPU is seen.
"""

import inspect
import sys

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_modules import names
from lightning_modules.classifier import Classifier
from lightning_modules.images import Images
from lightning_modules.optimizers import OPTIMIZERS, stacking
from lightning_modules.regularization import dropout
from lightning_modules.together import Together

SIDE, CLASSES, BATCH = 8, 3, 6
DEVICE = torch.device("meta")
NETWORKS = {
    "mlp": {"hidden": [8]},
    "cnn": {"channels": [4, 4, 4, 4, 4], "hidden": 8},
    "resnet": {"width": 4, "blocks": [1, 1]},
    "airbench": {"widths": [4, 4], "depth": 3},
}
# Those that a GPU takes many kernels for: the one kernel of the others would run on no `meta` tensor.
MANY_KERNELS = {"adagrad"} | {
    name for name, (kind, _) in OPTIMIZERS.items() if "fused" not in inspect.signature(kind).parameters
}
# torch's own, which compute some of their numbers on the host.
READ_BACK = {"adafactor"}


class Copies(TorchFunctionMode):
    """Notes every tensor that is made out of Python's numbers, or an array of them, for the device."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in ("tensor", "as_tensor", "new_tensor") and result.device == DEVICE:
            self.seen.append(function.__name__)
        return result


class Crossings(TorchDispatchMode):
    """Notes every operation that has tensors on the host and on the device."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if len({tensor.device for tensor in tensors}) > 1:
            self.seen.append(str(function))
        return result


def recipe(network: str = "mlp", optimizer: str = "rmsprop", lr: float = 0.01) -> dict:
    return {
        "network": {"name": network, **NETWORKS[network]},
        "activation": "relu",
        "initializer": "he_normal",
        "dropout": 0.3,
        "label_smoothing": 0.1,
        "optimizer": {"name": optimizer, "lr": lr, "weight_decay": 0.0},
        "schedule": "cosine",
    }


def on_device(module: Classifier, augment: str) -> Classifier:
    """The module as Lightning has it in the middle of an epoch, on the device."""
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 256, (20, SIDE, SIDE, 1), np.uint8), random.integers(0, CLASSES, 20)
    images = Images(pixels, labels, [0.5], [0.2], augment, device=DEVICE)
    module.to(DEVICE).attach(images, images)
    planned = module.configure_optimizers()
    for group in planned["optimizer"].param_groups:
        if "foreach" in group:
            group["foreach"] = True  # as by default on a GPU
    module.optimizers = lambda use_pl_optimizer: planned["optimizer"]
    module.lr_schedulers = lambda: planned["lr_scheduler"]
    module._trainer = None
    module.training_images.begin_epoch(0, module.seeds, module.generators)
    for layer in module.network.modules():
        if hasattr(layer, "begin_epoch"):
            layer.begin_epoch(module.generators)
    if module.regularization.mixup is not None:
        module.regularization.mixup.begin_epoch(module.training_images, module.generators)
    module.loss_sum = torch.zeros(len(module.seeds), device=DEVICE)
    module.on_validation_epoch_start()
    return module.train()


@pytest.fixture(autouse=True)
def meta_is_a_gpu(monkeypatch):
    monkeypatch.setattr(dropout, "STEPS", 1)  # masks are drawn in every step
    monkeypatch.setattr("lightning_modules.optimizers.building.on_gpu", lambda parameters: True)
    monkeypatch.setattr(sys.modules["torch.optim.asgd"], "_get_capturable_supported_devices", lambda **_: ["meta"])
    monkeypatch.setattr("torch.is_autocast_enabled", lambda device: False)  # which knows no such device


def crossings(module: Classifier) -> list[str]:
    batches = module.draw_order().split(BATCH, dim=-1)
    module.training_step(batches[:1], 0)  # makes the optimizer's state
    seen: list[str] = []
    with Copies(seen), Crossings(seen):
        module.training_step(batches, 1)
        with torch.no_grad():
            module.eval().validation_step(batches, 0)
    return seen


def one(given: dict, augment: str = "none") -> Classifier:
    return on_device(Classifier(given, [SIDE, SIDE, 1], CLASSES, 0, 5, BATCH), augment)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("augment", ["none", "shift_flip", "shift_altflip_cutout"])
def test_a_step_of_one_network(network, augment):
    assert crossings(one(recipe(network), augment)) == []


@pytest.mark.parametrize("network", sorted(NETWORKS.keys() - {"airbench"}))
@pytest.mark.parametrize("augment", ["none", "shift_altflip_cutout"])
def test_a_step_of_networks_together(network, augment):
    module = Together([recipe(network)] * 3, [SIDE, SIDE, 1], CLASSES, [0, 1, 2], 5, BATCH)
    assert crossings(on_device(module, augment)) == []


def test_a_step_of_networks_with_rates_of_their_own():
    recipes = [recipe(lr=rate) for rate in (0.01, 0.02)]
    module = Together(recipes, [SIDE, SIDE, 1], CLASSES, [0, 1], 5, BATCH)
    assert crossings(on_device(module, "none")) == []


REGULARIZED = {"l1": 0.1, "l2": 0.1, "max_norm": 1.0, "clip_norm": 1.0, "clip_value": 1.0, "mixup": 0.5, "cutout": 0.5}


@pytest.mark.parametrize("loss", names.TASKS["classification"])  # ctc is computed on the CPU, on purpose
def test_a_step_with_every_loss_and_all_regularization(loss):
    given = recipe() | {"loss": loss, "regularization": REGULARIZED}
    given["label_smoothing"] = 0.1 if loss in names.SMOOTHED else 0.0
    assert crossings(one(given)) == []
    module = Together([given, given | {"regularization": {"cutout": 0.5}}], [SIDE, SIDE, 1], CLASSES, [0, 1], 5, BATCH)
    assert crossings(on_device(module, "none")) == []


@pytest.mark.parametrize("optimizer", sorted(MANY_KERNELS - READ_BACK))
def test_a_step_of_every_optimizer(optimizer):
    assert crossings(one(recipe(optimizer=optimizer))) == []


@pytest.mark.parametrize("optimizer", sorted(stacking.STACKED))
def test_a_step_of_every_optimizer_with_a_stacked_version(optimizer):
    recipes = [recipe(optimizer=optimizer, lr=rate) for rate in (0.01, 0.02)]
    module = Together(recipes, [SIDE, SIDE, 1], CLASSES, [0, 1], 5, BATCH)
    assert crossings(on_device(module, "none")) == []


@pytest.mark.parametrize("optimizer", sorted(READ_BACK))
def test_what_reads_back_is_seen(optimizer):
    with pytest.raises(RuntimeError, match="meta"):
        crossings(one(recipe(optimizer=optimizer)))


def test_what_is_copied_to_the_device_is_seen():
    seen: list[str] = []
    with Copies(seen), Crossings(seen):
        torch.zeros(2, device=DEVICE).new_tensor([1.0, 2.0])
        torch.tensor([1.0, 2.0], device=DEVICE)
        torch.tensor([1.0, 2.0]).to(DEVICE)
    assert seen == ["new_tensor", "tensor", "aten._to_copy.default"]
