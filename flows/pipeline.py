"""`trainyard pipeline [STAGE]...`: runs what is stale in DVC's graph, in parallel, as a Prefect flow.

Reads   DVC's graph and `dvc status`: the order of work is written in dvc.yaml and nowhere else
Writes  what the stages write; dvc.lock comes out as from `dvc repro`, which then says "up to date"
Run     python -m flows.pipeline

Each stage is a Prefect task that runs `dvc repro --single-item STAGE` as soon as what it needs has finished. A
failed stage leaves the independent ones to finish; then the flow is red and the exit code 1. Prefect's server is the
one that PREFECT_API_URL names or `trainyard serve` has brought up; else a temporary one, which takes some seconds.
"""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.commands.console import run
from flows.graph import planning
from flows.graph.repro import Outcome
from flows.machine.processes import Processes
from flows.orchestration import dask_options, notifications, preparing, tasks
from flows.params import params_file
from flows.project import paths
from flows.servers import running_server
from lightning_modules.errors import InputError, UnavailableError, counted

if TYPE_CHECKING:
    from prefect import Flow, State


def flow(
    root: Path,
    plan: planning.Plan,
    workers: int,
    outcomes: dict[str, Outcome],
    processes: Processes,
    name: str,
    **given: Any,
) -> "Flow[[list[str]], State]":
    """Prefect's flow over the plan; for the arguments see `run_stages`."""
    from prefect import flow as prefect_flow
    from prefect.logging import get_run_logger
    from prefect.states import Completed, Failed
    from prefect.task_runners import ThreadPoolTaskRunner

    work = Stays(functools.partial(tasks.run_stages, root, plan, workers, outcomes, processes, name=name, **given))

    @prefect_flow(
        name="pipeline",
        flow_run_name=name,
        task_runner=ThreadPoolTaskRunner(max_workers=workers),  # type: ignore[arg-type]  # Prefect's own
        persist_result=False,
    )
    def pipeline(stages: list[str]) -> "State":
        failed = work()
        message = tasks.failure(plan, outcomes, failed) if failed else f"{counted(len(plan.stages), 'stage')} ran"
        if not failed:
            message += f", {len(plan.up_to_date):,} up to date"
        notifications.notify(
            f"Trainyard: {name} {'failed' if failed else 'finished'}", message, get_run_logger().warning
        )
        return Failed(message=message) if failed else Completed(message=message)

    return pipeline


class Stays:
    """A call that is left behind when its flow is sent to Dask's workers, as Prefect does, though they never call it:
    threads and locks cannot travel."""

    def __init__(self, call: Callable | None = None) -> None:
        self.call = call

    def __call__(self) -> Any:
        assert self.call
        return self.call()

    def __reduce__(self) -> tuple:
        return Stays, ()


def execute(root: Path, plan: planning.Plan, workers: int, **options: Any) -> int:
    """Runs the plan; returns the exit code. For the options see `run_stages`.

    Raises:
        SystemExit: with 143, after SIGTERM and with every child ended; KeyboardInterrupt alike.
        UnavailableError: Prefect's server does not start, or goes away for more than a minute.
    """
    server = running_server.server_if_none()
    name = tasks.run_name()
    outcomes: dict[str, Outcome] = {}
    with running_server.exit_on_sigterm(), preparing.prepared(root, plan, options.get("dask")) as (processes, given):
        if server:
            server.start()
        pipeline = flow(root, plan, workers, outcomes, processes, name, **options, **given)
        if server:
            server.wait()
        try:
            with running_server.server_stays(lambda: tasks.report(plan, outcomes)):
                state = pipeline(plan.stages, return_state=True)
        except UnavailableError:
            tasks.report(plan, outcomes)
            raise
    tasks.report(plan, outcomes)
    if not state.is_completed() and not any(outcome.problem for outcome in outcomes.values()):
        click.echo(f"trainyard: the flow ended as {state.name}: {state.message}", err=True)
    return 0 if state.is_completed() else 1


@click.command()
@click.argument("stages", nargs=-1, metavar="[STAGE]...")
@click.option("--workers", type=click.IntRange(min=1), help="Stages at the same time.  [default: CPU cores]")
@click.option("--force", is_flag=True, help="Run what is up to date, too.")
@click.option("--dry", is_flag=True, help="Only say what would run, and why.")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For each stage.")
@dask_options.on_dask
def command(stages: tuple[str, ...], workers: int | None, force: bool, dry: bool, **options: Any) -> int:
    """Run the stale stages in parallel with Prefect; with names (train, train@mlp), only these and what they
    need."""
    dask_options.check_dask(options["dask"], options["remote"])
    root = paths.root()
    params_file.read()  # its refusals are clearer than what DVC makes of the same mistake
    planned = planning.plan(root, stages, force)
    if not planned.stages:
        click.echo("everything is up to date")
        return 0
    for stage in planned.stages if dry else ():
        click.echo(f"would run {stage}: {planned.reason(stage)}")
    if dry:
        return 0
    workers = dask_options.side_by_side(planned, workers, options["dask"])
    code = execute(root, planned, workers, force=force, **options)
    if code == 0:
        show_results()
    return code


def show_results() -> None:
    """The table of members and ensembles, where all that it needs has been made."""
    from flows.reporting import results

    with contextlib.suppress(InputError):
        results.show(params_file.read())


if __name__ == "__main__":
    run(command)
