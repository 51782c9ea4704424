"""Corrects MLflow's artifact URIs when a project is moved, renamed, copied or restored elsewhere.

MLflow stores absolute URIs for experiments, runs, logged models and model versions. So the store also notes its home:
the folder in which these URIs are right. Where the store is in another folder now, the URIs inside its home are
rewritten to that folder. So a copy uses its own files although the original's still exist, and writes nothing to the
old place. URIs outside the home stay as they are.

MLflow has no call for this, hence SQL, which changes nothing else in MLflow's tables.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

ARTIFACTS = "mlartifacts"  # the folder beside the store
NOTE = "trainyard_home"  # a table of one row: the store's home
# Table, column with URIs, and condition on the rows.
ADDRESSES = (
    ("experiments", "artifact_location", "true"),
    ("runs", "artifact_uri", "true"),
    ("logged_models", "artifact_location", "true"),
    ("model_versions", "source", "true"),
    ("model_versions", "storage_location", "true"),
    ("trace_tags", "value", "key = 'mlflow.artifactLocation'"),
)
PATIENCE = 60.0  # seconds that another process may lock the store


def update_addresses(store: Path) -> None:
    """Corrects the artifact URIs in a SQLite store for the folder that it is in. Takes a millisecond if unmoved.

    Args:
        store: the file, with MLflow's tables. The caller holds the lock for opening it.

    Raises:
        sqlite3.Error: it was moved, and cannot be written.
    """
    here = store.parent
    with closing(sqlite3.connect(store, timeout=PATIENCE, isolation_level=None)) as database:
        home = home_of(database)
        if home and (home == here or is_same_folder(home, here)):
            return
        database.execute("begin immediate")  # without the commit, everything is as before
        if before := home or guess_home(database, here):
            rewrite(database, before, here)
        database.execute(f"create table if not exists {NOTE} (address text not null)")
        database.execute(f"delete from {NOTE}")
        database.execute(f"insert into {NOTE} values (?)", [here.as_uri()])
        database.execute("commit")


def home_of(database: sqlite3.Connection) -> Path | None:
    """The store's home; None in a store that has not noted one."""
    try:
        row = database.execute(f"select address from {NOTE}").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    return path_of(row[0]) if row else None


def guess_home(database: sqlite3.Connection, here: Path) -> Path | None:
    """The home of a store that has not noted one, from the URIs of this project's experiments; None where unknown.

    Their URIs are <home>/mlartifacts/<name>. An experiment whose folder still exists there, and not here, is in use
    there, and tells nothing.
    """
    for name, address in database.execute("select name, artifact_location from experiments"):
        path = path_of(address or "")
        if not path or path.name != name or path.parent.name != ARTIFACTS or path.parent.parent == here:
            continue
        if (here / ARTIFACTS / name).exists() or not path.exists():
            return path.parent.parent
    return None


def is_same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same folder, by a link or a mount: then URIs with either are right."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def rewrite(database: sqlite3.Connection, before: Path, here: Path) -> None:
    database.create_function("moved", 1, mover(before, here), deterministic=True)
    for table, column, which in ADDRESSES:
        if column in {row[1] for row in database.execute(f"pragma table_info({table})")}:
            database.execute(
                f"update {table} set {column} = moved({column}) where {which} and {column} <> moved({column})"
            )


def mover(before: Path, here: Path) -> Callable[[str | None], str | None]:
    """A function that moves a URI from one folder to the other, and returns all other URIs unchanged."""

    def moved(address: str | None) -> str | None:
        path = path_of(address or "")
        if address is None or path is None or not path.is_relative_to(before):
            return address
        now = here / path.relative_to(before)
        return now.as_uri() if address.startswith("file:") else str(now)

    return moved


def path_of(address: str) -> Path | None:
    """The local path of a URI, which MLflow stores as file:///... or as a path; None for any other URI."""
    if address.startswith("file:"):
        return Path(unquote(urlsplit(address).path, errors="surrogateescape"))
    return Path(address) if address.startswith("/") else None
