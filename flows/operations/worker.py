"""`trainyard worker tcp://HOST:8786`: runs stages for a Dask scheduler, in this working copy.

See `flows.orchestration.cluster`.

Run     python -m flows.operations.worker ADDRESS
"""

import os
import sys

import click

from flows.machine.console import run
from flows.orchestration import dask_options
from flows.project import paths
from flows.servers import prefect_server


@click.command()
@click.argument("address")
def command(address: str) -> None:
    """Run stages for a Dask scheduler, in this working copy, until Ctrl-C.

    ADDRESS is the scheduler's, tcp://HOST:8786, which `dask scheduler` prints. A worker runs one stage at a time, with
    all cores; on a machine with several GPUs start one worker per GPU, with CUDA_VISIBLE_DEVICES. For `--remote` give
    each worker a clone of its own in which nobody works: stages overwrite params.yaml and dvc.lock there.
    """
    root = paths.root()
    dask_options.check(address)
    prefect_server.configure()
    os.chdir(root)
    # No memory limit: stages are separate processes, whose memory Dask does not see.
    options = ["--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
    os.execv(sys.executable, [sys.executable, "-m", "distributed.cli.dask_worker", address, *options])


if __name__ == "__main__":
    run(command)
