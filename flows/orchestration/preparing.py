"""What can begin before Prefect is there."""

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Prepared:
    """What began before Prefect was there.

    Attributes:
        processes: of the run, which end with it.
        ready: returns when the first stage may start.
        variables: more of the environment of stages on this machine.
    """

    processes: Processes
    ready: Callable[[], object]
    variables: Mapping[str, str]


@contextlib.contextmanager
def prepared(root: Path, plan: planning.Plan, dask: str | None) -> Iterator[Prepared]:
    """Begins with MLflow's store, and with loading the libraries of stages on this machine."""
    with libraries(root, [] if dask else plan.stages) as variables, Processes() as processes:
        preparing = threading.Thread(target=prepare_tracking, args=(root, processes))
        preparing.start()
        yield Prepared(processes, preparing.join, variables)
