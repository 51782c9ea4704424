"""Our side of a comparison: trains networks by the functions that the train stage calls, in a project made for it.

Every training saves its checkpoint, and logs its epochs to MLflow.
"""

import tempfile
from pathlib import Path

from benchmarks import aside

MEMBER = "bench"


class Unlogged:
    """Replaces a Tracker if MLflow is not installed."""

    def start(self) -> None:
        pass

    def epoch(self, number: int, row: dict) -> None:
        pass


def prepare(settings: dict):
    """Returns the function that trains, see `aside.serve`. Runs in the project's folder.

    Args:
        settings: together: whether replicas are trained at once or one after another; threads: of a network that is
            trained alone; logging: whether MLflow is installed.
    """
    import torch

    from flows.data import dataset
    from flows.machine import hardware
    from flows.params import params_file, sections
    from flows.tracking.member_runs import Tracker
    from flows.training.interrupted import Clock
    from flows.training.replicas import train_replicas
    from flows.training.resolving import side_by_side
    from lightning_modules.fit import fit, hardware_precision

    given = params_file.read()
    data = dataset.load(given.dataset)
    splits = {} if settings["together"] else {"training": data.split("train"), "validation": data.split("validation")}
    accelerator = hardware.accelerator(given.training.accelerator, given.training.devices)
    if accelerator == "cpu":
        hardware.hide_gpus()  # as the stage's workers do
    # As in the stage: a process that forks must not have started a thread pool.
    threads = given.training.threads if settings["together"] else settings["threads"]
    torch.set_num_threads(1 if settings["together"] else threads)

    def train(seed: int, precision: str, replicas: int = 1, parallel: str = "processes") -> float:
        """Trains, and returns the networks' mean accuracy on the validation images after the last epoch."""
        card = {
            "member": MEMBER,
            "dataset": given.dataset,
            "seed": seed,
            "recipe": given.member(MEMBER).recipe,
            "settings": {
                **{key: getattr(given.feed, key) for key in ("epochs", "batch_size", "augment")},
                **given.training.model_dump(exclude=sections.PLACES),
                "accelerator": accelerator,
                "precision": precision,
                "threads": threads,
                "parallel": parallel,
            },
            **{key: data.card[key] for key in ("shape", "class_names", "mean", "std")},
        }
        seeds = [seed * 1000 + number for number in range(replicas)]
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            if settings["together"]:
                tracker = new_tracker(card, seeds)
                jobs = side_by_side(replicas, threads, accelerator, 1)
                clock = Clock(work / "seconds.json")
                fitted = train_replicas(card, seeds, work, jobs=jobs, devices=1, tracker=tracker, clock=clock)
                end(tracker)
            else:
                fitted = [one(card, number, work / str(number)) for number in seeds]
        return sum(result.history[-1]["validation_accuracy"] for result in fitted) / replicas

    def one(card: dict, seed: int, checkpoint: Path):
        tracker = new_tracker(card, [seed])
        tracker.start()
        told = {key: card[key] for key in ("recipe", "class_names", "mean", "std")} | card["settings"]
        del told["parallel"]
        fitted = fit(
            **splits, **told, seed=seed, checkpoint=checkpoint,
            report=lambda event: tracker.epoch(0, event["row"]) if "row" in event else None,
        )  # fmt: skip
        end(tracker)
        return fitted

    def new_tracker(card: dict, seeds: list[int]):
        return Tracker(card, seeds) if settings["logging"] else Unlogged()

    def end(tracker) -> None:
        if not settings["logging"]:
            return
        assert not tracker.lost, "MLflow could not be used: what was measured did not log"
        for run in tracker.ids.values():
            tracker.client.set_terminated(run)

    train.about = {"precision": hardware_precision("auto", accelerator)}
    return train


if __name__ == "__main__":
    aside.serve(prepare)
