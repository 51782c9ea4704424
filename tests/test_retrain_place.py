"""Where a retrain runs, and what it finds there."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows import retrain
from flows.graph import planning, working_copy
from flows.graph.planning import Plan
from flows.retraining.place import Place, Round


def files(root: Path) -> dict[str, float]:
    return {os.fspath(path): path.lstat().st_mtime_ns for path in root.rglob("*")}


def dry(*arguments: str) -> str:
    return (
        CliRunner().invoke(retrain.command, ["--dry", *arguments], standalone_mode=False, catch_exceptions=False).output
    )


@pytest.mark.parametrize("fresh_seed", [False, True])
def test_what_was_left_is_read_when_no_other_run_can_change_it(project, fresh_seed):
    place, other = (Place(project, None, fresh_seed) for _ in range(2))
    with other.alone():
        other.keep(Round(77))
    with place.alone() as alone:
        assert alone
        assert place.left == Round(77, place.left.since)
        assert place.seed == (77 if fresh_seed else place.settings.seed)
        other.forget()
    with place.alone():
        assert place.left is None


def test_dry_writes_nothing(project, monkeypatch):
    before = files(project)
    assert "would run all stages of digits with another seed, in a working copy" in dry("--fresh-seed")
    assert "would bring the working copy for mnist up to date, and run what is stale there" in dry("--dataset", "mnist")
    assert files(project) == before
    copy = Place(project, "mnist", fresh_seed=False).folder()
    planned = []
    monkeypatch.setattr(planning, "plan", lambda folder: planned.append(folder) or Plan())
    before = files(project)
    assert "would skip: nothing is stale for mnist" in dry("--dataset", "mnist")
    assert planned == [copy] == [working_copy.folder(project, "mnist")]
    assert files(project) == before
