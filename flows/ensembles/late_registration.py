"""Logs and registers from files what could not be logged when it was made."""

import click

from flows.graph import dvc_graph
from flows.params.params_file import Params
from flows.project import file_io, paths
from flows.project.errors import DamagedError, InputError


def stale_stages() -> list[str]:
    """The stale stages among those that lead to the ensemble, in their order."""
    root = paths.root()
    stale = dvc_graph.stale(root)
    return (
        [stage for stage in dvc_graph.select(dvc_graph.stages(root), ["ensemble"]) if stage in stale] if stale else []
    )


def track(params: Params) -> bool:
    """Logs the members' scores on the dataset, registers its ensemble, and says so.

    Call it only if nothing is stale: stale scores would be logged to the runs of other weights.

    Returns:
        Whether MLflow's store has taken the members' scores. The ensemble is registered only then.

    Raises:
        InputError: nothing is trained yet, or a file was changed.
    """
    from flows.ensembles.registering import register
    from flows.graph import healing
    from flows.models import trained_members
    from flows.models.measurements import mlflow_names
    from flows.tracking import member_runs, mlflow_store

    scores, file = member_runs.Scores(params.dataset), paths.replica_scores_file(params.dataset)
    try:
        measured = file_io.read_json(file, *params.members)
    except DamagedError as error:
        raise file_io.damaged(file, error.reason, healing.heal(file, "evaluate")) from None
    for member, replicas in measured.items():
        card = trained_members.card(params.dataset, member)
        trained_members.history(params.dataset, member)  # `log` may log it, so a damaged one is refused here
        scores.log(member, card, [mlflow_names(replica) for replica in replicas])
        if scores.lost:
            return False
        click.echo(f"{member}: in {mlflow_store.shown_store()}")
    register(params.dataset)
    return True


def not_registered(params: Params) -> str | None:
    """A sentence if the dataset's ensemble is missing from MLflow's registry, after an outage for example; None if it
    is registered, or does not exist.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    from flows.ensembles import record
    from flows.tracking import mlflow_store
    from flows.tracking.registry import Registry

    try:
        digest = record.read(params.dataset).digest
    except InputError:
        return None
    if mlflow_store.store_exists() and Registry(params.dataset).has_ensemble(digest):
        return None
    return (
        f"the newest ensemble of {params.dataset}, which lies here, is not registered in MLflow: `trainyard track` "
        "registers it"
    )
