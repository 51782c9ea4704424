"""Which stages run at the same time: cores and GPUs are divided, and never given out twice."""

import pytest
import yaml
from conftest import ROOT

from flows.machine import hardware
from flows.orchestration.capacity import Room, Share, shares
from flows.params.params_file import parse

WIDTHS = {"check": 1, "train@mlp": 2, "train@cnn": 2, "evaluate": 1, "ensemble": 1}


@pytest.fixture
def machine(monkeypatch):
    """Sets the number of cores."""
    return lambda cores: monkeypatch.setattr(hardware, "cores", lambda: cores)


def params(**training):
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content["training"] |= training
    return parse(content)


def test_stages_side_by_side_divide_the_cores_and_one_alone_has_them_all(machine):
    machine(8)
    found = shares(WIDTHS, 8, params(), gpus=0)
    assert found["train@mlp"] == found["train@cnn"] == Share(cores=4)
    assert found["evaluate"] == Share(cores=8)
    # One at a time by the user's wish: each may have all.
    assert shares(WIDTHS, 1, params(), gpus=0)["train@mlp"] == Share(cores=8)


@pytest.mark.parametrize(
    ("training", "cores", "together"),
    [({"threads": 1}, 1, 2), ({"threads": 2}, 2, 1), ({"threads": 5}, 5, 1), ({"devices": 2, "strategy": "ddp"}, 2, 1)],
)
def test_two_trainings_on_two_cores_never_run_four_threads(machine, training, cores, together):
    machine(2)
    found = shares(WIDTHS, 2, params(**training), gpus=0)
    assert found["train@mlp"].cores == cores
    room = Room(found, 2, gpus=0)
    assert len(room.choose(["train@mlp", "train@cnn"])) == together
    if together == 1:
        assert room.choose(["train@cnn"]) == []
        room.leave("train@mlp")
        assert room.choose(["train@cnn"]) == ["train@cnn"]


def test_a_members_own_threads_count(machine):
    machine(4)
    content = params().model_dump()
    content["members"]["cnn"]["threads"] = 3
    found = shares(WIDTHS, 4, parse(content), gpus=0)
    assert (found["train@mlp"].cores, found["train@cnn"].cores) == (2, 3)


def test_no_more_stages_than_workers(machine):
    machine(8)
    room = Room({name: Share() for name in "abc"}, 2, gpus=0)
    assert room.choose("abc") == ["a", "b"]
    room.leave("a")
    assert room.choose("c") == ["c"]


@pytest.mark.parametrize(("gpus", "together"), [(1, 1), (2, 2)])
def test_one_training_at_a_time_on_each_gpu_and_others_beside_it(machine, gpus, together):
    machine(8)
    widths = WIDTHS | {"report": 3, "train@mlp": 3, "train@cnn": 3}
    found = shares(widths, 8, params(), gpus=gpus)
    assert [found[name].gpus for name in ("train@mlp", "evaluate", "ensemble", "report")] == [1, 1, 0, 0]
    chosen = Room(found, 8, gpus).choose(["train@mlp", "train@cnn", "report"])
    assert len([name for name in chosen if name.startswith("train")]) == together
    assert "report" in chosen


def test_a_training_on_several_gpus_takes_them_all_and_one_on_the_cpu_none(machine):
    machine(2)
    assert shares(WIDTHS, 2, params(devices=2), gpus=2)["train@mlp"].gpus == 2
    assert shares(WIDTHS, 2, params(accelerator="cpu"), gpus=2)["train@mlp"].gpus == 0
