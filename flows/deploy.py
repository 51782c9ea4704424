"""What `trainyard serve` tells Prefect's server before its worker starts: the work pool, a limit for each GPU, which
runs are gone, and the deployments of prefect.yaml.

Reads   prefect.yaml, by Prefect's own `prefect deploy --all`; PREFECT_API_URL
Run     python -m flows.deploy
"""

import runpy
import sys

from flows.machine import identity
from flows.orchestration import gpu_slots
from flows.servers import prefect_server

POOL = "trainyard"  # prefect.yaml names it, too


# What a worker runs, and where: without variables, so that no deployment can ask for something else. For Prefect's own
# worker, since `flows.flow_worker` goes by none of it. Prefect adds a deployment's `env` wherever there is an `env`.
JOB = {
    "job_configuration": {"command": "python -m flows.flow_run", "working_dir": ".", "stream_output": True},
    "variables": {"type": "object", "properties": {}},
}


def create_pool(client, own: bool) -> None:
    """A pool for workers that run flows as processes, where there is none of this name.

    Args:
        own: whether the server is this project's own, on which a pool of an earlier version is changed.
    """
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=JOB))
    except ObjectAlreadyExists:
        if own:  # not by `overwrite`, which would end a pause
            client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=JOB))


def end_lost_runs(client) -> list[str]:
    """Calls flow runs crashed that still say they run and whose process is gone; returns their names.

    Only for a server of this machine alone: processes of others cannot be seen.
    """
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    state = Crashed(message="its process was gone when `trainyard serve` came up; what it had finished is kept")
    active = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    chosen = filters.FlowRunFilter(state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=active)))
    ended = []
    for run in client.read_flow_runs(flow_run_filter=chosen):
        if run.infrastructure_pid and alive(run.infrastructure_pid, run.start_time):
            continue
        client.set_flow_run_state(run.id, state, force=True)
        # Prefect calls tasks of a cancelled flow cancelled, and leaves those of a crashed one running.
        of_run = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[run.id]))
        still = filters.TaskRunFilter(
            state=filters.TaskRunFilterState(type=filters.TaskRunFilterStateType(any_=active))
        )
        for task_run in client.read_task_runs(flow_run_filter=of_run, task_run_filter=still):
            client.set_task_run_state(task_run.id, state, force=True)
        ended.append(run.name)
    return ended


def alive(pid: str, run_started) -> bool:
    """Whether the process of a run is there; one that started after the run has got its number since."""
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
