"""A plan's stages as tasks of a Prefect flow."""

import contextlib
import functools
import json
import os
import queue
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import click

from flows.graph import planning
from flows.graph.repro import Outcome, Repro
from flows.machine import core_slots, hardware
from flows.machine.processes import ClosedError, Processes, TimeLimitError
from flows.orchestration import artifacts, capacity, gpu_slots
from flows.params import params_file
from flows.params.params_file import Params
from flows.project import git, paths
from lightning_modules.errors import InputError

# Seconds before each further try, for the stages that can fail for a reason outside this machine. A training
# that failed fails again: it gets none.
RETRIES = {"download": (5, 20)}


def run_stages(
    root: Path,
    plan: planning.Plan,
    workers: int,
    outcomes: dict[str, Outcome],
    processes: Processes,
    *,
    name: str,
    ready: Callable[[], object],
    force: bool = False,
    time_limit: float | None = None,
    dask: str | None = None,
    remote: bool = False,
    variables: Mapping[str, str] | None = None,
) -> list[str]:
    """Runs the plan as tasks of the Prefect flow that calls this, with its artifacts; returns the stages that failed.

    Args:
        root: the working folder.
        outcomes: is filled as stages end.
        processes: are ended with this.
        name: of the flow run.
        ready: called before the first stage.
        dask: the address of a Dask scheduler whose workers run the stages.
        remote: whether they have working copies of their own; see `cluster.Cluster`.
        variables: more of the environment of the stages on this machine.
    """
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.client.orchestration import get_client
    from prefect.logging import get_run_logger
    from prefect.runtime import flow_run
    from prefect.states import Failed

    read = params_file.read()
    shares = capacity.shares(plan.widths(), workers, read, hardware.gpus())
    jobs = {stage: share.cores for stage, share in shares.items()}
    cores = core_slots.Cores(processes.closed)
    say = printer(plan.stages)
    repro = Repro(root, processes, say, force=force, time_limit=time_limit, jobs=jobs, variables=variables)

    # DVC owns caching: a second cache beside it would disagree. What a task returns is small and JSON.
    @task(task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
    def dvc_stage(stage: str):
        log = get_run_logger().info
        log(f"why it runs: {plan.reason(stage)}")
        tell = functools.partial(repro.tell, stage, log=log)
        kept = capacity.kept_from_other_flows(stage, shares[stage])
        # In this order for all: who has cores waits for no GPU.
        with gpu_slots.hold(shares[stage].gpus, processes.closed, tell) as gpus, cores.hold(kept, tell):
            outcome = outcomes[stage] = repro(stage, log, gpus)
        if outcome.problem:
            # Returned, not raised: there is no traceback that would tell a person more.
            return Failed(message=f"{stage}: {outcome.problem}")
        return {"stage": stage, "seconds": round(outcome.seconds, 3)}

    def submit(stage: str, needed: list, delays: Sequence[float]):
        def again(task, run, state) -> bool:
            outcome = outcomes.get(stage)
            if outcome and outcome.can_retry:
                repro.say(stage, "trying again in some seconds")
            return bool(outcome and outcome.can_retry)

        named = dvc_stage.with_options(
            name=stage.partition("@")[0],
            retries=len(delays),
            retry_delay_seconds=list(delays) or 0,
            retry_condition_fn=again,
        )
        return named.submit(stage, wait_for=needed)

    def begin() -> int:
        """Notes whose process this is, for a server that comes back after it; the GPUs that stages may use."""
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, infrastructure_pid=str(os.getpid()))
            return len(gpu_slots.create(client)) if any(share.gpus for share in shares.values()) else 0

    gpus = begin()
    shown = artifacts.Artifacts(read.dataset, get_run_logger().warning)
    shown.progress(0, len(plan.stages))
    ready()
    order = TopologicalSorter({stage: plan.needed(stage) for stage in plan.stages})
    order.prepare()
    futures, failed = {}, []
    waiting: list[str] = []
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    try:
        with contextlib.ExitStack() as stack:
            room = capacity.Room(shares, workers, gpus)
            cluster = None
            if dask:
                from flows.orchestration.cluster import Cluster

                # Its workers, which may have other cores and GPUs, take one stage at a time.
                room = capacity.Room(dict.fromkeys(plan.stages, capacity.Share()), workers, 0)
                cluster = Cluster(root, plan, processes, dask, remote, say, force=force, time_limit=time_limit)
                submit = stack.enter_context(cluster).submit
            # A task is submitted when what it needs is done and there is room: one that waits would hold a worker.
            while order.is_active():
                waiting += order.get_ready()
                for stage in room.choose(waiting):
                    waiting.remove(stage)
                    needed = [futures[other] for other in plan.needed(stage)]
                    futures[stage] = submit(stage, needed, RETRIES.get(stage, ()))
                    futures[stage].add_done_callback(lambda _, stage=stage: ended.put(stage))
                if not room.running:
                    break
                stage = ended.get()
                room.leave(stage)
                futures[stage].wait()  # else `state` asks the server, which hears of it a little later
                if cluster:
                    outcomes[stage] = cluster.ended(stage, futures[stage])
                # A stage that Prefect itself could not run has no outcome.
                if stage in outcomes and not outcomes[stage].problem and futures[stage].state.is_completed():
                    order.done(stage)
                else:
                    failed.append(stage)
                shown.progress(len(futures) - len(room.running), len(plan.stages))
            if cluster:
                differing = cluster.fetch(outcomes)
                outcomes |= differing
                failed += differing
        show(shown, plan, read, name, outcomes, repro)
        return failed
    finally:
        # Prefect waits for its threads before it lets an interrupt through, and they for their commands.
        processes.end_all()


def failure(plan: planning.Plan, outcomes: Mapping[str, Outcome], failed: Sequence[str]) -> str:
    """What failed and what therefore did not run."""
    not_run = [stage for stage in plan.stages if stage not in outcomes and stage not in failed]
    return f"failed: {', '.join(failed)}" + (f"; not run because of it: {', '.join(not_run)}" if not_run else "")


def show(
    shown: artifacts.Artifacts,
    plan: planning.Plan,
    read: Params,
    name: str,
    outcomes: Mapping[str, Outcome],
    repro: Repro,
) -> None:
    """The artifacts at the end of a flow: what ran and why, what came out, and where MLflow has it."""
    pages = mlflow_pages(repro)
    why = {stage: plan.reason(stage) for stage in plan.stages}
    shown.results(artifacts.account(name, read, why, plan.up_to_date, outcomes, pages))
    if "model" in pages:
        shown.model(pages["model"], f"{read.dataset} in MLflow's registry")


def mlflow_pages(repro: Repro) -> dict:
    """As `page_links.pages`; empty where MLflow cannot be asked."""
    lines: deque[str] = deque(maxlen=1)
    command, env = [sys.executable, "-m", "flows.commands.pages"], {**os.environ, **repro.variables}
    try:
        code = repro.processes.run(command, lines.append, cwd=repro.root, env=env, time_limit=60)
        return json.loads(lines[0]) if code == 0 else {}
    except (ClosedError, TimeLimitError, IndexError, ValueError):
        return {}


def report(plan: planning.Plan, outcomes: Mapping[str, Outcome]) -> None:
    """What failed, its last lines again, and what was therefore not run."""
    failed = [outcome for outcome in outcomes.values() if outcome.problem]
    for outcome in failed:
        click.echo(f"\n{outcome.stage} failed: {outcome.problem}. Its last lines:", err=True)
        for line in outcome.last_lines:
            click.echo(f"    {line}", err=True)
    not_run = [stage for stage in plan.stages if stage not in outcomes]
    if failed and not_run:
        click.echo(f"\nnot run because of it: {', '.join(not_run)}", err=True)


def printer(stages: Sequence[str]) -> Callable[[str, str], None]:
    """Prints a stage's line behind its name, each stage in a colour of its own on a terminal."""
    width = max(map(len, stages))
    palette = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
    colour = {stage: palette[index % len(palette)] for index, stage in enumerate(stages)}

    def say(stage: str, line: str) -> None:
        click.echo(f"{click.style(f'{stage:<{width}} |', fg=colour[stage])} {line}")

    return say


def run_name(dataset: str | None = None) -> str:
    """Of a flow run: dataset, by default that of params.yaml, and commit."""
    try:
        return f"{dataset or params_file.read().dataset} {git.commit(paths.root(), short=True) or ''}".strip()
    except InputError:
        return dataset or "trainyard"  # the run itself says what is wrong
