"""The deployment that looks into data/incoming/."""

import os
import sys
import time
import types
from pathlib import Path

import pytest
from prefect.states import Failed, State

from flows.project import file_io, paths
from flows.retraining import incoming, incoming_files
from flows.retraining.place import Place, Round
from flows.watch import watch


@pytest.fixture
def started(monkeypatch) -> list[dict]:
    """What the flow that it starts was given, which trains for minutes: here it is one that tells."""
    given: list[dict] = []

    def retrain(**options) -> State:
        given.append(options)
        return Failed(message="no room")

    monkeypatch.setitem(sys.modules, "flows.retrain_flow", types.SimpleNamespace(retrain=retrain))
    return given


def drop(name: str, seconds_ago: float = 60) -> None:
    file = paths.incoming_folder() / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    os.utime(file, (time.time() - seconds_ago,) * 2)


def test_hidden_files_are_not_images(project):
    assert incoming.waiting() == []
    for name in (".gitkeep", "3/a.png", "3/.a.png.part", ".partial/b.png"):
        drop(name)
    assert incoming.waiting() == ["3/a.png"]


def noted(project: Path) -> None:
    """A run was killed after it had taken in what there was."""
    file_io.write_json(incoming_files.journal(), [{"finished": True}])


def left(project: Path) -> None:
    """MLflow was away when the gate was asked, for example."""
    Place(project, None, fresh_seed=False).keep(Round(0))


@pytest.mark.parametrize("before", [lambda project: drop("3/a.png"), noted, left])
def test_retraining_starts_where_there_is_something_to_do(project, started, before):
    before(project)
    state = watch.fn(push=False, time_limit=60)
    assert (state.is_failed(), state.message) == (True, "no room")
    assert started == [
        {"workers": None, "fresh_seed": False, "promote": True, "push": False, "commit": False, "time_limit": 60,
         "return_state": True}
    ]  # fmt: skip


def test_and_nowhere_else(project, started, monkeypatch):
    state = watch.fn()
    assert (state.name, state.message) == ("Skipped", "data/incoming/ is empty")
    assert state.is_completed()
    monkeypatch.setattr(incoming, "SETTLING", 3600)
    drop("3/a.png", seconds_ago=60)
    assert watch.fn().message == "1 file in data/incoming/ may still be copied"
    assert started == []
