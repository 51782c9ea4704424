"""Growth with members, each of one network and one DVC stage: the stages after the trainings, and the time of DVC and
this project if nothing, or one stage, is stale. "DVC alone" is a project of as many stages that copy a file."""

import subprocess
import sys
from pathlib import Path

from benchmarks.growing import made, store
from benchmarks.growing.steps import Steps, grow
from flows import ensemble, evaluate, settings
from flows.graph import dvc_graph, planning
from flows.params import params_file
from flows.project import paths
from flows.reporting import results
from flows.tracking import loading
from lightning_modules import weights

DVC_ALONE = " (DVC alone)"
# Seconds that a thousand stages may take.
GOAL = 3.0
# Replaces a training: the weights are drawn beforehand.
TRAIN, COPY = "python -m flows.train ${key}", "cp -r .trainyard/made/${key} models/${dataset}/${key}"


def at(steps: Steps, size: int) -> None:
    start = Path.cwd()
    given = made.make(start / "a project", made.tiny(size))
    cards = made.draw(given)
    first = paths.model_folder(given.dataset, cards[0]["member"])
    digests = [card["replicas"][0]["weights_sha256"] for card in cards]
    store.multiply(Path("mlflow.db"), store.log(cards[0], first), digests[1:])
    folders = [paths.model_folder(given.dataset, member) for member in given.members]
    steps.take("params.yaml read and checked", size, params_file.read)
    steps.take("weights loaded", size, lambda: [weights.load(folder) for folder in folders])
    steps.take("stage evaluate, with its scores in MLflow", size, lambda: evaluate.evaluate(given))
    steps.take("stage ensemble, with its model in MLflow", size, lambda: ensemble.ensemble(given))
    steps.take("the table of results", size, lambda: results.rows(given))
    steps.take("champion loaded", size, lambda: loading.load_champion(given.dataset))
    settings.settings(given)
    as_stages(steps, size, Path.cwd())
    dvc_alone(steps, size, start / "DVC alone")


def as_stages(steps: Steps, size: int, folder: Path) -> None:
    description = folder / "dvc.yaml"
    text = description.read_text(encoding="utf-8")
    if TRAIN not in text:
        raise ValueError(f"dvc.yaml has no {TRAIN} to be put another command in the place of")
    description.write_text(text.replace(TRAIN, COPY), encoding="utf-8")
    (folder / "models" / "digits").rename(folder / ".trainyard" / "made")
    subprocess.run(["cp", "-r", ".trainyard/made", "models/digits"], check=True)
    dvc("commit", "--force", "--quiet", "dvc.yaml")

    for command in ("status", "pipeline"):
        steps.run(f"trainyard {command} with nothing to do", size, "flows.cli", command, goal=GOAL)
    steps.run("dvc repro with nothing to do", size, "dvc", "repro", goal=GOAL)
    steps.run("dvc repro of one stage", size, "dvc", "repro", "--single-item", "--force", "train@m00000")
    needs = dvc_graph.stages(folder)
    steps.take("the graph of the stages", size, lambda: dvc_graph.stages(folder))
    steps.take("the plan where all are stale", size, lambda: plan(needs))


def plan(needs: dict[str, list[str]]) -> None:
    """Computes what `trainyard pipeline` computes from the graph before it runs anything."""
    stages = dvc_graph.must_run(needs, dvc_graph.select(needs), needs)
    planned = planning.Plan(needs, stages, {stage: [] for stage in stages})
    planned.widths()
    for stage in stages:
        planned.reason(stage)


def dvc_alone(steps: Steps, size: int, folder: Path) -> None:
    folder.mkdir()
    (folder / "given").write_text("x")
    lines = [f"  s{number}: {{cmd: cp given {number}, deps: [given], outs: ['{number}']}}" for number in range(size)]
    (folder / "dvc.yaml").write_text("\n".join(["stages:", *lines]))
    for number in range(size):
        (folder / str(number)).write_text("x")
    dvc("init", "--no-scm", "--quiet", cwd=folder)
    dvc("commit", "--force", "--quiet", cwd=folder)
    for what, command in (("dvc repro with nothing to do", ()), ("dvc repro of one stage", ("-s", "-f", "s0"))):
        steps.run(what + DVC_ALONE, size, "dvc", "--cd", str(folder), "repro", *command)


def dvc(*arguments: str, cwd: Path | None = None) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=cwd, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    grow(at)
