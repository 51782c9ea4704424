"""Server of preloaded libraries: one process imports torch, Lightning and MLflow, and forks itself for each stage.

The import takes four seconds, longer than many a small network trains. The stage's own process, which DVC started,
hands its work over (flows/machine/preloaded_client.py) and ends as the fork ends. If that process is killed, so are
the fork and all that the fork started; if this process is killed, so are the forks. The project's own code is not
preloaded: each fork imports it as it is at that time. (multiprocessing's fork server serves only the process that
started it, and a stage is started by DVC.)

Run     python -m flows.machine.preloaded_server SOCKET [LIBRARY]...
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.machine.preloaded_client import ADDRESS, same_user, signal_group

STAGES = ("train", "evaluate", "ensemble")  # two of these are worth a preload
OWN = ("flows", "lightning_modules")
LIBRARIES = (
    "lightning_modules.lightning", "mlflow.pytorch", "mlflow.pyfunc", "safetensors.torch", "threadpoolctl",
    # What logging to a local store and exporting a network load on their first call.
    "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store",
    "torch.export.pt2_archive", "torch._export.serde.serialize", "torch._inductor.codecache",
)  # fmt: skip
GRACE = 1.0  # seconds from SIGTERM to SIGKILL for the forks, when the pipeline is gone
PATIENCE = 1.0  # seconds for a whole request to arrive
PR_SET_PDEATHSIG = 1  # of prctl(2)


@contextlib.contextmanager
def libraries(root: Path, stages: Sequence[str]) -> Iterator[dict[str, str]]:
    """Starts to preload the libraries, where these stages are worth it; yields the variable that the stages need.

    With TRAINYARD_PRELOAD=0, and where no process can be started, each stage loads its own libraries.
    """
    several = sum(stage.partition("@")[0] in STAGES for stage in stages) > 1
    if not several or sys.platform != "linux" or os.environ.get("TRAINYARD_PRELOAD") == "0":
        yield {}
        return
    address = f"trainyard-{uuid.uuid4().hex}"
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, address],
            cwd=root, env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        yield {}
        return
    try:
        yield {ADDRESS: address}
    finally:
        process.terminate()
        if process.stdin:
            process.stdin.close()
        process.wait()


@dataclass(eq=False)
class Fork:
    """A fork that runs a stage, and the connection to the stage's own process, which waits for it."""

    pid: int
    pidfd: int
    connection: socket.socket


@dataclass(frozen=True)
class Request:
    """What a stage's process asks to run."""

    module: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]
    cores: list[int]


def serve(listener: socket.socket, parent: int) -> tuple[Request, list[int]]:
    """Forks for each request. Returns only in the forks, with the request and the stage's input and outputs.

    Args:
        parent: the read end of a pipe held by the pipeline. When the pipeline is gone, this process ends its forks and
            then itself.
    """
    forks: set[Fork] = set()
    end: float | None = None
    selector = selectors.DefaultSelector()
    selector.register(parent, selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    try:
        while end is None or (forks and time.monotonic() < end):
            for key, _ in selector.select(None if end is None else max(0.0, end - time.monotonic())):
                fork: Fork | None = key.data
                if key.fileobj == parent:
                    selector.unregister(parent)
                    selector.unregister(listener)
                    listener.close()
                    for other in forks:
                        signal_group(other.pid, signal.SIGTERM)
                    end = time.monotonic() + GRACE
                elif key.fileobj is listener:
                    asked = accept(listener) if end is None else None
                    fork = begin(asked[0], asked[2]) if asked else None
                    if asked and fork and not fork.pid:
                        for other in forks:
                            os.close(other.pidfd)
                            other.connection.close()
                        forks.clear()
                        return asked[1:]
                    if fork:
                        forks.add(fork)
                        selector.register(fork.pidfd, selectors.EVENT_READ, fork)
                        selector.register(fork.connection, selectors.EVENT_READ, fork)
                        tell(fork.connection, fork.pid)
                elif fork not in forks:  # ended just now, by its other event
                    continue
                elif key.fileobj is fork.connection:
                    # The stage's own process is gone. SIGTERM and the like were passed on before.
                    selector.unregister(fork.connection)
                    signal_group(fork.pid, signal.SIGKILL)
                else:
                    selector.unregister(fork.pidfd)
                    os.close(fork.pidfd)
                    with contextlib.suppress(KeyError):
                        selector.unregister(fork.connection)
                    # Kill what it left running now: the zombie still keeps its pid from being reused.
                    signal_group(fork.pid, signal.SIGKILL)
                    tell(fork.connection, os.waitstatus_to_exitcode(os.waitpid(fork.pid, 0)[1]))
                    fork.connection.close()
                    forks.discard(fork)
    finally:
        for fork in forks:
            signal_group(fork.pid, signal.SIGKILL)
        selector.close()
    sys.exit()


def accept(listener: socket.socket) -> tuple[socket.socket, Request, list[int]] | None:
    """The next request: connection, request, descriptors of the stage's input and outputs. None for a broken one."""
    outputs: list[int] = []
    connection = None
    try:
        connection = listener.accept()[0]
        connection.settimeout(PATIENCE)
        if not same_user(connection):
            raise PermissionError
        _, outputs, _, _ = socket.recv_fds(connection, 1, 3)
        with connection.makefile() as lines:
            request = Request(**json.loads(lines.readline()))
        connection.settimeout(None)
    except (OSError, ValueError, TypeError):
        for output in outputs:
            os.close(output)
        if connection:
            connection.close()
        return None
    return connection, request, outputs


def begin(connection: socket.socket, outputs: list[int]) -> Fork | None:
    """Forks. Returns the fork, with pid 0 in the fork itself; None where the system allows no more processes.

    In that case the stage loads its own libraries.
    """
    this = os.getpid()
    leads, tells = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        pid = None
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        # The kernel kills it with this process, even where Python would run no handler.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != this:
            os._exit(1)
        os.close(tells)
        os.close(leads)
        connection.close()
        return Fork(0, -1, connection)
    os.close(tells)
    if pid is not None:
        os.read(leads, 1)  # until it leads its process group, to which signals are sent
    os.close(leads)
    for output in outputs:
        os.close(output)
    if pid is not None:
        try:
            return Fork(pid, os.pidfd_open(pid), connection)
        except OSError:
            signal_group(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    connection.close()
    return None


def tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(b"%d\n" % number)


def become(request: Request, outputs: list[int], variables: dict[str, str]) -> None:
    """Gives this fork the outputs, environment, cores, folder and arguments of the process that sent the request.

    Args:
        variables: the environment variables that the libraries set when they were loaded.
    """
    for number, output in enumerate(outputs):
        os.dup2(output, number)
        os.close(output)
    os.environ.clear()
    os.environ.update(variables | request.environment)
    del os.environ[ADDRESS]
    os.sched_setaffinity(0, request.cores)
    os.chdir(request.folder)
    sys.argv = request.arguments
    sys.path[0] = request.folder
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # else all forks would have the same state
    # The libraries read this variable when they were loaded.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads):
        for name, limit in (("threadpoolctl", "threadpool_limits"), ("torch", "set_num_threads")):
            if name in sys.modules:
                getattr(sys.modules[name], limit)(int(threads))


@contextlib.contextmanager
def ends_with(parent: int) -> Iterator[None]:
    """Inside the `with`, the kernel ends this process when nobody holds the other end of the pipe.

    Python itself could not: an import may block it for seconds, and a watching thread must not exist when this process
    forks.
    """
    flags = fcntl.fcntl(parent, fcntl.F_GETFL)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(parent, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(parent, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([parent], [], [], 0)[0]:  # closed already
        sys.exit()
    try:
        yield
    finally:
        fcntl.fcntl(parent, fcntl.F_SETFL, flags)


def main(address: str, names: Sequence[str]) -> None:
    before = dict(os.environ)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # `serve` ends its forks on the way
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"\0{address}")
        listener.listen(128)
        gc.disable()
        with ends_with(sys.stdin.fileno()):
            for name in names:
                with contextlib.suppress(Exception):  # each stage then imports it itself, and reports the error
                    importlib.import_module(name)
        gc.freeze()  # a garbage collection would copy the pages that the forks share
        gc.enable()
        try:
            request, outputs = serve(listener, sys.stdin.fileno())
        except SystemExit as end:  # Python would take seconds to clean up the libraries
            os._exit(int(end.code or 0))
    become(request, outputs, {name: value for name, value in os.environ.items() if name not in before})
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[name]
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or LIBRARIES)
