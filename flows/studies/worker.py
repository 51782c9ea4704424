"""A worker process of a study: trains stacks of trials, and scores them."""

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flows.machine import hardware
from flows.project import file_io
from flows.studies import gradients, timing
from flows.studies.data import Splits, load
from flows.studies.specification import Study
from flows.studies.trials import DEFAULT, Trial, seed_of
from flows.training.worker_process import die_with_parent, failure
from lightning_modules import scores
from lightning_modules.ensembles import soft_vote
from lightning_modules.fit import Fitted, fit, fit_together
from lightning_modules.images import Images
from lightning_modules.optimizers import FULL_BATCH
from lightning_modules.together import log_probabilities

MEASURED = ("training_accuracy", "validation_accuracy", "validation_nll", "held_out_accuracy", "held_out_nll")
UNSAVED = 10.0  # seconds of a stack's training that an interrupt may cost: a checkpoint costs a twentieth of a second
MOST_TRAINING_IMAGES = 10_000  # on which the training accuracy is measured


def serve(connection: Connection, place: int, card: dict, study: Study) -> None:
    """The main function of a worker. Receives a list of trials and the path of the file that keeps their rows; writes
    the rows to it, and sends events: {"epochs": n} while it trains, then {"rows": rows}.

    Args:
        place: index of this worker: they do not differ.
        card: settings with accelerator, precision and threads.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    threading.Thread(target=die_with_parent, daemon=True).start()
    if card["settings"]["accelerator"] == "cpu":
        hardware.hide_gpus()
    torch.set_num_threads(card["settings"]["threads"])
    how = card["settings"] | {"device": 0}

    def tell(event: dict) -> None:
        try:
            connection.send(event)
        except OSError:  # nobody listens any more
            os._exit(143)

    splits: Splits | None = None
    while True:
        trials, file = connection.recv()
        try:
            splits = splits or load(study)
            rows = train(trials, splits, study, how, file.with_suffix(".ckpt"), lambda event: tell({"epochs": 1}))
            file_io.write_json(file, rows)
            file.with_suffix(".ckpt").unlink(missing_ok=True)
        except Exception as error:  # `failure` raises it again, unless it can be said in a sentence
            tell(failure(error))
            return
        tell({"rows": rows})


def train(
    trials: Sequence[Trial], splits: Splits, study: Study, how: Mapping[str, Any], checkpoint: Path,
    report: Callable[[dict], None],
) -> list[dict]:  # fmt: skip
    """Trains the networks of all trials as one computation, and scores each trial on every split.

    Args:
        how: accelerator, precision, threads and device.
        checkpoint: from which an interrupted training goes on.
        report: called for each network and epoch.

    Returns:
        A row per trial, see `row`.
    """
    recipes = [dict(trial.recipe) for trial in trials for _ in trial.seeds]
    seeds = [seed for trial in trials for seed in trial.seeds]
    given: dict[str, Any] = {
        **how,
        **trials[0].settings,
        "mean": splits.mean,
        "std": splits.std,
        "class_names": splits.card["class_names"],
        "early_stopping": study.early_stopping,
        "checkpoint": checkpoint,
        "report": lambda event: report(event) if "row" in event else None,
        "note_divergence": True,
        "unsaved": UNSAVED,
    }
    training = (splits.images, np.asarray(splits.labels), splits.train)
    validation = (splits.images, np.asarray(splits.labels), splits.validation)
    if len(seeds) == 1:
        fitted = [fit(recipes[0], training, validation, seed=seeds[0], **given)]
    else:
        fitted = fit_together(recipes, training, validation, seeds=seeds, **given)
    place = torch.device("cuda", how["device"]) if how["accelerator"] == "gpu" else torch.device("cpu")
    found = score(recipes, fitted, splits, place)
    rows, start = [], 0
    shape, classes = splits.card["shape"], len(splits.card["class_names"])
    images = Images(splits.images, np.asarray(splits.labels), splits.mean, splits.std, device=place, rows=splits.train)
    first_seed = seed_of(study.seed, "fresh", 0)
    for trial in trials:
        end = start + len(trial.seeds)
        made = row(fitted[start:end], found[start:end], splits, trial)
        if trial.setting == DEFAULT:  # before the first step the tuned networks are the same
            made["gradient_norms"] = gradients.norms(dict(trial.recipe), trial.seed, shape, classes, images)
            if trial.seed == first_seed:
                made["epoch_seconds"] = timing.epoch_seconds(
                    dict(trial.recipe), trial.seed, training, validation, given
                )
        rows.append(made)
        start = end
    return rows


def score(
    recipes: list[dict], fitted: Sequence[Fitted], splits: Splits, place: torch.device
) -> list[dict[str, Tensor]]:
    """The log-probabilities of each network, images × classes, by split; none for one that has no weights."""
    there = [number for number, one in enumerate(fitted) if one.state]
    found: list[dict[str, Tensor]] = [{} for _ in fitted]
    if not there:
        return found
    for name, numbers in rows_of(splits).items():
        images = Images(splits.images, np.asarray(splits.labels), splits.mean, splits.std, device=place, rows=numbers)
        said = log_probabilities(
            [recipes[number] for number in there], [fitted[number].state for number in there],
            splits.card["shape"], len(splits.card["class_names"]), images,
        )  # fmt: skip
        for number, own in zip(there, said):
            found[number][name] = own
    return found


def rows_of(splits: Splits) -> dict[str, np.ndarray]:
    return {
        "training": splits.train[:: -(-len(splits.train) // MOST_TRAINING_IMAGES)],
        "validation": splits.validation,
        "held_out": splits.held_out,
    }


def row(fitted: Sequence[Fitted], found: Sequence[dict[str, Tensor]], splits: Splits, trial: Trial) -> dict[str, Any]:
    """The results of a trial: those of its network, or of the soft vote of its networks.

    Returns:
        variant, setting, value, seed; diverged; training_accuracy, validation_accuracy, validation_nll,
        held_out_accuracy and held_out_nll of the best epoch (accuracies 0 to 1, nll in nats; NaN where it diverged);
        best_epoch, epochs, networks and steps_an_epoch; curve: a row an epoch, means over the networks. At the default
        also gradient_norms, see `gradients.norms`, and once a variant epoch_seconds, see `timing`.
    """
    diverged = any(one.diverged for one in fitted)
    numbers: dict[str, float] = dict.fromkeys(MEASURED, float("nan"))
    if not diverged:
        for name, chosen in rows_of(splits).items():
            vote = soft_vote(torch.stack([own[name] for own in found])) if len(found) > 1 else found[0][name]
            measured = scores.score(vote, torch.from_numpy(np.asarray(splits.labels[chosen])))
            numbers[f"{name}_accuracy"] = measured["accuracy"]
            if name != "training":
                numbers[f"{name}_nll"] = measured["nll"]
    curve = [
        {"epoch": rows[0]["epoch"]}
        | {key: float(np.mean([one[key] for one in rows])) for key in rows[0] if key not in ("epoch", "lr")}
        for rows in zip(*(one.history for one in fitted))
    ]
    return {
        "variant": trial.variant,
        "setting": trial.setting,
        "value": trial.value,
        "seed": trial.seed,
        "diverged": diverged,
        **numbers,
        "best_epoch": fitted[0].best_epoch,
        "epochs": max((len(one.history) for one in fitted), default=0),
        "networks": len(fitted),
        "steps_an_epoch": steps_an_epoch(trial, splits),
        "curve": curve,
    }


def steps_an_epoch(trial: Trial, splits: Splits) -> int:
    if trial.recipe["optimizer"]["name"] in FULL_BATCH:
        return 1
    return -(-len(splits.train) // trial.settings["batch_size"])
