"""A PostgreSQL server for this project alone: its cluster in .trainyard/postgres, on the loopback, with a password.

It uses PostgreSQL's own programs, from Debian's package `postgresql` or elsewhere. PostgreSQL refuses to run as root:
then it runs as the user `postgres`, which the package creates.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from flows.project import paths, private_files
from flows.project.errors import InputError, UnavailableError

USER = "trainyard"
DATABASES = ("mlflow", "prefect")
DEBIAN = Path("/usr/lib/postgresql")
WHEN_ROOT = "postgres"


def cluster() -> Path:
    return paths.state_folder() / "postgres"


def program(name: str, version: str | None = None) -> Path:
    """The path of one of PostgreSQL's programs: Debian's of this major version, else the one in PATH, else Debian's
    newest.

    Raises:
        InputError: it is not installed, or not in this version.
    """
    # Debian installs several versions side by side, and does not put these programs into PATH.
    found = {folder.name: folder / "bin" / name for folder in DEBIAN.glob("*") if (folder / "bin" / name).is_file()}
    if version in found:
        return found[version]
    if in_path := shutil.which(name):
        return Path(in_path)
    if version and found:
        raise InputError(
            f"{cluster()} was made by PostgreSQL {version}, and only {', '.join(sorted(found))} is installed: "
            f"install postgresql-{version}, or bring it up to date with pg_upgrade"
        )
    if not found:
        raise InputError("PostgreSQL is not installed (on Debian and Ubuntu: apt-get install postgresql)")
    return found[max(found, key=float)]


def owner() -> list[str]:
    """The options of setpriv by which root runs a command as the user `postgres`; empty if this process is not root's.

    Raises:
        InputError: there is no such user.
    """
    if os.geteuid():
        return []
    try:
        pwd.getpwnam(WHEN_ROOT)
    except KeyError:
        raise InputError(f"PostgreSQL refuses to run as root, and there is no user {WHEN_ROOT}: be another") from None
    return [f"--reuid={WHEN_ROOT}", f"--regid={WHEN_ROOT}", "--init-groups"]


def as_owner() -> list[str]:
    """The start of a command line that must not run as root."""
    return ["setpriv", *options, "--"] if (options := owner()) else []


def chown(path: Path) -> None:
    """Makes the user `postgres` the path's owner, if this process is root's."""
    if not os.geteuid():
        shutil.chown(path, WHEN_ROOT, WHEN_ROOT)


def create(password: str) -> None:
    """Creates the cluster unless it exists.

    Raises:
        InputError: PostgreSQL is not installed, or may not write there.
        UnavailableError: initdb failed; the message has its reason.
    """
    target = cluster()
    if not os.geteuid():  # the user postgres has to enter this folder, and must not read what else is in it
        target.parent.chmod(0o711)
        for other in target.parent.iterdir():
            if other != target:
                private_files.tighten(other)
    if target.exists():
        return
    initdb = program("initdb")
    # Created under another name and renamed, because initdb may be killed. Not by `whole_folder`, which would take the
    # place of a cluster that another process has made meanwhile.
    unfinished = target.with_name(".postgres.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o700)
    chown(unfinished)
    if subprocess.run([*as_owner(), "test", "-w", unfinished], stderr=subprocess.DEVNULL).returncode:
        raise InputError(
            f"PostgreSQL refuses to run as root, and the user {WHEN_ROOT} cannot get into {target.parent}: run this "
            "as another user, or move the project to a folder that all may enter"
        )
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(password)
        file.flush()
        chown(Path(file.name))
        # The C locale sorts by code point, which is enough: MLflow and Prefect sort nothing for people to read.
        options = ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256", "--data-checksums"]
        command = [*as_owner(), str(initdb), f"--pgdata={unfinished}", f"--username={USER}", f"--pwfile={file.name}"]
        made = subprocess.run([*command, *options], capture_output=True, text=True, cwd="/")
    if made.returncode:
        raise UnavailableError(f"initdb ended with exit code {made.returncode}: {made.stderr.strip()[-500:]}")
    os.replace(unfinished, target)


def command(port: int) -> list[str]:
    """The command that runs the server until a signal, or until the process that started it ends."""
    version = (cluster() / "PG_VERSION").read_text(encoding="utf-8").strip()
    server = [str(program("postgres", version)), "-D", str(cluster())]
    # No Unix socket: another user may own its folder.
    options = [f"-cport={port}", "-clisten_addresses=127.0.0.1", "-cunix_socket_directories="]
    # SIGINT ends it at once. SIGTERM would wait until all clients have disconnected.
    return [*with_parent("INT", *owner()), *server, *options]


def with_parent(signal: str, *options: str) -> list[str]:
    """The start of a command line whose process gets the signal when this process ends. Empty except on Linux."""
    return ["setpriv", f"--pdeathsig={signal}", *options, "--"] if shutil.which("setpriv") else []


def url(driver: str, password: str, address: str, database: str) -> str:
    """The database's URL for SQLAlchemy."""
    return f"postgresql+{driver}://{USER}:{password}@{address}/{database}"


def connect(password: str, port: int, database: str = "postgres") -> Any:
    """A new connection. Raises psycopg2.OperationalError if the server refuses it."""
    import psycopg2

    return psycopg2.connect(
        host="127.0.0.1", port=port, user=USER, password=password, dbname=database, connect_timeout=5
    )


def answers(password: str, port: int) -> bool:
    """Whether the server accepts connections.

    Raises:
        InputError: it refuses this password.
    """
    import psycopg2

    try:
        connect(password, port).close()
    except psycopg2.OperationalError as error:
        if "password authentication failed" in str(error):
            raise InputError(f"{cluster()} has another password than the one noted beside it") from None
        return False
    return True


def create_databases(password: str, port: int) -> None:
    """Creates the databases that do not exist yet."""
    with contextlib.closing(connect(password, port)) as connection:
        connection.autocommit = True  # CREATE DATABASE cannot be part of a transaction
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            there = {name for (name,) in cursor.fetchall()}
            for name in DATABASES:
                if name not in there:
                    cursor.execute(f'CREATE DATABASE "{name}"')
