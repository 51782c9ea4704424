"""Prepares Prefect's server for the worker of `trainyard serve`: creates the work pool, a concurrency limit per GPU and
the deployments of prefect.yaml, and marks flow runs whose process is gone as crashed.

Reads   prefect.yaml, through Prefect's own `prefect deploy --all`; PREFECT_API_URL
Run     python -m flows.operations.deploy
"""

import runpy
import sys
from datetime import datetime
from typing import TYPE_CHECKING

from flows.machine import identity
from flows.orchestration import gpu_slots
from flows.servers import prefect_server

if TYPE_CHECKING:
    from prefect import State
    from prefect.client.orchestration import SyncPrefectClient

POOL = "trainyard"  # prefect.yaml names it, too


# The work pool's base job template: what a worker runs, and where. It has no variables, so that no deployment can ask
# for something else; and no `env`, to which Prefect would add a deployment's. It is for Prefect's own worker:
# `flows.operations.flow_worker` ignores it.
JOB = {
    "job_configuration": {"command": "python -m flows.flow_run", "working_dir": ".", "stream_output": True},
    "variables": {"type": "object", "properties": {}},
}


def create_pool(client: "SyncPrefectClient", own: bool) -> None:
    """Creates the work pool, of type process, unless it exists.

    Args:
        own: whether the server is this project's own. Then an existing pool, of an earlier version, is updated.
    """
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=JOB))
    except ObjectAlreadyExists:
        if own:  # not with `overwrite`, which would resume a paused pool
            client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=JOB))


def end_lost_runs(client: "SyncPrefectClient") -> list[str]:
    """Marks active flow runs whose process is gone as crashed, and returns their names.

    Only for a server whose runs are all on this machine: processes of other machines cannot be seen.
    """
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    state: State = Crashed(message="its process was gone when `trainyard serve` came up; what it had finished is kept")
    active = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    chosen = filters.FlowRunFilter(state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=active)))
    ended = []
    for run in client.read_flow_runs(flow_run_filter=chosen):
        if run.infrastructure_pid and alive(run.infrastructure_pid, run.start_time):
            continue
        client.set_flow_run_state(run.id, state, force=True)
        # Prefect ends the task runs of a cancelled flow run, but leaves those of a crashed one running.
        of_run = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run.id]))
        still = filters.TaskRunFilter(
            state=filters.TaskRunFilterState(type=filters.TaskRunFilterStateType(any_=active))
        )
        for task_run in client.read_task_runs(flow_run_filter=of_run, task_run_filter=still):
            client.set_task_run_state(task_run.id, state, force=True)
        ended.append(run.name)
    return ended


def alive(pid: str, run_started: datetime | None) -> bool:
    """Whether a run's process exists. One that started after the run is another process that reuses the pid."""
    number = pid.rpartition(":")[2]
    began = identity.began(int(number)) if number.isdecimal() else None
    return began is not None and (run_started is None or began <= run_started.timestamp())


def main() -> None:
    own = "--own-server" in sys.argv
    prefect_server.configure()
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        create_pool(client, own)
        for gpu in gpu_slots.create(client):
            print(f"limit {gpu_slots.name(gpu)}: one stage at a time", flush=True)
        for name in end_lost_runs(client) if own else ():
            print(f"run {name} had no process any more: crashed", flush=True)
    sys.argv = ["prefect", "--no-prompt", "deploy", "--all"]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
