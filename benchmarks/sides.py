"""The two sides of a comparison of trainings: ours and a rival, each a process that waits for a seed."""

import importlib.util
import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks import data, ours, workplace
from benchmarks.aside import Aside
from flows.machine import hardware

# Names a Python with keras and tensorflow, in case this one has none.
KERAS = "TRAINYARD_BENCH_KERAS"
TITLES = {
    "usual_script": "the usual script (torchvision, DataLoader, Lightning, MLFlowLogger)",
    "bare_loop": "a bare PyTorch loop",
}


class Sides:
    """Starts both sides of a comparison, on the same data, in a temporary folder.

    Args:
        recipe: a member of params.yaml.
        feed: batch_size and epochs.
        threads: of a network that is trained alone; by default the number of cores.
    """

    def __init__(self, images: data.Data, recipe: dict, feed: dict, threads: int | None = None) -> None:
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(TemporaryDirectory()))
        self.project, self.folder = folder / "project", folder / "rivals"
        self.project.mkdir()
        self.folder.mkdir()
        self.logging = importlib.util.find_spec("mlflow") is not None
        params = workplace.make(self.project, images, recipe, {"augment": "none"} | feed, rivals=True)
        self.told = {
            **data.for_rivals(images, self.folder),
            **feed,
            "recipe": params.member(ours.MEMBER).recipe,
            "threads": threads or hardware.cores(),
            "accelerator": hardware.accelerator(params.training.accelerator, 1),
            "tracking_uri": f"sqlite:///{self.folder / 'mlflow.db'}" if self.logging else "",
        }

    def __enter__(self) -> "Sides":
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def ours(self, together: bool = False) -> Aside:
        """Our side, to be called with seed, precision and number of replicas. Its `about` has the precision that "auto"
        means on this machine."""
        settings = {"together": together, "logging": self.logging, "threads": self.told["threads"]}
        return self.stack.enter_context(Aside("benchmarks.ours", settings, self.project))

    def rival(self, name: str) -> Aside | None:
        """A rival, to be called with seed and precision; its `about` is its title. None, with a message, if it is not
        installed."""
        python = with_keras() if name == "keras_fit" else sys.executable
        if not python:
            return None
        started = self.stack.enter_context(Aside(f"benchmarks.rivals.{name}", self.told, self.folder, python))
        started.about = started.about or TITLES[name]
        return started


def with_keras() -> str | None:
    """The path of a Python that has keras. None, with a message, if there is none."""
    python = os.environ.get(KERAS, "").strip() or sys.executable
    if python == sys.executable and not importlib.util.find_spec("keras"):
        click.echo(
            "Keras is left out: install the extra `bench`, or name a Python that has keras and tensorflow in "
            f"{KERAS}", err=True,
        )  # fmt: skip
        return None
    if not shutil.which(python):
        raise click.ClickException(f"{KERAS} is {python}, but has to be the path of a Python")
    return python
