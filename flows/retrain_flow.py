"""`flows.retrain` as a Prefect flow, for deployments: its stages are tasks, its report is an artifact.

Importing this module imports Prefect, so call `prefect_server.configure` first.
"""

from collections.abc import Mapping
from pathlib import Path

import click
from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State

from flows.graph.planning import Plan
from flows.graph.repro import Outcome
from flows.orchestration import flow_report, notifications, plan_run
from flows.orchestration.artifacts import Artifacts
from flows.orchestration.preparing import prepared
from flows.params import params_file
from flows.project import paths
from flows.retraining.steps import BUSY, FAILED, SKIPPED, Options, work
from flows.untrusted.escaping import printable


def name() -> str:
    return flow_report.run_name(flow_run.parameters.get("dataset"))


@flow(name="retrain", flow_run_name=name, persist_result=False)
def retrain(
    dataset: str | None = None,
    workers: int | None = None,
    fresh_seed: bool = False,
    promote: bool = True,
    push: bool = True,
    commit: bool = False,
    time_limit: float | None = None,
    dask: str | None = None,
    remote: bool = False,
) -> State:
    """Takes in new images, runs the stale stages in parallel, asks the gate, promotes, reports, pushes, commits.

    Returns:
        A state whose message says why: Completed; Completed with the name Skipped, if there was nothing to do;
        Cancelled, if another retrain is running; Failed.
    """
    options = Options(
        dataset=dataset, workers=workers, fresh_seed=fresh_seed, promote=promote, push=push, commit=commit,
        time_limit=time_limit, dask=dask, remote=remote,
    )  # fmt: skip
    log = get_run_logger()

    def say(sentence: str) -> None:
        click.echo(printable(sentence))
        log.info(printable(sentence))

    def run_stages(folder: Path, plan: Plan) -> Mapping[str, Outcome]:
        return run_as_tasks(options, folder, plan)

    ended = work(options, say, run_stages)
    if ended.report:
        say(f"report: {ended.report.relative_to(paths.root()).as_posix()}")
        shown = Artifacts(dataset or params_file.read().dataset, log.warning)
        shown.report(ended.report.read_text(encoding="utf-8"), ended.message)
    if ended.report or ended.kind not in (SKIPPED, BUSY):
        notifications.notify(f"Trainyard: retrain of {name()}: {ended.kind}", ended.message, log.warning)
    if ended.kind == FAILED:
        return Failed(message=ended.message)
    if ended.kind == BUSY:
        return Cancelled(message=ended.message)
    return Completed(message=ended.message, name="Skipped" if ended.kind == SKIPPED else "Completed")


def run_as_tasks(options: Options, folder: Path, plan: Plan) -> Mapping[str, Outcome]:
    """Runs the stages as tasks of the current flow run. Returns the outcomes by stage."""
    how = plan_run.Options(
        workers=options.workers, time_limit=options.time_limit, dask=options.dask, remote=options.remote
    )
    with prepared(folder, plan, options.dask) as ready:
        work = plan_run.PlanRun(folder, plan, how, name(), ready)
        work()
    flow_report.print_failures(plan, work.outcomes)
    return work.outcomes
