"""One run of a plan, within a Prefect flow: each stage is a task, which starts as soon as what it needs has ended."""

import os
import queue
from collections.abc import Callable
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from flows.graph.planning import Plan
from flows.graph.repro import Outcome, Repro
from flows.machine import hardware
from flows.orchestration import flow_report
from flows.orchestration.artifacts import Artifacts
from flows.orchestration.preparing import Prepared
from flows.orchestration.printer import printer
from flows.params import params_file
from flows.params.params_file import Params

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture

    from flows.orchestration.cluster import Cluster
    from flows.orchestration.this_machine import ThisMachine

# Seconds before each further try, for the stages that can fail for a reason outside this machine. A training
# that failed fails again: it gets none.
RETRIES = {"download": (5, 20)}


@dataclass(frozen=True)
class Options:
    """How a plan is run.

    Attributes:
        workers: stages at the same time, at most; None for as many as there are cores, or on Dask as can run at once.
        force: run what is up to date, too.
        time_limit: seconds for each stage.
        dask: the address of a Dask scheduler whose workers run the stages.
        remote: whether these have working copies of their own; see `cluster.Cluster`.
    """

    workers: int | None = None
    force: bool = False
    time_limit: float | None = None
    dask: str | None = None
    remote: bool = False

    def side_by_side(self, plan: Plan) -> int:
        """How many stages may run at the same time."""
        width = max(plan.widths().values())
        return min(self.workers or (width if self.dask else hardware.cores()), width)


@dataclass
class PlanRun:
    """Called in a flow, it runs the plan's stages and writes the flow's artifacts.

    Attributes:
        root: the working folder.
        name: that of the flow run.
        prepared: the processes, which end with it, and what was begun before.
        outcomes: of the stages, as they end.
    """

    root: Path
    plan: Plan
    options: Options
    name: str
    prepared: Prepared
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def __call__(self) -> list[str]:
        """Returns the stages that failed."""
        from prefect.logging import get_run_logger

        note_process()
        params = params_file.read()
        artifacts = Artifacts(params.dataset, get_run_logger().warning)
        artifacts.progress(0, len(self.plan.stages))
        repro = Repro(
            self.root, self.prepared.processes, printer(self.plan.stages),
            force=self.options.force, time_limit=self.options.time_limit, variables=self.prepared.variables,
        )  # fmt: skip
        self.prepared.ready()
        try:
            with self.place(params, repro) as place:
                failed = self.run_stages(place, artifacts)
                differing = place.fetch(self.outcomes)
                self.outcomes |= differing
                failed += differing
            flow_report.show(artifacts, self.plan, params, self.name, self.outcomes, repro)
            return failed
        finally:
            # Prefect waits for its threads before it lets an interrupt through, and they for their commands.
            self.prepared.processes.end_all()

    def place(self, params: Params, repro: Repro) -> "ThisMachine | Cluster":
        """Where the stages run: a context with `room`, `submit`, `ended` and `fetch`."""
        workers = self.options.side_by_side(self.plan)
        if not self.options.dask:
            from flows.orchestration.this_machine import ThisMachine

            return ThisMachine(self.plan, workers, params, repro, self.outcomes)
        from flows.orchestration.cluster import Cluster

        return Cluster(self.plan, workers, repro, self.options.dask, self.options.remote)

    def run_stages(self, place: "ThisMachine | Cluster", artifacts: Artifacts) -> list[str]:
        """Submits a task when what it needs is done and there is room: one that waits would hold a worker."""
        order = TopologicalSorter({stage: self.plan.needed(stage) for stage in self.plan.stages})
        order.prepare()
        futures: dict[str, PrefectFuture] = {}
        failed: list[str] = []
        waiting: list[str] = []
        ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        while order.is_active():
            waiting += order.get_ready()
            for stage in place.room.choose(waiting):
                waiting.remove(stage)
                needed = [futures[other] for other in self.plan.needed(stage)]
                futures[stage] = place.submit(stage, needed, RETRIES.get(stage, ()))
                futures[stage].add_done_callback(putting(stage, ended))
            if not place.room.running:
                break
            stage = ended.get()
            place.room.leave(stage)
            futures[stage].wait()  # else `state` asks the server, which hears of it a little later
            outcome = place.ended(stage, futures[stage])
            if outcome:
                self.outcomes[stage] = outcome
            if outcome and not outcome.problem and futures[stage].state.is_completed():
                order.done(stage)
            else:
                failed.append(stage)
            artifacts.progress(len(futures) - len(place.room.running), len(self.plan.stages))
        return failed


def putting(stage: str, ended: queue.SimpleQueue[str]) -> Callable[[object], None]:
    return lambda _: ended.put(stage)


def note_process() -> None:
    """Tells the server whose process the flow run is, for a server that comes back after it."""
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, infrastructure_pid=str(os.getpid()))
