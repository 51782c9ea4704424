"""One flow run of a Prefect worker: the `command` of the work pool in prefect.yaml.

Reads   the id of the flow run, which the worker leaves in the environment
Run     python -m flows.flow_run

It is Prefect's own `python -m prefect.engine`, which would go on when its worker is killed, unseen by the next one:
here it is ended with the worker, and ends its stages, so that the next run finds nobody else at work.
"""

import runpy
import sys

from flows.orphan import die_with_parent


def main() -> None:
    die_with_parent()
    sys.argv = sys.argv[:1]
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
