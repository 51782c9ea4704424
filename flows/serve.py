"""`trainyard serve`: brings up on this machine all that retraining on a schedule takes, until Ctrl-C or SIGTERM.

Reads   prefect.yaml: the deployments, of which this file knows nothing
Writes  .trainyard/prefect/ (Prefect's database), .trainyard/serve/ (addresses and logs), and MLflow's store
Run     python -m flows.serve

Prefect's server, the deployments of prefect.yaml, a worker that runs what is due, and MLflow's pages. A server that
PREFECT_API_URL or MLFLOW_TRACKING_URI names is used instead of one of its own. The worker (`flows.flow_worker`) works
on the pool of prefect.yaml, so `prefect deploy --all` changes what is served. Schedules live in the server's database:
they are kept while nothing is up, and late runs are made up for.
"""

import os
import queue
import shlex
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TextIO

import click

from flows import incoming, login, masked, ports, prefect_server, project, served
from flows.console import run
from flows.orphan import WITH_PARENT
from flows.params import read
from flows.private_file import tighten
from flows.processes import ClosedError, Processes
from lightning_modules.errors import InputError, UnavailableError

PREFECT_PORT, MLFLOW_PORT = 4200, 5000
PATIENCE = 120  # seconds, for each part to answer; on a busy machine a new database takes 20
LOG_SIZE = 10_000_000  # bytes of a log at which a start begins another one
GRACE = 6.0  # seconds that each part is given to end


class Stop(Exception):
    """Ctrl-C, SIGTERM, or a terminal that was closed."""


@dataclass
class Part:
    """One of the commands that make up what is served."""

    name: str
    log: Path
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=15))
    up: threading.Event = field(default_factory=threading.Event)  # it has printed `sign`
    sign: str | None = None

    def keep(self, line: str, file: TextIO) -> None:
        line = masked.text(line)
        self.lines.append(line)
        if self.sign and self.sign in line:
            self.up.set()
        print(line, file=file, flush=True)


class Parts:
    """Starts the parts, waits for them, and says which one ended. All end with it, as a context."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.processes = Processes(grace=GRACE)
        # (part, exit code) as parts end, and (None, number) for a signal. Unlike an exception of a handler, which may
        # come at any moment, an event is taken where it can be dealt with.
        self.events: queue.SimpleQueue[tuple[Part | None, int]] = queue.SimpleQueue()

    def __enter__(self) -> "Parts":
        self.before = {number: signal.signal(number, self.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        # Of a terminal that is closed; nohup has it ignored.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self.before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self.on_signal)
        return self

    def __exit__(self, *_) -> None:
        self.processes.end_all()
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def on_signal(self, number: int, frame: object) -> None:
        self.events.put((None, number))

    def start(self, name: str, command: list[str], env: dict[str, str], sign: str | None = None) -> Part:
        part = Part(name, self.logs / f"{name.split()[-1].lower()}.log", sign=sign)
        # A daemon: one that never ends must not keep this process from ending.
        threading.Thread(target=self.follow, args=(part, command, env), daemon=True).start()
        return part

    def follow(self, part: Part, command: list[str], env: dict[str, str]) -> None:
        with open_log(part.log) as file:
            try:
                code = self.processes.run(command, lambda line: part.keep(line, file), env=env)
            except ClosedError:
                return
        self.events.put((part, code))

    def wait(
        self, condition: Callable[[], object], what: str, ends: Part | None = None, advice: str | None = None
    ) -> None:
        """Returns when the condition holds or the part `ends` has ended well.

        Args:
            advice: for where that takes too long.

        Raises:
            Stop: by a signal.
            UnavailableError: a part ended, or the condition does not come true in time.
        """
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{what} does not answer after {PATIENCE} seconds: {advice or f'look into {self.logs}'}"
                )
            part = self.next(0.1)
            if part is not None and part is ends:
                return
            if part is not None:
                raise UnavailableError(f"{part.name} has ended by itself: look into {part.log}")

    def next(self, timeout: float | None = None) -> Part | None:
        """The part that has ended with 0, or None when the time is over. Raises like `wait`."""
        try:
            part, code = self.events.get(timeout=timeout)
        except queue.Empty:
            return None
        if part is None:
            raise Stop
        if code:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            last = "".join(f"\n    {line}" for line in part.lines)
            raise UnavailableError(f"{part.name} {how}. Its last lines, of {part.log}:{last}")
        return part


def open_log(path: Path) -> TextIO:
    """To write behind what is there: it may say why an earlier start ended, which systemd has followed by this one."""
    if path.exists() and path.stat().st_size > LOG_SIZE:
        os.replace(path, path.with_name(f"{path.name}.1"))
    file = path.open("a", encoding="utf-8")
    tighten(path)
    print(f"--- started at {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}", file=file, flush=True)
    return file


def serve(root: Path, prefect_port: int | None, mlflow_port: int | None) -> int:
    """Returns the exit code when it has been stopped.

    Raises:
        InputError: there is no prefect.yaml, or a port that was asked for is taken.
        UnavailableError: a part does not come up or ends, or is served already.
    """
    if not (root / "prefect.yaml").is_file():
        raise InputError(f"{root / 'prefect.yaml'} does not exist: it says what runs when")
    with only_one(), Parts(served.folder()) as parts:
        try:
            bring_up(root, parts, prefect_port, mlflow_port)
            part = parts.next()
        except Stop:
            click.echo("\nending the worker and the servers; schedules are kept")
            return 0
        finally:
            served.forget()
        raise UnavailableError(f"{part.name} has ended by itself: look into {part.log}")


def bring_up(
    root: Path, parts: Parts, prefect_port: int | None, mlflow_port: int | None, *, started_here: bool = False
) -> None:
    """Starts everything and prints each address when it answers, those of the pages as links that let in once.

    Args:
        started_here: whether the servers that the environment names, if any, are this command's own and not the user's.
    """
    started = time.monotonic()
    env = environment()
    own_prefect = not os.environ.get("PREFECT_API_URL")
    ours = own_prefect or started_here
    whose = "" if started_here else " (yours)"
    mlflow_uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    own_mlflow = not mlflow_uri.startswith(("http://", "https://"))
    if own_prefect:
        port = choose("Prefect's server", prefect_port, PREFECT_PORT, "--prefect-port")
        api = f"http://127.0.0.1:{port}/api"
        database = prefect_server.Database()
        parts.wait(database.may_start, "another command that makes Prefect's database", advice="end it")
        of_server = prefect_server.lasting(port) | login.for_links()
        parts.start("Prefect's server", prefect_server.command(port), env | of_server)
        env["PREFECT_API_AUTH_STRING"] = login.basic()
    else:
        prefect_server.check_address()
        api = os.environ["PREFECT_API_URL"].rstrip("/")
    if own_mlflow:
        port = choose("MLflow", mlflow_port, MLFLOW_PORT, "--mlflow-port")
        mlflow = f"http://127.0.0.1:{port}"
        parts.start("MLflow", [sys.executable, "-m", "flows.ui", "--port", str(port), "--with-parent"], env)
    else:
        mlflow = mlflow_uri.rstrip("/")
    env["PREFECT_API_URL"] = api
    advice = None if own_prefect else "start it, or unset PREFECT_API_URL for one of this project's own"
    parts.wait(lambda: answers(api, ours), f"Prefect's server at {masked.address(api)}", advice=advice)
    if own_prefect:
        database.prepared()
    else:
        prefect_server.check_secret()
    pages = api.removesuffix("/api")
    click.echo(f"Prefect      {login.link(pages) if ours else f'{masked.address(pages)}{whose}'}")

    shown = masked.address(mlflow)
    served.note(api, shown, ours, own_mlflow or started_here)
    if own_prefect:
        served.tell({name: env[name] for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")})
    own = ["--own-server"] if ours else []
    deployed = parts.start("prefect deploy", [sys.executable, "-m", "flows.deploy", *own], env)
    parts.wait(lambda: False, "prefect deploy --all", ends=deployed)
    worker = parts.start("the worker", [sys.executable, "-c", WITH_PARENT, "flows.flow_worker"], env, sign="started!")
    for name, when in deployments(root):
        click.echo(f"deployment   {name:<18} {when}")
    parts.wait(worker.up.is_set, "the worker")
    parts.wait(lambda: answers(mlflow, own_mlflow or started_here), f"MLflow at {shown}")
    if own_mlflow or started_here:
        click.echo(f"MLflow       {login.link(mlflow)}")
    else:
        click.echo(f"MLflow       {shown}{whose}")
    incoming.make_folders(read().dataset)
    click.echo("new images   go into data/incoming/<class>/")
    if own_prefect:
        click.echo(f"In other terminals, before commands of Prefect's own: . {shlex.quote(str(served.variables()))}")
    click.echo(f"Ready after {time.monotonic() - started:.1f} s. Logs are in {served.folder()}. Ctrl-C ends it all.")


def answers(address: str, own: bool) -> bool:
    """Whether a server answers; of one of our own, whether it is that which listens there."""
    return (ports.is_ours(address) or not own) and ports.answers(f"{address}/health")


def environment() -> dict[str, str]:
    """Of every part: Prefect's settings, and this very Python for what the worker runs."""
    given = os.environ.get("PREFECT_API_URL")
    level = os.environ.get("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    prefect_server.configure()
    if not given:  # nor is another server's secret for one that is started here
        for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
            os.environ.pop(name, None)
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    return {
        # By itself the worker asks the server every ten seconds, and a person who presses Run waits as long.
        "PREFECT_WORKER_QUERY_SECONDS": "3",
        **os.environ,
        # `configure` leaves no more than a terminal needs, and not why a server did not come up.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": level,
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }


def choose(what: str, wanted: int | None, default: int, option: str) -> int:
    """The port that was asked for, or the default one, or another where that is taken."""
    if wanted:
        if reason := ports.why_not("127.0.0.1", wanted):
            raise InputError(f"{option} {wanted} cannot be used ({reason}): choose another, or none for a free one")
        return wanted
    if ports.why_not("127.0.0.1", default) is None:
        return default
    port = ports.free_port()
    click.echo(f"port {default} is taken: {what} gets {port}")
    return port


def deployments(root: Path) -> Iterator[tuple[str, str]]:
    """Name and schedule of each deployment in prefect.yaml, for a person to read."""
    for deployment in project.read_yaml(root / "prefect.yaml").get("deployments") or []:
        when = [
            f"{schedule['cron']} {schedule.get('timezone', '')}".strip()
            if "cron" in schedule
            else f"every {schedule['interval']} s"
            if "interval" in schedule
            else "by a rule"
            for schedule in deployment.get("schedules") or []
        ]
        yield deployment["name"], ", ".join(when) or "when asked"


def links() -> None:
    """Prints links to the pages of what is served here. Raises UnavailableError where nothing is."""
    there = served.addresses()
    if there is None:
        raise UnavailableError("nothing is served here: trainyard serve does")
    pages = there["prefect"].removesuffix("/api")
    click.echo(f"Prefect      {login.link(pages) if there.get('own') else masked.address(pages)}")
    click.echo(f"MLflow       {login.link(there['mlflow']) if there.get('own_mlflow') else there['mlflow']}")


@contextmanager
def only_one() -> Iterator[None]:
    """Holds the lock on serving this project. Raises UnavailableError, saying where, if another process has it."""
    from filelock import FileLock, Timeout

    served.folder().mkdir(parents=True, exist_ok=True)
    lock = FileLock(served.folder() / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        there = served.addresses()
        where = f"Prefect at {there['prefect'].removesuffix('/api')}, MLflow at {there['mlflow']}" if there else ""
        raise UnavailableError(f"this project is served already: {where or 'it is just coming up'}") from None
    try:
        yield
    finally:
        lock.release()


@click.command()
@click.option("--prefect-port", type=click.IntRange(1, 65535), help=f"[default: {PREFECT_PORT}, or a free one]")
@click.option("--mlflow-port", type=click.IntRange(1, 65535), help=f"[default: {MLFLOW_PORT}, or a free one]")
@click.option("--links", "links_only", is_flag=True, help="Print new links to the pages of what is served, and end.")
def command(prefect_port: int | None, mlflow_port: int | None, links_only: bool) -> int:
    """Retrain on a schedule: bring up Prefect's server, the deployments of prefect.yaml, a worker and MLflow's pages,
    until Ctrl-C.

    PREFECT_API_URL and MLFLOW_TRACKING_URI name servers to use instead. Schedules are kept while nothing is up.
    """
    root = project.root()
    if links_only:
        links()
        return 0
    read()  # a mistake in params.yaml is said now, and not by tonight's run
    os.chdir(root)
    return serve(root, prefect_port, mlflow_port)


if __name__ == "__main__":
    run(command)
