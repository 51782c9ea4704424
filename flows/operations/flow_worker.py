"""The worker of the work pool: runs due flow runs of prefect.yaml's deployments, in this working copy, until Ctrl-C.

Reads   prefect.yaml, whose deployments it runs; PREFECT_API_URL
Run     python -m flows.operations.flow_worker

Prefect's own process worker trusts the server: it runs any command of a deployment, in any folder and environment, runs
the deployment's `pull` steps, and imports the flow to look for hooks. With it, whoever may write to the server has this
machine. This worker only runs `python -m flows.flow_run`, in the folder where it was started, and that loads only flows
of prefect.yaml.
"""

import abc
import asyncio
import os
import sys
from pathlib import Path

import click

from flows.machine.console import run
from flows.operations.deploy import POOL
from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.servers import prefect_server


def check(root: Path) -> None:
    """Raises InputError if prefect.yaml does not exist, or asks for something that this worker does not do."""
    file = root / "prefect.yaml"
    if not file.is_file():
        raise InputError(f"{file} does not exist: it names the flows that a worker may run")
    given = file_io.read_yaml(file)
    if given.get("pull") or any(one.get("pull") for one in given.get("deployments") or []):
        raise InputError(
            f"{file} has `pull`, which is not followed: a run starts in the folder of its worker, so update that"
        )


async def work(pool: str) -> None:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun
    from prefect.utilities.processutils import command_to_string, setup_signal_handlers_worker
    from prefect.workers import process

    async def without_hooks(flow_run: FlowRun) -> Flow:
        return Flow(lambda: None, name="without hooks")

    class Configuration(process.ProcessJobConfiguration):
        @classmethod
        async def from_template_and_values(
            cls, base_job_template: dict, values: dict, client: object = None
        ) -> "Configuration":
            command = command_to_string([sys.executable, "-m", "flows.flow_run"])
            return cls(command=command, working_dir=Path.cwd())

    # An abstract class, because Prefect registers all others, and this one would replace its own.
    class Worker(process.ProcessWorker, abc.ABC):
        job_configuration = Configuration

    process.load_flow_from_flow_run  # noqa: B018  fails if this version of Prefect loads flows in another way
    process.load_flow_from_flow_run = without_hooks  # type: ignore[assignment]  # is called with a run alone
    setup_signal_handlers_worker(os.getpid(), "the worker", print)
    # No limit on the worker: a run that waited for one would not be cancelled by its deployment's limit of one.
    try:
        await Worker(pool, name=f"{POOL} {os.uname().nodename} {os.getpid()}").start()
    except asyncio.CancelledError:
        print("the worker has stopped", flush=True)


@click.command()
@click.option("--pool", default=POOL, show_default=True, help="Another work pool of processes.")
def command(pool: str) -> int:
    """Run the due flow runs of prefect.yaml's deployments, in this working copy, until Ctrl-C.

    PREFECT_API_URL names the server, and PREFECT_API_AUTH_STRING is its secret.
    """
    root = paths.root()
    check(root)
    os.chdir(root)
    prefect_server.configure()
    if not os.environ.get("PREFECT_API_URL"):
        raise InputError("a worker asks Prefect's server what is due: set PREFECT_API_URL, or use trainyard serve")
    prefect_server.check("PREFECT_API_URL names it: start it")
    asyncio.run(work(pool))
    return 0


if __name__ == "__main__":
    run(command)
