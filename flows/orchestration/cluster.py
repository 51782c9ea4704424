"""Stages on the workers of a Dask cluster, by Prefect's task runner for it: `trainyard pipeline --dask tcp://HOST:8786`.

The workers stand in the project's own folder, which they share with this machine; or, with a DVC remote to carry
data and results, each in a working copy of its own (see `remote_stage`). `trainyard worker` starts one.
"""

import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed import get_worker
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Failed
from prefect_dask import DaskTaskRunner
from prefect_dask.task_runners import PrefectDaskFuture

from flows.graph import dvc_command, dvc_graph
from flows.graph.repro import Outcome, Repro
from flows.machine import hardware
from flows.machine.processes import Processes
from flows.orchestration import capacity, remote_stage
from flows.orchestration.remote_stage import Errand, Return
from flows.project import file_io, paths
from flows.project.errors import InputError

if TYPE_CHECKING:
    from prefect import State, Task
    from prefect.client.schemas.objects import TaskRun
    from prefect.futures import PrefectFuture

    from flows.graph.planning import Plan


TOPIC = "trainyard"  # of Dask's events: the lines that stages print
MARK = "shared.json"  # in .trainyard/: by which a worker in this very folder is known
# Variables that must be alike on all workers.
ALIKE = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "TRAINYARD_MIRROR")

# On a worker: what runs there, by the mark of who sent it; to be ended with its flow.
RUNNING: dict[str, set[Processes]] = {}


class Cluster:
    """The workers that run a plan's stages. Entered as a context, in the flow; what runs is ended on an error.

    Args:
        workers: stages at the same time, at most.
        repro: how a stage is run: in which folder, with which options, and who is told.
        address: of Dask's scheduler.
        remote: whether the workers have working copies of their own, with DVC's default remote between them; else they
            share the project's folder.

    Raises:
        UnavailableError: on entering: the DVC remote cannot be written to.
    """

    def __init__(self, plan: "Plan", workers: int, repro: Repro, address: str, remote: bool) -> None:
        self.root, self.plan, self.processes, self.remote, self.say = (
            repro.root, plan, repro.processes, remote, repro.say
        )  # fmt: skip
        self.options: dict[str, Any] = {"force": repro.force, "time_limit": repro.time_limit}
        # Its workers, which may have other cores and GPUs than this machine, take one stage at a time.
        self.room = capacity.Room(dict.fromkeys(plan.stages, capacity.Share()), workers, 0)
        self.uncached = dvc_graph.uncached(self.root) if remote else {}
        self.mark = secrets.token_hex(8)
        self.runner = DaskTaskRunner(address=address)

    def __enter__(self) -> "Cluster":
        if not self.remote:
            file_io.write_json(self.root / ".trainyard" / MARK, {"mark": self.mark})
        else:
            # What is up to date may never have been pushed.
            needed = {name for stage in self.plan.stages for name in self.all_needs(stage)}
            self.dvc("push", needed.difference(self.plan.stages))
        self.runner.__enter__()
        self.runner.client.subscribe_topic(TOPIC, self.show)
        return self

    def __exit__(self, kind: type | None, *rest: Any) -> None:
        if kind:
            # What ended the flow is told, whatever Dask has to say of workers that are away.
            with contextlib.suppress(Exception):
                self.runner.client.run(end_running, self.mark)
        self.runner.__exit__(kind, *rest)

    def dvc(self, verb: str, stages: Iterable[str]) -> None:
        if stages := sorted(stages):
            dvc_command.transfer(self.root, self.processes, verb, *stages, time_limit=remote_stage.LIMIT)

    def all_needs(self, stage: str) -> list[str]:
        """Every stage that it needs, directly or not, and tracked files."""
        return [name for name in dvc_graph.select(self.plan.needs, [stage]) if name != stage]

    def submit(self, stage: str, needed: list, delays: Sequence[float]) -> "PrefectFuture":
        """Prefect's future of the stage, which waits for those of what it needs, and is tried again after `delays`,
        seconds, if that may help."""
        errand = None
        if self.remote:
            errand = remote_stage.errand(self.root, stage, self.all_needs(stage), self.uncached, **self.options)
        given = {
            "stage": stage,
            "why": self.plan.reason(stage),
            "mark": self.mark,
            "folder": self.root.relative_to(paths.home()).as_posix(),
            "errand": errand,
            "options": self.options,
            "variables": {name: os.environ[name] for name in ALIKE if name in os.environ},
        }
        named = dvc_stage_on_worker.with_options(
            name=stage.partition("@")[0],
            retries=len(delays),
            retry_delay_seconds=list(delays) or 0,
            retry_condition_fn=can_retry,
        )
        return self.runner.submit(named, parameters=given, wait_for=needed)

    def ended(self, stage: str, future: "PrefectFuture") -> Outcome:
        """How a stage ended, by its future, with what it has come to taken over."""
        assert isinstance(future, PrefectDaskFuture)
        in_dask = future.wrapped_future
        if in_dask.status != "finished":  # a worker that died, again and again, or a scheduler without this package
            error = in_dask.exception() if in_dask.status == "error" else None
            return Outcome(stage, 0.0, f"no worker could run it: {error or in_dask.status}")
        back = getattr(future.state.data, "result", None)
        if not isinstance(back, Return):  # an error of ours or of Prefect's
            return Outcome(stage, 0.0, future.state.message or future.state.name)
        if back.entry:
            try:
                remote_stage.take_back(self.root, back, self.uncached[stage])
            except InputError as error:
                return Outcome(stage, back.outcome.seconds, str(error))
        return back.outcome

    def fetch(self, outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
        """Brings here what the stages made; returns the outcomes of those that ran with other folders than lie here.

        Raises:
            UnavailableError: the remote is away.
        """
        done = {stage: outcome for stage, outcome in outcomes.items() if not outcome.problem}
        if not (self.remote and done):
            return {}
        self.dvc("pull", done)
        stale = dvc_graph.stale(self.root)
        return {
            stage: replace(
                outcome, problem=f"it ran elsewhere with other files than lie here: {', '.join(stale[stage])}"
            )
            for stage, outcome in done.items()
            if stage in stale
        }

    def show(self, event: tuple[float, dict]) -> None:
        """Prints what a worker says."""
        _, said = event
        if said["mark"] == self.mark:
            self.say(said["stage"], said["line"])


def can_retry(task: "Task", run: "TaskRun", state: "State") -> bool:
    back = getattr(state.data, "result", state.data)
    return isinstance(back, Return) and back.outcome.can_retry


# DVC owns caching: a second cache beside it would disagree.
@task(task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def dvc_stage_on_worker(
    stage: str, why: str, mark: str, folder: str, errand: Errand | None, options: dict, variables: dict[str, str]
) -> "Return | State":
    """Runs on a worker. Returns a `Return`, in a failed state where the stage failed."""
    worker, logger = get_worker(), get_run_logger()

    def log(line: str) -> None:
        logger.info(line)
        worker.log_event(TOPIC, {"mark": mark, "stage": stage, "line": line})

    root = paths.root()
    log(f"runs on {socket.gethostname()} in {root}; why it runs: {why}")
    with Processes() as processes:
        RUNNING.setdefault(mark, set()).add(processes)
        try:
            if errand:
                back = remote_stage.run(errand, root, processes, log, variables)
            else:
                cores = max(1, hardware.cores() // worker.state.nthreads)
                more = {"jobs": {stage: cores}, "variables": variables}
                back = run_in_shared(root / folder, stage, mark, processes, log, **options, **more)
        finally:
            RUNNING.get(mark, set()).discard(processes)  # which `end_running` may have taken
    if back.outcome.problem:
        return Failed(message=f"{stage}: {back.outcome.problem} ({back.where})", data=back)
    return back


def run_in_shared(folder: Path, stage: str, mark: str, processes: Processes, log: Callable, **options: Any) -> Return:
    """Runs a stage in the folder that this worker shares with whoever sent it."""
    where = f"{socket.gethostname()}:{folder}"
    file = folder / ".trainyard" / MARK
    if not file.is_file() or file_io.read_json(file, "mark")["mark"] != mark:
        problem = (
            f"the worker in {where} does not share the project's folder: start it there, or let a DVC remote carry "
            "data and results, with --remote"
        )
        log(f"FAILED: {problem}")
        return Return(Outcome(stage, 0.0, problem), where)
    return Return(Repro(folder, processes, lambda stage, line: None, **options)(stage, log), where)


def end_running(mark: str) -> None:
    for processes in RUNNING.pop(mark, set()):
        processes.end_all()
