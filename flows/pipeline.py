"""`trainyard pipeline [STAGE]...`: runs the stale stages of DVC's graph, in parallel, as a Prefect flow.

Reads   DVC's graph and `dvc status`: the order of work is in dvc.yaml and nowhere else
Writes  what the stages write, and the same dvc.lock as `dvc repro`, which then says "up to date"
Run     python -m flows.pipeline

Each stage is a Prefect task that runs `dvc repro --single-item STAGE` as soon as the stages that it needs have
finished. After a failed stage the independent ones still finish; then the flow fails, with exit code 1. Prefect's
server is the one that PREFECT_API_URL names or `trainyard serve` has started, else a temporary one, which takes some
seconds to start.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.graph import planning
from flows.graph.planning import Plan
from flows.machine import processes
from flows.machine.console import run
from flows.orchestration import dask_options, flow_report, notifications
from flows.orchestration.plan_run import Options, PlanRun
from flows.orchestration.preparing import prepared
from flows.params import params_file
from flows.project import paths
from flows.project.errors import InputError, UnavailableError
from flows.servers import running_server

if TYPE_CHECKING:
    from prefect import Flow, State


def flow(work: PlanRun) -> "Flow[[list[str]], State]":
    """Makes the Prefect flow that runs the plan."""
    from prefect import flow as prefect_flow
    from prefect.logging import get_run_logger
    from prefect.states import Completed, Failed
    from prefect.task_runners import ThreadPoolTaskRunner

    def run() -> tuple[list[str], str]:
        failed = work()
        return failed, flow_report.summary(work.plan, work.outcomes, failed)

    call_work, name = NotPickled(run), work.name

    workers = work.options.side_by_side(work.plan)

    @prefect_flow(
        name="pipeline",
        flow_run_name=name,
        task_runner=ThreadPoolTaskRunner(max_workers=workers),  # type: ignore[arg-type]  # Prefect's own
        persist_result=False,
    )
    def pipeline(stages: list[str]) -> "State":
        failed, message = call_work()
        notifications.notify(
            f"Trainyard: {name} {'failed' if failed else 'finished'}", message, get_run_logger().warning
        )
        return Failed(message=message) if failed else Completed(message=message)

    return pipeline


class NotPickled:
    """A callable that is pickled without its content.

    Prefect pickles a flow for Dask's workers, though they never call it, and threads and locks cannot be pickled.
    """

    def __init__(self, call: Callable | None = None) -> None:
        self.call = call

    def __call__(self) -> Any:
        assert self.call
        return self.call()

    def __reduce__(self) -> tuple:
        return NotPickled, ()


def execute(root: Path, plan: Plan, options: Options) -> int:
    """Runs the plan and returns the exit code.

    Raises:
        SystemExit: with 143, on SIGTERM, after every child process has ended. KeyboardInterrupt: the same.
        UnavailableError: Prefect's server does not start, or does not answer for more than a minute.
    """
    server = running_server.server_if_none()
    name = flow_report.run_name()
    with processes.exit_on_sigterm(), prepared(root, plan, options.dask) as ready:
        if server:
            server.start()
        work = PlanRun(root, plan, options, name, ready)
        pipeline = flow(work)
        if server:
            server.wait()
        try:
            with running_server.watched_server(lambda: flow_report.print_failures(plan, work.outcomes)):
                state = pipeline(plan.stages, return_state=True)
        except UnavailableError:
            flow_report.print_failures(plan, work.outcomes)
            raise
    flow_report.print_failures(plan, work.outcomes)
    if not state.is_completed() and not any(outcome.problem for outcome in work.outcomes.values()):
        click.echo(f"trainyard: the flow ended as {state.name}: {state.message}", err=True)
    return 0 if state.is_completed() else 1


@click.command()
@click.argument("stages", nargs=-1, metavar="[STAGE]...")
@click.option("--workers", type=click.IntRange(min=1), help="Stages at the same time.  [default: CPU cores]")
@click.option("--force", is_flag=True, help="Run what is up to date, too.")
@click.option("--dry", is_flag=True, help="Only say what would run, and why.")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For each stage.")
@dask_options.on_dask
def command(stages: tuple[str, ...], dry: bool, **given: Any) -> int:
    """Run the stale stages in parallel with Prefect. With names (train, train@mlp), only these stages and those that
    they need."""
    options = Options(**given)
    dask_options.check_dask(options.dask, options.remote)
    root = paths.root()
    params_file.read()  # its error messages are clearer than DVC's for the same mistake
    planned = planning.plan(root, stages, options.force)
    if not planned.stages:
        click.echo("everything is up to date")
        return 0
    for stage in planned.stages if dry else ():
        click.echo(f"would run {stage}: {planned.reason(stage)}")
    if dry:
        return 0
    code = execute(root, planned, options)
    if code == 0:
        show_results()
    return code


def show_results() -> None:
    """Prints the table of members and ensembles, if all of its files exist."""
    from flows.reporting import results

    with contextlib.suppress(InputError):
        results.show(params_file.read())


if __name__ == "__main__":
    run(command)
