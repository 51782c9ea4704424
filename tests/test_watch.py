"""The deployment that looks into data/incoming/."""

import sys
import types

import pytest

from flows.watch import waiting, watch


def test_hidden_files_are_not_images(tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / ".partial").mkdir()
    for name in (".gitkeep", "3/a.png", "3/.a.png.part", ".partial/b.png"):
        (tmp_path / name).touch()
    assert list(waiting(tmp_path)) == [tmp_path / "3" / "a.png"]
    assert list(waiting(tmp_path / "nothing")) == []


@pytest.mark.parametrize("image", [None, "3/a.png"])
def test_retraining_starts_only_where_images_wait(project, monkeypatch, image):
    taken = []
    # The flow that it starts trains for minutes; here it is one that tells what it was given.
    stand_in = types.SimpleNamespace(retrain=lambda **given: taken.append(given))
    monkeypatch.setitem(sys.modules, "flows.retrain_flow", stand_in)
    if image:
        (project / "data" / "incoming" / "3").mkdir(parents=True)
        (project / "data" / "incoming" / image).touch()
    state = watch.fn(push=False, time_limit=60)
    if image:
        assert taken == [
            {"dataset": None, "workers": None, "fresh_seed": False, "promote": True, "push": False, "commit": False,
             "time_limit": 60, "return_state": True}
        ]  # fmt: skip
    else:
        assert taken == []
        assert (state.name, state.message) == ("Skipped", "data/incoming/ is empty")
        assert state.is_completed()
