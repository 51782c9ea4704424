"""One flow run of a Prefect worker: the command of `flows.flow_worker` and of the work pool.

Reads   the id of the flow run, which the worker leaves in the environment; prefect.yaml, which names the flows
Run     python -m flows.flow_run

It is Prefect's own `python -m prefect.engine`, which would go on when its worker is killed, unseen by the next one:
here it is ended with the worker, and ends its stages, so that the next run finds nobody else at work. It would also
try for long after a server that has gone: nobody waits for it, so it gives one ten minutes to come back. And it would
run any code that a deployment on the server names, and any steps before it: here only what prefect.yaml names is run.
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
    """The deployments in prefect.yaml of the working folder."""
    return file_io.read_yaml(Path("prefect.yaml")).get("deployments") or []


def refusal(entrypoint: str | None, parameters: dict, deployments: list[dict]) -> str | None:
    """Why a run is not done here; None where prefect.yaml, of which these are the deployments, names its flow. A Dask
    scheduler may have any code run by who connects to it, so it has to be named there, too."""
    own = [one for one in deployments if one["entrypoint"] == entrypoint]
    if not own:
        return f"{printable(str(entrypoint))} is no entrypoint of prefect.yaml on this machine, so it is not run here"
    dask = parameters.get("dask")
    if dask is not None and dask not in [(one.get("parameters") or {}).get("dask") for one in own]:
        return f"{printable(str(dask))} is no Dask scheduler of prefect.yaml on this machine, so it is not asked"
    return None


def entrypoint(run_id: str) -> str | None:
    """Where the flow of a run lies; None, and the run has failed and says why, where it is not done here."""
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
    os.environ["PREFECT__FLOW_ENTRYPOINT"] = place  # is loaded from here, without `pull` steps of the deployment
    sys.argv = sys.argv[:1]
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
