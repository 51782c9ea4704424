"""Keeps MLflow's addresses of artifacts right when a project is moved, renamed, copied or restored elsewhere.

MLflow notes absolute addresses: of experiments, of runs, of logged models, of a model's versions. So a store notes
beside them which folder it lay in, its home. Where it lies in another one now, the addresses inside that home are
rewritten to be inside this one: a copy uses its own files, though those of the original still exist, and nothing is
written to the old place. Addresses of anything outside stay as they are.

MLflow has no call for this, hence SQL. Its own tables are changed in nothing but these addresses.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

ARTIFACTS = "mlartifacts"  # the folder beside the store
NOTE = "trainyard_home"  # a table of one row: the folder in which the addresses are right
# Table, column with addresses, and which rows.
ADDRESSES = (
    ("experiments", "artifact_location", "true"),
    ("runs", "artifact_uri", "true"),
    ("logged_models", "artifact_location", "true"),
    ("model_versions", "source", "true"),
    ("model_versions", "storage_location", "true"),
    ("trace_tags", "value", "key = 'mlflow.artifactLocation'"),
)
PATIENCE = 60.0  # seconds that another process may keep the store to itself


def follow(store: Path) -> None:
    """Makes the addresses in a SQLite store of MLflow right for the folder that it lies in. Costs a millisecond where
    it has not moved.

    Args:
        store: the file, in which MLflow has made its tables. The caller holds the lock on opening it.

    Raises:
        sqlite3.Error: it has moved, and cannot be written.
    """
    here = store.parent
    with closing(sqlite3.connect(store, timeout=PATIENCE, isolation_level=None)) as database:
        home = home_of(database)
        if home and (home == here or same(home, here)):
            return
        database.execute("begin immediate")  # closed before the commit, all is as it was
        if before := home or guess(database, here):
            rewrite(database, before, here)
        database.execute(f"create table if not exists {NOTE} (address text not null)")
        database.execute(f"delete from {NOTE}")
        database.execute(f"insert into {NOTE} values (?)", [here.as_uri()])
        database.execute("commit")


def home_of(database: sqlite3.Connection) -> Path | None:
    """The folder in which the addresses are right, or None in a store that has no note of it."""
    try:
        row = database.execute(f"select address from {NOTE}").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    return path_of(row[0]) if row else None


def guess(database: sqlite3.Connection, here: Path) -> Path | None:
    """The home of a store that was made before homes were noted: what the experiments of this project, each in its
    folder below mlartifacts/, are addressed by. One whose folder is there still, and not here, is in use there."""
    for name, address in database.execute("select name, artifact_location from experiments"):
        path = path_of(address or "")
        if not path or path.name != name or path.parent.name != ARTIFACTS or path.parent.parent == here:
            continue
        if (here / ARTIFACTS / name).exists() or not path.exists():
            return path.parent.parent
    return None


def same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder, by a link or a mount: then the addresses by either are right."""
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
    """What makes of an address inside the one folder that inside the other, and leaves all else alone."""

    def moved(address: str | None) -> str | None:
        path = path_of(address or "")
        if address is None or path is None or not path.is_relative_to(before):
            return address
        now = here / path.relative_to(before)
        return now.as_uri() if address.startswith("file:") else str(now)

    return moved


def path_of(address: str) -> Path | None:
    """The local path of an address, which MLflow notes as file:///... or as it is; None for any other."""
    if address.startswith("file:"):
        return Path(unquote(urlsplit(address).path, errors="surrogateescape"))
    return Path(address) if address.startswith("/") else None
