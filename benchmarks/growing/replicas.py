"""Growth with the replicas of a member: tiny networks, trained for one epoch of digits in processes side by side."""

from pathlib import Path

from benchmarks.growing import made
from benchmarks.growing.steps import Steps, grow
from flows.project import paths
from lightning_modules import weights


def at(steps: Steps, size: int) -> None:
    settings = made.make(Path("a project"), {"tiny": made.MEMBER | {"replicas": size}})
    steps.run("stage train, with its runs and models in MLflow", size, "flows.train", "tiny")
    steps.take("weights loaded", size, lambda: weights.load(paths.model_folder(settings.dataset, "tiny")))


if __name__ == "__main__":
    grow(at)
