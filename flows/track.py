"""`trainyard track`: logs to MLflow what could not be logged when it was made, and ends runs whose process is gone."""

import click

from flows import graph, project
from flows.console import run
from flows.params import Params, read
from lightning_modules.errors import DamagedError, InputError


def stale_stages() -> list[str]:
    """Of the stages that lead to the ensemble."""
    root = project.root()
    stale = graph.stale(root)
    return [stage for stage in graph.select(graph.stages(root), ["ensemble"]) if stage in stale] if stale else []


def track(params: Params) -> bool:
    """Logs what was measured on the dataset, and registers its ensemble; says what it does. For when nothing is stale:
    what was measured would be logged to the runs of other weights.

    Returns:
        Whether the store took the members' scores; of the ensemble the registry knows.

    Raises:
        InputError: nothing is trained yet, or the data was changed.
    """
    from flows import cached, models, tracking
    from flows.ensemble import ensemble
    from flows.evaluate import flat

    scores, file = tracking.Scores(params.dataset), project.replica_scores_file(params.dataset)
    try:
        measured = project.read_json(file, *params.members)
    except DamagedError as error:
        raise project.damaged(file, error.reason, cached.heal(file, "evaluate")) from None
    for member, replicas in measured.items():
        card = models.card(params.dataset, member)
        models.history(params.dataset, member)  # which is logged, where it is not: damaged it is refused here
        scores.log(member, card, [flat(replica) for replica in replicas])
        if scores.lost:
            return False
        click.echo(f"{member}: in {tracking.shown_store()}")
    ensemble(params)
    return True


def not_registered(params: Params) -> str | None:
    """A sentence where there is an ensemble of the dataset here that MLflow's registry does not have, such as after an
    outage; None where it has, and where there is no ensemble or no store yet.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    from flows import tracking
    from flows.ensemble import digest_here
    from flows.registry import Registry

    try:
        digest = digest_here(params)
    except InputError:
        return None
    if tracking.store_exists() and Registry(params.dataset).knows(digest):
        return None
    return (
        f"the newest ensemble of {params.dataset}, which lies here, is not registered in MLflow: `trainyard track` "
        "registers it"
    )


@click.command()
def command() -> int | None:
    """Log to MLflow what could not be logged when it was made, and end runs whose process is gone.

    Works from the files of the dataset in params.yaml, and can be repeated: what is logged already stays as it is.
    """
    from flows import tracking

    params = read()
    try:
        for name in tracking.end_stale_runs():
            click.echo(f"ended {name}: its process is gone")
    except ConnectionError as error:
        raise InputError(str(error)) from None
    if not project.replica_scores_file(params.dataset).exists():
        click.echo(f"nothing is measured on {params.dataset} yet")
        return None
    if stale := stale_stages():
        click.echo(f"stale: {', '.join(stale)}. `dvc repro` makes it anew, and logs it")
        return None
    return None if track(params) else 1


if __name__ == "__main__":
    run(command)
