"""What can begin before Prefect is there."""

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import click

from flows.graph import planning
from flows.machine.preloaded_server import libraries
from flows.machine.processes import ClosedError, Processes, TimeLimitError

# In a process of its own, beside Prefect's start: MLflow takes seconds to import.
PREPARE = "from flows.tracking import experiments; experiments.prepare()"


def prepare_tracking(root: Path, processes: Processes) -> None:
    """Creates MLflow's store before stages fan out, where it is a database of several users: processes that open a new
    one at once break it. Those of a local one wait for each other.

    In a process of its own, so that it goes on while Prefect's server starts. A failure is told and no more:
    training works without MLflow.
    """
    from flows.tracking import mlflow_store

    if mlflow_store.in_sqlite():
        return
    lines: deque[str] = deque(maxlen=3)
    try:
        code = processes.run([sys.executable, "-c", PREPARE], lines.append, cwd=root, time_limit=120)
    except ClosedError:
        return
    except TimeLimitError as error:
        code, lines = 1, deque([str(error)])
    if code and not processes.closed.is_set():
        click.echo(f"warning: MLflow's store could not be prepared: {' '.join(lines)}", err=True)


@contextlib.contextmanager
def prepared(root: Path, plan: planning.Plan, dask: str | None) -> Iterator[tuple[Processes, dict]]:
    """What can begin before Prefect is there: MLflow's store, and the libraries of stages on this machine. Yields the
    processes of a run, which end with it, and options of `tasks.run_stages`."""
    with libraries(root, [] if dask else plan.stages) as variables, Processes() as processes:
        preparing = threading.Thread(target=prepare_tracking, args=(root, processes))
        preparing.start()
        yield processes, {"ready": preparing.join, "variables": variables}
