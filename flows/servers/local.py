"""`trainyard serve`: starts Prefect's server, the deployments, a worker and MLflow's pages on this machine."""

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from flows.access import login, running_servers
from flows.data import added
from flows.machine import ports
from flows.machine.orphans import WITH_PARENT
from flows.params.params_file import read
from flows.project import file_io
from flows.project.errors import InputError, UnavailableError
from flows.servers import children, prefect_server, temporary_server
from flows.untrusted import masking

PREFECT_PORT, MLFLOW_PORT = 4200, 5000


def serve(root: Path, prefect_port: int | None, mlflow_port: int | None) -> int:
    """Serves until Ctrl-C or SIGTERM, then returns the exit code.

    Raises:
        InputError: there is no prefect.yaml, or a port that was asked for is taken.
        UnavailableError: a part does not start, or ends by itself, or the project is served already.
    """
    if not (root / "prefect.yaml").is_file():
        raise InputError(f"{root / 'prefect.yaml'} does not exist: it says what runs when")
    with (
        serving_lock(),
        children.Parts(running_servers.folder()) as parts,
        children.until_one_ends(parts, "ending the worker and the servers; schedules are kept"),
    ):
        bring_up(root, parts, prefect_port, mlflow_port)
    return 0


def bring_up(
    root: Path, parts: children.Parts, prefect_port: int | None, mlflow_port: int | None, *, started_here: bool = False
) -> None:
    """Starts all parts, and prints each address when it answers. Addresses of pages are one-time links.

    Args:
        started_here: whether this command has started the servers that the environment names, so that they are not the
            user's.
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
        database = temporary_server.Database()
        parts.wait(database.may_start, "another command that makes Prefect's database", advice="end it")
        of_server = prefect_server.permanent(port) | login.link_variables()
        parts.start("Prefect's server", prefect_server.command(port), env | of_server)
        env["PREFECT_API_AUTH_STRING"] = login.credentials()
    else:
        prefect_server.check_address()
        api = os.environ["PREFECT_API_URL"].rstrip("/")
    if own_mlflow:
        port = choose("MLflow", mlflow_port, MLFLOW_PORT, "--mlflow-port")
        mlflow = f"http://127.0.0.1:{port}"
        parts.start("MLflow", [sys.executable, "-m", "flows.operations.ui", "--port", str(port), "--with-parent"], env)
    else:
        mlflow = mlflow_uri.rstrip("/")
    env["PREFECT_API_URL"] = api
    advice = None if own_prefect else "start it, or unset PREFECT_API_URL for one of this project's own"
    parts.wait(lambda: answers(api, ours), f"Prefect's server at {masking.address(api)}", advice=advice)
    if own_prefect:
        database.prepared()
    else:
        prefect_server.check_secret()
    pages = api.removesuffix("/api")
    click.echo(f"Prefect      {login.link(pages) if ours else f'{masking.address(pages)}{whose}'}")

    shown = masking.address(mlflow)
    running_servers.note(api, shown, ours, own_mlflow or started_here)
    if own_prefect:
        running_servers.write_variables({name: env[name] for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")})
    own = ["--own-server"] if ours else []
    deployed = parts.start("prefect deploy", [sys.executable, "-m", "flows.operations.deploy", *own], env)
    parts.wait(lambda: False, "prefect deploy --all", ends=deployed)
    worker = parts.start(
        "the worker", [sys.executable, "-c", WITH_PARENT, "flows.operations.flow_worker"], env, sign="started!"
    )
    for name, when in deployments(root):
        click.echo(f"deployment   {name:<18} {when}")
    parts.wait(worker.up.is_set, "the worker")
    parts.wait(lambda: answers(mlflow, own_mlflow or started_here), f"MLflow at {shown}")
    if own_mlflow or started_here:
        click.echo(f"MLflow       {login.link(mlflow)}")
    else:
        click.echo(f"MLflow       {shown}{whose}")
    added.make_folders(read().dataset)
    click.echo("new images   go into data/incoming/<class>/")
    if own_prefect:
        click.echo(
            f"In other terminals, before commands of Prefect's own: . {shlex.quote(str(running_servers.env_file()))}"
        )
    click.echo(
        f"Ready after {time.monotonic() - started:.1f} s. Logs are in {running_servers.folder()}. Ctrl-C ends it all."
    )


def answers(address: str, own: bool) -> bool:
    """Whether a server answers at an address; for one of our own, also whether this user's process listens there."""
    return (ports.is_ours(address) or not own) and ports.answers(f"{address}/health")


def environment() -> dict[str, str]:
    """The environment of every part: Prefect's variables, and this Python first in PATH, for what the worker runs."""
    given = os.environ.get("PREFECT_API_URL")
    level = os.environ.get("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    prefect_server.configure()
    if not given:  # the secret of another server is not for one that is started here
        for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
            os.environ.pop(name, None)
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    return {
        # By default the worker polls every ten seconds, and a person who presses Run waits that long.
        "PREFECT_WORKER_QUERY_SECONDS": "3",
        **os.environ,
        # `configure` silences Prefect's logs, which would say why a server did not start.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": level,
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }


def choose(what: str, wanted: int | None, default: int, option: str) -> int:
    """The wanted port, or the default one, or a free one if the default is taken.

    Raises:
        InputError: the wanted port cannot be used.
    """
    if wanted:
        if reason := ports.why_not_free("127.0.0.1", wanted):
            raise InputError(f"{option} {wanted} cannot be used ({reason}): choose another, or none for a free one")
        return wanted
    if ports.why_not_free("127.0.0.1", default) is None:
        return default
    port = ports.free_port()
    click.echo(f"port {default} is taken: {what} gets {port}")
    return port


def deployments(root: Path) -> Iterator[tuple[str, str]]:
    """Name and schedule of each deployment in prefect.yaml, for a person to read."""
    for deployment in file_io.read_yaml(root / "prefect.yaml").get("deployments") or []:
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
    """Prints new links to the pages that are served. Raises UnavailableError if nothing is served."""
    there = running_servers.addresses()
    if there is None:
        raise UnavailableError("nothing is served here: trainyard serve does")
    pages = there["prefect"].removesuffix("/api")
    click.echo(f"Prefect      {login.link(pages) if there.get('own') else masking.address(pages)}")
    click.echo(f"MLflow       {login.link(there['mlflow']) if there.get('own_mlflow') else there['mlflow']}")


@contextmanager
def serving_lock() -> Iterator[None]:
    """Holds the lock on serving this project. Raises UnavailableError, with the addresses, if it is served already."""
    from filelock import FileLock, Timeout

    running_servers.folder().mkdir(parents=True, exist_ok=True)
    lock = FileLock(running_servers.folder() / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        there = running_servers.addresses()
        where = f"Prefect at {there['prefect'].removesuffix('/api')}, MLflow at {there['mlflow']}" if there else ""
        raise UnavailableError(f"this project is served already: {where or 'it is just coming up'}") from None
    try:
        yield
    finally:
        lock.release()
