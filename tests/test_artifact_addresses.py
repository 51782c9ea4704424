"""A project that was moved, renamed, copied or restored elsewhere finds its own artifacts, and nobody else's."""

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from conftest import environment, forget_stores

from flows.tracking import artifact_addresses, loading, member_runs, mlflow_store

PLAIN = """
import sys, mlflow, numpy
mlflow.set_tracking_uri(sys.argv[1])
print(mlflow.pyfunc.load_model("models:/digits@champion").predict(numpy.zeros((2, 8, 8, 1), numpy.uint8)).shape)
"""


@pytest.fixture
def whole_copy(finished_once, tmp_path, monkeypatch) -> Path:
    """A copy of a finished project, with its store, beside the original; the working folder."""
    folder = tmp_path / "копия 100% of it"
    shutil.copytree(finished_once, folder)
    monkeypatch.chdir(folder)
    return folder


def named_in(store: Path, folder: Path) -> set[tuple[str, str]]:
    """The columns of a store in which a folder's path is found, as it is or as an address; all tables are looked at."""
    found = set()
    with contextlib.closing(sqlite3.connect(store)) as database:
        for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            for _, column, *_ in database.execute(f"pragma table_info({table})").fetchall():
                values = database.execute(f"select {column} from {table}").fetchall()
                if any(path in str(value) for (value,) in values for path in (f"{folder}/", quote(f"{folder}/"))):
                    found.add((table, column))
    return found


def move(folder: Path, target: Path, monkeypatch) -> Path:
    """Renames a project, and goes on in it as another process would."""
    folder.rename(target)
    monkeypatch.chdir(target)
    forget_stores(monkeypatch)
    return target


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "mlflow.db" not in path.name}


def test_a_copy_uses_its_own_files_though_the_original_is_there(whole_copy, finished_once):
    before = files_below(finished_once)
    assert {("runs", "artifact_uri"), ("logged_models", "artifact_location")} <= named_in(
        whole_copy / "mlflow.db", finished_once
    )
    client = mlflow_store.connect()
    assert named_in(whole_copy / "mlflow.db", finished_once) == set()
    run = loading.champion("digits")["run_id"]
    client.log_text(run, "new", "note.txt")
    assert list(whole_copy.glob("mlartifacts/digits/*/artifacts/note.txt"))
    assert files_below(finished_once) == before
    model, _ = loading.load_champion("digits")
    assert len(model.predict(np.zeros((2, 8, 8, 1), np.uint8))) == 2


def test_a_champion_loads_after_a_move_from_plain_mlflow_too(whole_copy, tmp_path, monkeypatch):
    mlflow_store.connect()
    moved = move(whole_copy, tmp_path / "moved", monkeypatch)
    mlflow_store.connect()
    assert loading.load_version("digits", "1").predict(np.zeros((2, 8, 8, 1), np.uint8)).shape == (2, 11)
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, f"sqlite:///{moved / 'mlflow.db'}"], cwd=tmp_path, env=environment(),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "(2, 11)", done.stderr
    assert not whole_copy.exists()


def test_a_training_after_a_move_is_kept_here(whole_copy, tmp_path, monkeypatch):
    mlflow_store.connect()
    move(whole_copy, tmp_path / "moved", monkeypatch)
    settings = {"accelerator": "cpu", "precision": "float32"}
    card = {"member": "new", "dataset": "digits", "seed": 0, "recipe": {}, "settings": settings}
    tracker = member_runs.Tracker(card, [1])
    tracker.start()
    tracker.client.log_text(tracker.ids["0"], "text", "note.txt")
    assert (tmp_path / "moved" / "mlartifacts" / "digits" / tracker.ids["0"] / "artifacts" / "note.txt").is_file()
    assert not whole_copy.exists()


def test_addresses_outside_the_project_stay(project, store, tmp_path, monkeypatch):
    client = mlflow_store.connect()
    outside = {"bucket": "s3://bucket/mlartifacts/bucket", "other": (tmp_path / "a project 2" / "other").as_uri()}
    made = {name: client.create_experiment(name, artifact_location=place) for name, place in outside.items()}
    move(project, tmp_path / "moved", monkeypatch)
    client = mlflow_store.connect()
    assert {name: client.get_experiment(number).artifact_location for name, number in made.items()} == outside


def test_a_store_that_several_projects_share_is_that_of_none(project, empty_store, tmp_path, monkeypatch):
    """Made before homes were noted, with artifacts in a project that is there still."""
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, shared / 'x.db')}")
    client = mlflow_store.connect()
    place = (project / "mlartifacts" / "digits").as_uri()
    number = client.create_experiment("digits", artifact_location=place)
    (project / "mlartifacts" / "digits").mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(shared / "x.db")) as database:
        database.execute(f"drop table {artifact_addresses.NOTE}")
    assert mlflow_store.connect().get_experiment(number).artifact_location == place


def test_nothing_is_written_where_nothing_has_moved(project, store):
    mlflow_store.connect()
    before = store.read_bytes()
    mlflow_store.connect()
    assert store.read_bytes() == before


def test_by_a_link_it_is_the_same_project(project, store, tmp_path):
    mlflow_store.connect()
    before = store.read_bytes()
    (tmp_path / "link").symlink_to(project)
    artifact_addresses.update_addresses(tmp_path / "link" / "mlflow.db")
    assert store.read_bytes() == before


def test_a_move_that_cannot_be_written_leaves_all_as_it_was(whole_copy, finished_once, monkeypatch):
    store = whole_copy / "mlflow.db"
    before = named_in(store, finished_once)
    monkeypatch.setattr(artifact_addresses, "mover", lambda *_: lambda address: 1 / 0)
    with pytest.raises(sqlite3.OperationalError):
        artifact_addresses.update_addresses(store)
    assert named_in(store, finished_once) == before
    monkeypatch.undo()
    artifact_addresses.update_addresses(store)
    assert named_in(store, finished_once) == set()
