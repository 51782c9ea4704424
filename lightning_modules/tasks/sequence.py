"""A sequence of classes for each image, without a word on where in the image each of them is."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules import names
from lightning_modules.errors import InputError
from lightning_modules.losses import Loss
from lightning_modules.tasks.interface import Means, Task

PADDING = -1  # of labels, after the end of a sequence


def soft_vote(predictions: Tensor, weights: Tensor | None = None) -> Tensor:
    """The log of the networks' mean probability of each class at each step."""
    return predictions.logsumexp(0) - math.log(len(predictions))


class Sequence(Task):
    """Labels: int64, images × longest, padded with -1. Predictions: log-probabilities, images × steps × (classes + 1);
    the last one is the blank's, at steps that name no class."""

    MONITORS: ClassVar = {"nll": ("validation_nll", 1), "accuracy": ("validation_accuracy", -1)}
    ENSEMBLES: ClassVar = {"soft_vote": soft_vote}
    ORDERS: ClassVar = {"nll": (("nll", 1), ("accuracy", -1)), "accuracy": (("accuracy", -1), ("nll", 1))}
    SCORES = ("accuracy", "cer", "nll")
    each_step = True

    def __init__(self, card: Mapping[str, Any]) -> None:
        self.outputs = len(card["class_names"]) + 1

    def loss(self, given: str | dict, smoothing: float) -> Loss:
        if names.name_of(given) != "ctc":
            raise InputError(f"loss {names.name_of(given)} does not fit task sequence: it takes ctc")
        return lambda logits, labels, smoothing=0.0: ctc(logits.log_softmax(-1), labels)

    def predicted(self, given: str | dict, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)

    def columns(self, predictions: Tensor, labels: Tensor) -> dict[str, Tensor]:
        found = decoded(predictions)
        edits = distances(found.flatten(0, -2), labels.flatten(0, -2)).view(labels.shape[:-1])
        return {
            "nll": ctc(predictions, labels),
            "right": edits == 0,
            "edits": edits,
            "characters": (labels != PADDING).sum(-1),
        }

    def scores(self, means: Means) -> dict[str, Tensor]:
        """accuracy, the share of images whose whole sequence is right; cer, the character error rate: insertions,
        deletions and substitutions for each character of the truth; nll, in nats an image, over all alignments."""
        return {
            "accuracy": means["right"],
            "cer": means["edits"] / means["characters"],
            "nll": means["nll"],
        }


def ctc(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """The negative log-likelihood of each image's sequence, the sum over all alignments, in nats.

    Source: Graves, Fernández, Gomez and Schmidhuber, Connectionist Temporal Classification, 2006.

    Args:
        log_probabilities: ... × steps × (classes + 1), the blank last.
        labels: ... × longest, padded with -1.
    """
    steps, outputs = log_probabilities.shape[-2:]
    # On the CPU: a GPU adds the gradient up in an order that differs from run to run.
    given = log_probabilities.flatten(0, -3).transpose(0, 1).cpu()
    targets = labels.flatten(0, -2).cpu()
    lengths = (targets != PADDING).sum(-1)
    loss = F.ctc_loss(
        given, targets.clamp_min(0), torch.full_like(lengths, steps), lengths, blank=outputs - 1, reduction="none"
    )
    return loss.view(labels.shape[:-1]).to(log_probabilities.device)


def decoded(log_probabilities: Tensor) -> Tensor:
    """The greedy decoding: at each step the most probable class, of which repetitions and then blanks are left out.

    Args:
        log_probabilities: ... × steps × (classes + 1), the blank last.

    Returns:
        int64, ... × steps, padded with -1.
    """
    blank = log_probabilities.shape[-1] - 1
    best = log_probabilities.argmax(-1)
    repeated = torch.zeros_like(best, dtype=torch.bool)
    repeated[..., 1:] = best[..., 1:] == best[..., :-1]
    kept = (best != blank) & ~repeated
    # A stable sort moves what is kept to the front, in its order.
    order = (~kept).to(torch.uint8).sort(dim=-1, stable=True).indices
    return best.masked_fill(~kept, PADDING).gather(-1, order)


def distances(found: Tensor, truth: Tensor) -> Tensor:
    """The edit distance of each pair of sequences: insertions, deletions and substitutions.

    Source: Levenshtein, Binary codes capable of correcting deletions, insertions and reversals, 1966.

    Args:
        found, truth: N × any length, padded with -1.
    """
    found_length, truth_length = ((given != PADDING).sum(-1) for given in (found, truth))
    longest = int(found_length.max()) if len(found) else 0
    # row[j] is the distance of the first characters of `found` to the first j of `truth`.
    row = torch.arange(truth.shape[1] + 1, device=truth.device).expand(len(truth), -1)
    for place in range(longest):
        new = [row[:, 0] + 1]
        for at in range(truth.shape[1]):
            other = (found[:, place] != truth[:, at]).long()
            new.append(torch.minimum(torch.minimum(new[-1], row[:, at + 1]) + 1, row[:, at] + other))
        row = torch.where((place < found_length)[:, None], torch.stack(new, 1), row)
    return row.gather(1, truth_length[:, None])[:, 0]
