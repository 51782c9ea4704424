"""`trainyard drift FOLDER`: compares incoming images with those that the champion was made for.

Reads   FOLDER, data/<dataset>/, the champion from MLflow's registry, `drift` and `seed` of params.yaml
Writes  plots/<dataset>/drift/: drift.json (every test), drift.png
Run     python -m flows.commands.drift FOLDER
"""

from pathlib import Path

import click

from flows.drift import judgement
from flows.machine.console import run
from flows.params.params_file import read


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dataset", help="Whose data and champion; by default that of params.yaml.")
@click.option("--retrain", is_flag=True, help="On drift, send Prefect's server the event that starts a retraining.")
def command(folder: Path, dataset: str | None, retrain: bool) -> int:
    """Say whether the images in FOLDER differ from those that the champion was made for.

    FOLDER holds image files, in subfolders or not, or is an .npz file with an array `images`. Brightness, contrast,
    sharpness and saturation, the champion's confidence and probabilities, how often it predicts each class, and the
    embeddings inside its networks are compared with those of validation and test images by two-sample tests. Drift is
    what is both significant (`alpha`, after correction for the number of tests) and large enough to matter (`effect`,
    `class_share`): `drift` in params.yaml.

    \b
    Exit codes: 0 no drift, 3 drift, 2 bad input, 1 something failed.

    With --retrain, drift is reported to the Prefect server that PREFECT_API_URL names, as the event trainyard.drift of
    the resource trainyard.dataset.<dataset>; a deployment with a trigger on this event then retrains.
    """
    params = read()
    dataset = dataset or params.dataset
    if retrain:
        from flows.orchestration import drift_event

        address = drift_event.server()  # before the work, so that a missing server is noticed at once
    result = judgement.drift(folder, dataset, params.drift, params.seed, params.limits)
    judgement.say(result)
    if not result["drift"]:
        return 0
    if retrain:
        kept = ("drifted", "images", "champion", "alpha", "effect", "incoming", "reference")
        answered = drift_event.emit(dataset, {key: result[key] for key in kept})
        if answered:
            click.echo(f"told {address}, where this answers: {', '.join(answered)}")
        else:
            click.echo(f"told {address}, where no automation answers: has `prefect deploy --all` been run?", err=True)
    return judgement.DRIFT


if __name__ == "__main__":
    run(command)
