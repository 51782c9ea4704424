"""A trained member on disk: weights.safetensors, and its card, member.json, with the recipe. It loads by itself."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from lightning_modules import names, sealed, tasks, views
from lightning_modules.errors import DamagedError
from lightning_modules.images import normalize

NEEDED = ("replicas", "recipe", "shape", "class_names", "mean", "std")  # keys of a card


class Predictor(nn.Module):
    """A trained network with its preprocessing: images N×H×W×C, as they are in the dataset, in, predictions out, which
    are log-probabilities N×classes unless the task is another.

    Args:
        mean, std: per channel, see `images.normalize`.
        test_time_views: a key of `views.VIEWS`; logits are averaged over these views.
        loss: that of the recipe, see `losses.log_probabilities`.
        task: None: classification.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, mean: list[float], std: list[float],
        test_time_views: str = "none", loss: str | dict = names.DEFAULTS["loss"], task: tasks.Task | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.task = network, task or tasks.of({"class_names": []})
        self.test_time_views, self.loss = test_time_views, loss
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, images: Tensor) -> Tensor:
        images = normalize(images, self.mean, self.std)
        return self.task.predicted(self.loss, views.logits(self.network, images, self.test_time_views))


def save(folder: Path, card: dict, replicas: list[dict[str, Tensor]]) -> None:
    """Writes weights.safetensors, with keys "<replica>.<parameter>", and the card.

    Args:
        card: `load` needs its recipe, shape, class_names, mean and std, and a dict per replica in `replicas`, whose
            weights_sha256, the `digest` of the replica's state, is checked against the weights. All of it is kept.
        replicas: the state_dict of each replica's network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{number}.{name}": tensor.contiguous()
        for number, state in enumerate(replicas)
        for name, tensor in state.items()
    }
    # Not safetensors's save_file: it makes files that only their owner can read.
    (folder / "weights.safetensors").write_bytes(serialize(tensors))
    text = json.dumps(sealed.sealed(card), indent=2, ensure_ascii=False) + "\n"
    (folder / "member.json").write_text(text, encoding="utf-8")


def read_card(folder: Path) -> dict:
    """The card of a trained member.

    Raises:
        DamagedError: the card is not what was written.
        FileNotFoundError: there is no card.
    """
    file = folder / "member.json"
    try:
        card = sealed.opened(json.loads(file.read_text(encoding="utf-8")), file)
        [card[name] for name in NEEDED]
        return card
    except DamagedError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError):
        raise DamagedError(file, "is no card of a member (emptied or damaged)") from None


def load(folder: Path) -> tuple[dict, list[Predictor]]:
    """The card and one predictor, in evaluation mode on the CPU, for each replica.

    Raises:
        DamagedError: a file is not what was written.
        FileNotFoundError: a file is missing.
    """
    card, file = read_card(folder), folder / "weights.safetensors"
    try:
        states: list[dict[str, Tensor]] = [{} for _ in card["replicas"]]
        for key, tensor in load_file(file).items():
            replica, _, name = key.partition(".")
            states[int(replica)][name] = tensor
    except (SafetensorError, ValueError, IndexError, KeyError) as error:  # a damaged header
        raise DamagedError(file, f"cannot be read (damaged: {error})") from None
    predictors, task = [], tasks.of(card)
    for number, (about, state) in enumerate(zip(card["replicas"], states)):
        network = task.network(card["recipe"], card["shape"])
        # The digest covers names and bytes. Shapes and types are compared too: with another type the same bytes are
        # other numbers.
        same, written = kinds(state) == kinds(network.state_dict()), about.get("weights_sha256")
        if not same or (written and written != digest(state)):
            raise DamagedError(file, f"is not what member.json says of replica {number} (changed or damaged)")
        network.load_state_dict(state)
        shown, loss = (card["recipe"].get(key, names.DEFAULTS[key]) for key in ("test_time_views", "loss"))
        predictors.append(Predictor(network, card["mean"], card["std"], shown, loss, task).eval())
    return card, predictors


def kinds(state: dict[str, Tensor]) -> dict[str, tuple]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 of a network's state_dict, which identifies a trained replica everywhere."""
    result = hashlib.sha256()
    for name in sorted(state):
        result.update(name.encode())
        result.update(state[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()


@torch.inference_mode()
def predict(
    predictor: nn.Module, images: Any, device: torch.device | str = "cpu", batch_size: int = 1000, rows: Any = None
) -> Tensor:
    """Predictions, N×... on the CPU, of images N×H×W×C in any array that torch can read.

    Args:
        rows: indices of the images to predict; None for all. No more than one batch of images is copied at a time.
    """
    torch.backends.cudnn.allow_tf32 = False  # served models compute in float32, so scores have to as well
    predictor = predictor.to(device)
    count, found = len(images if rows is None else rows), torch.empty(0)
    for start in range(0, count, batch_size):
        some = slice(start, start + batch_size)
        batch = torch.tensor(images[some] if rows is None else images[rows[some]])
        part = predictor(batch.to(device)).cpu()
        if not start:
            # One result for all batches: small ones, kept one by one, would lie between the large blocks of memory that
            # each batch frees, and keep them from being used again.
            found = torch.empty(count, *part.shape[1:])
        found[some] = part
    return found
