"""Stages on this machine, as tasks of the Prefect flow that is running. `flows.orchestration.cluster` has the same face
for the workers of a Dask cluster."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger
from prefect.states import Failed

from flows.graph.planning import Plan
from flows.graph.repro import Outcome, Repro
from flows.machine import core_slots, hardware
from flows.orchestration import capacity, gpu_slots
from flows.params.params_file import Params

if TYPE_CHECKING:
    from prefect import State
    from prefect.futures import PrefectFuture


class ThisMachine:
    """Runs stages side by side, as far as cores and GPUs reach. Entered as a context, in the flow.

    Args:
        workers: stages at the same time, at most.
        repro: runs one of them.
        outcomes: is filled as stages end.
    """

    def __init__(self, plan: Plan, workers: int, params: Params, repro: Repro, outcomes: dict[str, Outcome]) -> None:
        self.plan, self.workers, self.repro, self.outcomes = plan, workers, repro, outcomes
        self.shares = capacity.shares(plan.widths(), workers, params, hardware.gpus())
        repro.jobs = {stage: share.cores for stage, share in self.shares.items()}
        self.cores = core_slots.Cores(repro.processes.closed)
        # DVC owns caching: a second cache beside it would disagree. What a task returns is small and JSON.
        self.task = task(task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)(self.run)

    def __enter__(self) -> "ThisMachine":
        gpus = 0
        if any(share.gpus for share in self.shares.values()):
            with get_client(sync_client=True) as client:
                gpus = len(gpu_slots.create(client))
        self.room = capacity.Room(self.shares, self.workers, gpus)
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, stage: str) -> "dict | State":
        """The work of a task."""
        log = get_run_logger().info
        log(f"why it runs: {self.plan.reason(stage)}")
        closed, share = self.repro.processes.closed, self.shares[stage]
        tell = functools.partial(self.repro.tell, stage, log=log)
        kept = capacity.kept_from_other_flows(stage, share)
        # In this order for all: who has cores waits for no GPU.
        with gpu_slots.hold(share.gpus, closed, tell) as gpus, self.cores.hold(kept, tell):
            outcome = self.outcomes[stage] = self.repro(stage, log, gpus)
        if outcome.problem:
            # Returned, not raised: there is no traceback that would tell a person more.
            return Failed(message=f"{stage}: {outcome.problem}")
        return {"stage": stage, "seconds": round(outcome.seconds, 3)}

    def submit(self, stage: str, needed: list, delays: Sequence[float]) -> "PrefectFuture":
        """Prefect's future of the stage, which waits for those of what it needs, and is tried again after `delays`,
        seconds, if that may help."""

        def can_retry(task: object, run: object, state: object) -> bool:
            outcome = self.outcomes.get(stage)
            if outcome and outcome.can_retry:
                self.repro.say(stage, "trying again in some seconds")
            return bool(outcome and outcome.can_retry)

        named = self.task.with_options(
            name=stage.partition("@")[0],
            retries=len(delays),
            retry_delay_seconds=list(delays) or 0,
            retry_condition_fn=can_retry,
        )
        return named.submit(stage, wait_for=needed, return_state=False)

    def ended(self, stage: str, future: "PrefectFuture") -> Outcome | None:
        """How a stage ended; None where Prefect itself could not run it."""
        return self.outcomes.get(stage)

    def fetch(self, outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
        """What the stages made lies here already."""
        return {}
