"""One flow run of a Prefect worker: the `command` of the work pool in prefect.yaml.

Reads   the id of the flow run, which the worker leaves in the environment
Run     python -m flows.flow_run

It is Prefect's own `python -m prefect.engine`, which would go on when its worker is killed, unseen by the next one:
here it is ended with the worker, and ends its stages, so that the next run finds nobody else at work. It would also
try for long after a server that has gone: nobody waits for it, so it gives one ten minutes to come back.
"""

import os
import runpy
import sys

from flows import prefect_server
from flows.console import set_variables
from flows.orphan import die_with_parent

GONE_AFTER = 600.0  # seconds


def main() -> None:
    die_with_parent()
    set_variables()
    if os.environ.get("PREFECT_API_URL"):
        prefect_server.Watch(GONE_AFTER).start()
    sys.argv = sys.argv[:1]
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
