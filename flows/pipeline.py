"""`trainyard pipeline [STAGE]...`: runs what is stale in DVC's graph, in parallel, as a Prefect flow.

Reads   DVC's graph and `dvc status`: the order of work is written in dvc.yaml and nowhere else
Writes  what the stages write; dvc.lock comes out as from `dvc repro`, which then says "up to date"
Run     python -m flows.pipeline

Each stage is a Prefect task that runs `dvc repro --single-item STAGE` as soon as what it needs has finished. A
failed stage leaves the independent ones to finish; then the flow is red and the exit code 1. Prefect's server is the
one that PREFECT_API_URL names or `trainyard serve` has brought up; else a temporary one, which takes some seconds.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

import click

from flows.commands.console import run
from flows.graph import planning
from flows.graph.planning import Plan
from flows.orchestration import dask_options, flow_report, notifications
from flows.orchestration.plan_run import Options, PlanRun
from flows.orchestration.preparing import prepared
from flows.params import params_file
from flows.project import paths
from flows.project.errors import InputError, UnavailableError
from flows.servers import running_server


def flow(work: PlanRun):
    """Prefect's flow over a plan."""
    from prefect import flow as prefect_flow
    from prefect.logging import get_run_logger
    from prefect.states import Completed, Failed
    from prefect.task_runners import ThreadPoolTaskRunner

    def run() -> tuple[list[str], str]:
        failed = work()
        return failed, flow_report.summary(work.plan, work.outcomes, failed)

    stays, name = Stays(run), work.name

    @prefect_flow(
        name="pipeline",
        flow_run_name=name,
        task_runner=ThreadPoolTaskRunner(max_workers=work.options.side_by_side(work.plan)),
        persist_result=False,
    )
    def pipeline(stages: list[str]):
        failed, message = stays()
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

    def __call__(self):
        return self.call()

    def __reduce__(self) -> tuple:
        return Stays, ()


def execute(root: Path, plan: Plan, options: Options) -> int:
    """Runs the plan; returns the exit code.

    Raises:
        SystemExit: with 143, after SIGTERM and with every child ended; KeyboardInterrupt alike.
        UnavailableError: Prefect's server does not start, or goes away for more than a minute.
    """
    server = running_server.server_if_none()
    name = flow_report.run_name()
    with running_server.exit_on_sigterm(), prepared(root, plan, options.dask) as ready:
        if server:
            server.start()
        work = PlanRun(root, plan, options, name, ready)
        pipeline = flow(work)
        if server:
            server.wait()
        try:
            with running_server.server_stays(lambda: flow_report.print_failures(plan, work.outcomes)):
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
def command(stages: tuple[str, ...], dry: bool, **given) -> int:
    """Run the stale stages in parallel with Prefect; with names (train, train@mlp), only these and what they
    need."""
    options = Options(**given)
    dask_options.check_dask(options.dask, options.remote)
    root = paths.root()
    params_file.read()  # its refusals are clearer than what DVC makes of the same mistake
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
    """The table of members and ensembles, where all that it needs has been made."""
    from flows.reporting import results

    with contextlib.suppress(InputError):
        results.show(params_file.read())


if __name__ == "__main__":
    run(command)
