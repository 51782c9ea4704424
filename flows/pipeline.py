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
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

import click

from flows import artifacts, capacity, core_slots, gpu_slots, graph, hardware, notify, params, prefect_server, project
from flows.console import run
from flows.masked import sentence
from flows.params import Params
from flows.preloaded import libraries
from flows.processes import ClosedError, Processes, TimeLimitError
from flows.repro import Outcome, Repro
from lightning_modules.errors import InputError, UnavailableError, counted

# Seconds before each further try, for the stages that can fail for a reason outside this machine. A training
# that failed fails again: it gets none.
RETRIES = {"download": (5, 20)}
# In a process of its own, beside Prefect's start: MLflow takes seconds to import.
PREPARE = "from flows import tracking; tracking.prepare()"


@dataclass(frozen=True)
class Plan:
    """What has to run, in an order in which it can, and why."""

    needs: dict[str, list[str]] = field(default_factory=dict)
    stages: list[str] = field(default_factory=list)
    why: dict[str, list[str]] = field(default_factory=dict)
    up_to_date: list[str] = field(default_factory=list)

    def needed(self, stage: str) -> list[str]:
        """What the stage has to wait for."""
        return [name for name in self.needs[stage] if name in self.why]

    def reason(self, stage: str) -> str:
        return ", ".join(self.why[stage]) or f"after {', '.join(self.needed(stage))}"

    def widths(self) -> dict[str, int]:
        """How many stages may run at the same time as each one, itself included: the most on one level among those
        that neither need it nor are needed by it."""
        level = graph.levels(self.needs, self.stages)
        # Sets of stages as the bits of a number: a thousand stages are compared with each other in no time.
        bit = {stage: 1 << index for index, stage in enumerate(self.stages)}
        related = dict.fromkeys(self.stages, 0)
        for stage in self.stages:
            for needed in self.needed(stage):
                related[stage] |= related[needed] | bit[needed]
        after = dict.fromkeys(self.stages, 0)
        for stage in reversed(self.stages):
            for needed in self.needed(stage):
                after[needed] |= after[stage] | bit[stage]
        levels: Counter[int] = Counter()
        for stage in self.stages:
            levels[level[stage]] |= bit[stage]
        return {
            stage: 1 + max((one & ~(related[stage] | after[stage] | bit[stage])).bit_count() for one in levels.values())
            for stage in self.stages
        }


def plan(root: Path, targets: Sequence[str] = (), force: bool = False) -> Plan:
    """Raises InputError for an unknown target, or where DVC cannot read the project."""
    # The graph costs as much again: it is not asked for where nothing can be stale.
    needs = graph.stages(root) if targets or force else {}
    selected = graph.select(needs, targets or (graph.MAIN,)) if needs else []
    stale = graph.stale(root)
    if not force and not any(graph.belongs(stage, graph.MAIN) or needs or stage.endswith(".dvc") for stage in stale):
        return Plan()
    needs = needs or graph.stages(root)
    selected = selected or graph.select(needs)
    stages = selected if force else graph.must_run(needs, selected, stale)
    why = {stage: stale.get(stage, ["forced"] if force else []) for stage in stages}
    return Plan(needs, stages, why, [stage for stage in selected if stage not in why and not stage.endswith(".dvc")])


def run_stages(
    root: Path,
    plan: Plan,
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

    read = params.read()
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
                from flows.cluster import Cluster

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


def flow(root: Path, plan: Plan, workers: int, outcomes: dict[str, Outcome], processes: Processes, name: str, **given):
    """Prefect's flow over the plan; for the arguments see `run_stages`."""
    from prefect import flow as prefect_flow
    from prefect.logging import get_run_logger
    from prefect.states import Completed, Failed
    from prefect.task_runners import ThreadPoolTaskRunner

    work = Stays(functools.partial(run_stages, root, plan, workers, outcomes, processes, name=name, **given))

    @prefect_flow(
        name="pipeline",
        flow_run_name=name,
        task_runner=ThreadPoolTaskRunner(max_workers=workers),
        persist_result=False,
    )
    def pipeline(stages: list[str]):
        failed = work()
        message = failure(plan, outcomes, failed) if failed else f"{counted(len(plan.stages), 'stage')} ran"
        if not failed:
            message += f", {len(plan.up_to_date):,} up to date"
        notify.notify(f"Trainyard: {name} {'failed' if failed else 'finished'}", message, get_run_logger().warning)
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


def failure(plan: Plan, outcomes: Mapping[str, Outcome], failed: Sequence[str]) -> str:
    """What failed and what therefore did not run."""
    not_run = [stage for stage in plan.stages if stage not in outcomes and stage not in failed]
    return f"failed: {', '.join(failed)}" + (f"; not run because of it: {', '.join(not_run)}" if not_run else "")


def show(
    shown: artifacts.Artifacts, plan: Plan, read: Params, name: str, outcomes: Mapping[str, Outcome], repro: Repro
) -> None:
    """The artifacts at the end of a flow: what ran and why, what came out, and where MLflow has it."""
    pages = mlflow_pages(repro)
    why = {stage: plan.reason(stage) for stage in plan.stages}
    shown.results(artifacts.account(name, read, why, plan.up_to_date, outcomes, pages))
    if "model" in pages:
        shown.model(pages["model"], f"{read.dataset} in MLflow's registry")


def mlflow_pages(repro: Repro) -> dict:
    """As `tracking.pages`; empty where MLflow cannot be asked."""
    lines: deque[str] = deque(maxlen=1)
    command, env = [sys.executable, "-m", "flows.pages"], {**os.environ, **repro.variables}
    try:
        code = repro.processes.run(command, lines.append, cwd=repro.root, env=env, time_limit=60)
        return json.loads(lines[0]) if code == 0 else {}
    except (ClosedError, TimeLimitError, IndexError, ValueError):
        return {}


def prepare_tracking(root: Path, processes: Processes) -> None:
    """Creates MLflow's store before stages fan out, where it is a database of several users: processes that open a new
    one at once break it. Those of a local one wait for each other.

    In a process of its own, so that it goes on while Prefect's server starts. A failure is told and no more:
    training works without MLflow.
    """
    from flows import tracking

    if tracking.in_sqlite():
        return
    lines: deque[str] = deque(maxlen=3)
    try:
        code = processes.run([sys.executable, "-c", PREPARE], lines.append, cwd=root, time_limit=120)
    except ClosedError:
        return
    except TimeLimitError as error:
        code, lines = 1, [str(error)]
    if code and not processes.closed.is_set():
        click.echo(f"warning: MLflow's store could not be prepared: {' '.join(lines)}", err=True)


@contextlib.contextmanager
def prepared(root: Path, plan: Plan, dask: str | None) -> Iterator[tuple[Processes, dict]]:
    """What can begin before Prefect is there: MLflow's store, and the libraries of stages on this machine. Yields the
    processes of a run, which end with it, and options of `run_stages`."""
    with libraries(root, [] if dask else plan.stages) as variables, Processes() as processes:
        preparing = threading.Thread(target=prepare_tracking, args=(root, processes))
        preparing.start()
        yield processes, {"ready": preparing.join, "variables": variables}


def execute(root: Path, plan: Plan, workers: int, **options) -> int:
    """Runs the plan; returns the exit code. For the options see `run_stages`.

    Raises:
        SystemExit: with 143, after SIGTERM and with every child ended; KeyboardInterrupt alike.
        UnavailableError: Prefect's server does not start, or goes away for more than a minute.
    """
    server = server_if_none()
    name = run_name()
    outcomes: dict[str, Outcome] = {}
    with exit_on_sigterm(), prepared(root, plan, options.get("dask")) as (processes, given):
        if server:
            server.start()
        pipeline = flow(root, plan, workers, outcomes, processes, name, **options, **given)
        if server:
            server.wait()
        try:
            with server_stays(lambda: report(plan, outcomes)):
                state = pipeline(plan.stages, return_state=True)
        except UnavailableError:
            report(plan, outcomes)
            raise
    report(plan, outcomes)
    if not state.is_completed() and not any(outcome.problem for outcome in outcomes.values()):
        click.echo(f"trainyard: the flow ended as {state.name}: {state.message}", err=True)
    return 0 if state.is_completed() else 1


def server_if_none() -> prefect_server.TemporaryServer | None:
    """Makes Prefect's settings, and a temporary server, to be started, where there is no other.

    Raises:
        UnavailableError: there is one, and it does not answer.
    """
    named = bool(os.environ.get("PREFECT_API_URL"))
    prefect_server.configure()
    if named:
        prefect_server.check("PREFECT_API_URL names it: start it, or unset that, and a temporary server is used")
    elif "PREFECT_API_URL" in os.environ:
        prefect_server.check("trainyard serve has brought it up here: end that, or wait until it is up again")
    else:
        click.echo("starting Prefect's temporary server; set PREFECT_API_URL to use a running one", err=True)
        return prefect_server.TemporaryServer()
    return None


@contextlib.contextmanager
def server_stays(last_words: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Around a flow. Raises UnavailableError where Prefect's server has gone away, after a minute of tries.

    Args:
        last_words: see `prefect_server.Watch`.
    """
    import httpx  # Prefect's client, loaded by now

    watch = prefect_server.Watch(prefect_server.GONE_AFTER, last_words)
    watch.start()
    try:
        yield
    except (httpx.TransportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
            raise
        watch.told = True
        raise UnavailableError(prefect_server.gone()) from None
    except httpx.HTTPStatusError as error:
        raise UnavailableError(
            f"Prefect's server at {prefect_server.shown()} refused what it was asked for: {sentence(error)}"
        ) from None
    except SystemExit:
        if not watch.lost:
            raise
        watch.told = True
        raise UnavailableError(prefect_server.gone()) from None
    finally:
        watch.stop()


def report(plan: Plan, outcomes: Mapping[str, Outcome]) -> None:
    """What failed, its last lines again, and what was therefore not run."""
    failed = [outcome for outcome in outcomes.values() if outcome.problem]
    for outcome in failed:
        click.echo(f"\n{outcome.stage} failed: {outcome.problem}. Its last lines:", err=True)
        for line in outcome.last_lines:
            click.echo(f"    {line}", err=True)
    not_run = [stage for stage in plan.stages if stage not in outcomes]
    if failed and not_run:
        click.echo(f"\nnot run because of it: {', '.join(not_run)}", err=True)


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """The signal's default action would skip what ends the children and Prefect's temporary server. A terminal that is
    closed ends nothing: the work goes on, and Prefect's log has what it says."""
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number)),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        return f"{dataset or params.read().dataset} {commit(project.root())}".strip()
    except InputError:
        return dataset or "trainyard"  # the run itself says what is wrong


def commit(root: Path) -> str:
    """Git's short name of the current commit; empty outside a repository."""
    try:
        asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    except OSError:
        return ""
    return asked.stdout.strip()


def on_dask(command: Callable) -> Callable:
    """The options of a command whose stages may run on Dask's workers."""
    for option in (
        click.option("--remote", is_flag=True, help="Of --dask: the workers have working copies of their own, and "
                     "DVC's remote carries data and results."),
        click.option("--dask", metavar="ADDRESS", help="Run the stages on the workers (trainyard worker) of the Dask "
                     "scheduler at tcp://HOST:8786."),
    ):  # fmt: skip
        command = option(command)
    return command


def check_dask(address: str | None, remote: bool) -> None:
    """Raises InputError and UnavailableError before anything is started."""
    from flows import worker

    if address:
        worker.check(address)
        worker.check_servers(address, remote)
    elif remote:
        raise InputError("--remote is for --dask: without it stages run in this working copy")


def side_by_side(plan: Plan, workers: int | None, dask: str | None) -> int:
    """How many stages may run at the same time: as many as there are cores, or on Dask, which knows its own, all."""
    width = max(plan.widths().values())
    return min(workers or (width if dask else hardware.cores()), width)


@click.command()
@click.argument("stages", nargs=-1, metavar="[STAGE]...")
@click.option("--workers", type=click.IntRange(min=1), help="Stages at the same time.  [default: CPU cores]")
@click.option("--force", is_flag=True, help="Run what is up to date, too.")
@click.option("--dry", is_flag=True, help="Only say what would run, and why.")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For each stage.")
@on_dask
def command(stages: tuple[str, ...], workers: int | None, force: bool, dry: bool, **options) -> int:
    """Run the stale stages in parallel with Prefect; with names (train, train@mlp), only these and what they
    need."""
    check_dask(options["dask"], options["remote"])
    root = project.root()
    params.read()  # its refusals are clearer than what DVC makes of the same mistake
    planned = plan(root, stages, force)
    if not planned.stages:
        click.echo("everything is up to date")
        return 0
    for stage in planned.stages if dry else ():
        click.echo(f"would run {stage}: {planned.reason(stage)}")
    if dry:
        return 0
    workers = side_by_side(planned, workers, options["dask"])
    code = execute(root, planned, workers, force=force, **options)
    if code == 0:
        show_results()
    return code


def show_results() -> None:
    """The table of members and ensembles, where all that it needs has been made."""
    from flows import results

    with contextlib.suppress(InputError):
        results.show(params.read())


if __name__ == "__main__":
    run(command)
