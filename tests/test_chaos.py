"""The command that kills at random: what it draws, whom it finds, and that it sees what is not as it has to be."""

import subprocess
import sys
from copy import deepcopy

import psutil
import pytest
from click.testing import CliRunner
from conftest import ROOT, environment, soon

from tests import chaos

LIVED = {command: {"group": [0.0], "stage": [1.0], "worker": [2.0]} for command in chaos.COMMANDS}
LOOK = {
    "models and predictions": {"models/digits/small/weights.safetensors": "abc"},
    "metrics": {"metrics/digits/ensemble.json": {"test": {"nll": 0.1}}},
    "dvc.lock": "stages:",
    "dvc status": {},
    "files": {"dvc.lock": "there"},
    "finished runs in MLflow": {"replica small-0 abc": 1},
    "running in MLflow": [],
    "logged more than once": [],
    "aliases": {"champion": "2", "previous_champion": "1"},
    "tags of the model": {"trainyard.champion": "there"},
    "versions": {"1": [], "2": ["trainyard.gate.decision"]},
}


def test_a_seed_and_a_number_are_one_kill():
    drawn = [chaos.draw(7, number, LIVED) for number in range(1, 60)]
    assert drawn == [chaos.draw(7, number, LIVED) for number in range(1, 60)]
    assert drawn != [chaos.draw(8, number, LIVED) for number in range(1, 60)]
    assert {kill.command for kill in drawn} == set(chaos.COMMANDS)
    assert {kill.number_of_signal for kill in drawn} == set(chaos.SIGNALS)
    assert {kill.whom for kill in drawn} == {"group", "stage", "worker"}


BROKEN = {
    "models and predictions": ({}, "weights.safetensors is missing instead of abc"),
    "metrics": ({"metrics/digits/ensemble.json": {"test": {"nll": 0.2}}}, "metrics/digits/ensemble.json is"),
    "dvc.lock": ("another", "dvc.lock is another one"),
    "dvc status": ({"train@small": []}, "dvc status says {'train@small': []}"),
    "files": ({"dvc.lock": "there", "metrics/.x.json.17": "there"}, "files: metrics/.x.json.17 is there instead of"),
    "finished runs in MLflow": ({"replica small-0 abc": 2}, "replica small-0 abc is 2 instead of 1"),
    "running in MLflow": (["replica small-0"], "still running in MLflow: replica small-0"),
    "logged more than once": (["replica small-0 has"], "in MLflow replica small-0 has"),
    "aliases": ({"champion": "2", "previous_champion": "2"}, "previous_champion is 2 instead of 1"),
    "tags of the model": ({"trainyard.champion": "there", "trainyard.move": "there"}, "trainyard.move is there"),
    "versions": ({"1": [], "2": ["trainyard.gate.decision"], "3": []}, "versions: 3 is [] instead of missing"),
}


@pytest.mark.parametrize("what", LOOK)
def test_what_is_not_as_it_has_to_be_is_said(what):
    def problems(found):
        return chaos.differences(LOOK, found) + chaos.wrong_always(found)

    assert problems(deepcopy(LOOK)) == []
    found, said = BROKEN[what]
    [problem] = problems(LOOK | {what: found})
    assert said in problem


def test_all_that_a_command_starts_is_found_and_ended():
    code = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)"  # its parent ends
    marked = chaos.Marked("of this test")
    subprocess.run([sys.executable, "-c", code], env=environment(**{chaos.MARK: "of this test"}), check=True)
    [left] = marked.alive()
    marked.end()
    assert soon(lambda: not psutil.pid_exists(left.pid) or left.status() == psutil.STATUS_ZOMBIE)
    assert marked.alive() == []


def test_a_command_is_killed_at_its_moment_and_what_it_leaves_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(chaos, "LINGER", 1)
    folder = tmp_path / "project"
    folder.mkdir()
    code = "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); time.sleep(600)"
    kill = chaos.Kill(1, "dvc repro", chaos.GROUP, "TERM", 0.0, 0.0, 0.0)
    found = chaos.run(folder, ["-c", code], kill, moment=1.0)
    assert found.code == -15
    assert found.killed_at >= 1
    assert [left.split(" ", 1)[1] for left in found.left] == ["600"]


def test_help_says_what_is_killed_and_compared():
    said = CliRunner().invoke(chaos.command, ["--help"]).output
    for word in ("--kills", "--seed", "--only", "Exit code 0", "Prefect's"):
        assert word in said
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--help"], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: python -m tests.chaos")
