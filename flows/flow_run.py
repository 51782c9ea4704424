"""Executes one flow run: the command that `flows.operations.flow_worker` and the work pool start.

Reads   the id of the flow run, which the worker sets in the environment; prefect.yaml, which names the flows
Run     python -m flows.flow_run

It is Prefect's own `python -m prefect.engine` with three differences:

* It ends with its worker, and ends its stages. Prefect's would go on, unseen by the next worker, beside the next run.
* It gives up on a server that has not answered for ten minutes. Nobody waits for it, and Prefect's would try for long.
* It runs only flows that prefect.yaml names. Prefect's would run any code, and any `pull` steps, that a deployment on
  the server names.
"""

import os
import runpy
import sys
from pathlib import Path
from uuid import UUID

from flows.machine.environment_variables import set_variables
from flows.machine.orphans import die_with_parent
from flows.project import file_io
from flows.servers import watch_server
from flows.untrusted.escaping import printable

GONE_AFTER = 600.0  # seconds


def named() -> list[dict]:
    """The deployments of prefect.yaml in the current folder."""
    return file_io.read_yaml(Path("prefect.yaml")).get("deployments") or []


def refusal(entrypoint: str | None, parameters: dict, deployments: list[dict]) -> str | None:
    """Why a run is refused; None if prefect.yaml names its flow.

    A Dask scheduler can make whoever connects to it run any code, so prefect.yaml has to name the scheduler, too.

    Args:
        entrypoint: of the run's flow.
        parameters: of the run.
        deployments: those of prefect.yaml.
    """
    own = [one for one in deployments if one["entrypoint"] == entrypoint]
    if not own:
        return f"{printable(str(entrypoint))} is no entrypoint of prefect.yaml on this machine, so it is not run here"
    dask = parameters.get("dask")
    if dask is not None and dask not in [(one.get("parameters") or {}).get("dask") for one in own]:
        return f"{printable(str(dask))} is no Dask scheduler of prefect.yaml on this machine, so it is not asked"
    return None


def entrypoint(run_id: str) -> str | None:
    """The entrypoint of a run's flow. None if the run is refused: then it is marked as failed, with the reason."""
    from prefect.client.orchestration import get_client
    from prefect.states import Failed

    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(run_id))
        asked = client.read_deployment(run.deployment_id).entrypoint if run.deployment_id else None
        reason = refusal(asked, run.parameters, named())
        if reason is None:
            return asked
        client.set_flow_run_state(run.id, Failed(message=reason), force=True)
    print(reason, flush=True)
    return None


def main() -> None:
    die_with_parent()
    set_variables()
    if os.environ.get("PREFECT_API_URL"):
        watch_server.Watch(GONE_AFTER).start()
    place = entrypoint(os.environ["PREFECT__FLOW_RUN_ID"])
    if place is None:
        return
    os.environ["PREFECT__FLOW_ENTRYPOINT"] = place  # loads the flow from here, without the deployment's `pull` steps
    sys.argv = sys.argv[:1]
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
