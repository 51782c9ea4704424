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

from flows import prefect_server, project
from flows.console import set_variables
from flows.foreign_text import printable
from flows.orphan import die_with_parent

GONE_AFTER = 600.0  # seconds


def flows() -> set[str]:
    """The entrypoints that prefect.yaml in the working folder names."""
    return {one["entrypoint"] for one in project.read_yaml(Path("prefect.yaml")).get("deployments") or []}


def entrypoint(run_id: str) -> str | None:
    """Where the flow of a run lies; None, and the run has failed and says why, where prefect.yaml does not name it."""
    from prefect.client.orchestration import get_client
    from prefect.states import Failed

    with get_client(sync_client=True) as client:
        deployment = client.read_flow_run(run_id).deployment_id
        asked = client.read_deployment(deployment).entrypoint if deployment else None
        if asked in flows():
            return asked
        reason = f"{printable(str(asked))} is no entrypoint of prefect.yaml on this machine, so it is not run here"
        client.set_flow_run_state(run_id, Failed(message=reason), force=True)
    print(reason, flush=True)
    return None


def main() -> None:
    die_with_parent()
    set_variables()
    if os.environ.get("PREFECT_API_URL"):
        prefect_server.Watch(GONE_AFTER).start()
    named = entrypoint(os.environ["PREFECT__FLOW_RUN_ID"])
    if named is None:
        return
    os.environ["PREFECT__FLOW_ENTRYPOINT"] = named  # is loaded from here, without `pull` steps of the deployment
    sys.argv = sys.argv[:1]
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
