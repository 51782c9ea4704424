"""Stages that find their libraries loaded: where several of them run, one process imports torch, Lightning and MLflow
and forks itself for each.

The import takes four seconds, longer than many a small network trains. The stage's own process, which DVC has started,
hands its arguments, folder, environment and outputs to the fork, passes signals on, and ends as the fork ends. If
any of the three is killed, so is what depends on it. The project's own code is not loaded ahead: each fork imports
it as it is then.

Run     python -m flows.preloaded SOCKET [LIBRARY]...
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ADDRESS = "TRAINYARD_PRELOADED"  # the variable that names the socket; TRAINYARD_PRELOAD=0 lets there be none
STAGES = ("train", "evaluate", "ensemble")  # of which two make it worth while
OWN = ("flows", "lightning_modules")
LIBRARIES = (
    "lightning_modules.lightning", "mlflow.pytorch", "mlflow.pyfunc", "safetensors.torch",
    # What logging to a local store and exporting a network load on their first call.
    "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store",
    "torch.export.pt2_archive", "torch._export.serde.serialize", "torch._inductor.codecache",
)  # fmt: skip
GRACE = 10.0  # seconds between TERM and KILL
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def libraries(root: Path, stages: Sequence[str]) -> Iterator[dict[str, str]]:
    """Begins to load them, where that is worth while for these stages; yields the variable that the stages need."""
    several = sum(stage.partition("@")[0] in STAGES for stage in stages) > 1
    if not several or sys.platform != "linux" or os.environ.get("TRAINYARD_PRELOAD") == "0":
        yield {}
        return
    folder = Path(tempfile.mkdtemp(prefix="trainyard-"))  # the path of a socket may have 107 bytes
    address = folder / "socket"
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, address],
        cwd=root, env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield {ADDRESS: os.fspath(address)}
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def hand_over() -> int | None:
    """Lets a fork of the process with the libraries be this stage; its exit code, or None where there is no such
    process. A signal that ends the fork ends this process too."""
    address = os.environ.get(ADDRESS)
    if not address:
        return None
    spec = sys.modules["__main__"].__spec__
    request = {"module": spec.name, "arguments": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(address)
        except OSError:
            return None
        socket.send_fds(connection, [b"3"], [0, 1, 2])
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile() as answers:
            fork = answers.readline()
            if fork:
                for number in FORWARDED:
                    signal.signal(number, lambda number, frame: signal_group(int(fork), number))
            code = answers.readline()
    if not code:
        print("trainyard: the process that had loaded the stage's libraries was killed", file=sys.stderr)
        return 1
    if int(code) < 0:
        with contextlib.suppress(OSError):  # KILL has no other
            signal.signal(-int(code), signal.SIG_DFL)
        os.kill(os.getpid(), -int(code))
    return int(code)


def signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


@dataclass(eq=False)
class Fork:
    """A stage at work, and the connection to the process that it stands for."""

    pid: int
    pidfd: int
    connection: socket.socket
    kill_at: float | None = None  # set when nobody waits for it any more


@dataclass(frozen=True)
class Request:
    """What a stage's process wants to have run."""

    module: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]


def serve(listener: socket.socket, parent: int) -> tuple[Request, list[int]]:
    """Forks for each request, until the process whose pidfd `parent` is ends; returns in the forks alone, with the
    request and the stage's input and outputs."""
    forks: set[Fork] = set()
    with selectors.DefaultSelector() as selector:
        selector.register(parent, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            deadlines = [fork.kill_at for fork in forks if fork.kill_at]
            for key, _ in selector.select(max(0.0, min(deadlines) - time.monotonic()) if deadlines else None):
                fork: Fork | None = key.data
                if key.fileobj == parent:
                    sys.exit()
                elif fork is None:
                    connection = listener.accept()[0]
                    try:
                        request, outputs = receive(connection)
                    except (OSError, ValueError):  # it was ended meanwhile
                        connection.close()
                        continue
                    pid = os.fork()
                    if not pid:
                        for other in forks:
                            os.close(other.pidfd)
                            other.connection.close()
                        connection.close()
                        return request, outputs
                    for output in outputs:
                        os.close(output)
                    fork = Fork(pid, os.pidfd_open(pid), connection)
                    forks.add(fork)
                    selector.register(fork.pidfd, selectors.EVENT_READ, fork)
                    selector.register(connection, selectors.EVENT_READ, fork)
                    tell(connection, pid)
                elif key.fileobj is fork.connection:
                    selector.unregister(fork.connection)
                    fork.kill_at = time.monotonic() + GRACE
                    signal_group(fork.pid, signal.SIGTERM)
                else:
                    selector.unregister(fork.pidfd)
                    os.close(fork.pidfd)
                    code = os.waitstatus_to_exitcode(os.waitpid(fork.pid, 0)[1])
                    if fork.kill_at is None:
                        selector.unregister(fork.connection)
                    signal_group(fork.pid, signal.SIGKILL)  # what it may have left running
                    tell(fork.connection, code)
                    fork.connection.close()
                    forks.discard(fork)
            for fork in forks:
                if fork.kill_at and time.monotonic() >= fork.kill_at:
                    signal_group(fork.pid, signal.SIGKILL)


def tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(b"%d\n" % number)


def receive(connection: socket.socket) -> tuple[Request, list[int]]:
    """A request, and the stage's input and outputs."""
    connection.settimeout(GRACE)
    _, outputs, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as lines:
        return Request(**json.loads(lines.readline())), outputs


def become(request: Request, outputs: list[int], variables: dict[str, str]) -> None:
    """Makes this fork the process that the request came from.

    Args:
        variables: of the environment, which libraries have set as they were loaded.
    """
    from flows.orphan import die_with_parent

    os.setsid()
    for number, output in enumerate(outputs):
        os.dup2(output, number)
        os.close(output)
    os.environ.clear()
    os.environ.update(variables | request.environment)
    del os.environ[ADDRESS]
    os.chdir(request.folder)
    sys.argv = request.arguments
    sys.path[0] = request.folder
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(threads))  # it has read its variable when it was loaded
    die_with_parent()


def main(address: str, names: Sequence[str]) -> None:
    parent, before = os.pidfd_open(os.getppid()), dict(os.environ)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(128)
        gc.disable()
        for name in names:
            with contextlib.suppress(ImportError):  # then each stage does without
                importlib.import_module(name)
        gc.freeze()  # a collection would copy the pages that the forks share
        gc.enable()
        request, outputs = serve(listener, parent)
    os.close(parent)
    become(request, outputs, {name: value for name, value in os.environ.items() if name not in before})
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[name]
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or LIBRARIES)
