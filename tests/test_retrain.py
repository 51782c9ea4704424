"""A retrain from data/incoming/ to the champion, killed, blocked and run again, on a real small project.

One that trains takes a minute: a single one is killed between training and promotion, and the tests go on from there.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import ROOT, at_home, edit, environment, forget_stores, made_once, make_project, shrink
from PIL import Image
from prefect.states import Cancelled

from flows import check, download, ensemble, evaluate, retrain, settings, train
from flows.graph import planning
from flows.graph.planning import Plan
from flows.graph.repro import Outcome, Repro
from flows.machine.processes import Processes
from flows.params.params_file import read
from flows.promotion import promoting
from flows.retraining import incoming, steps
from flows.retraining.place import Place
from flows.retraining.steps import COMPLETED, FAILED, Options, work
from flows.servers import running_server
from flows.tracking import registration
from flows.tracking.registry import Registry
from flows.untrusted.escaping import in_markdown

# Of a test with the fixtures that it is the first to ask for: the stages of a real project, twice.

STAGES = ["check", "download", "settings", "train@small", "train@wide", "evaluate", "ensemble"]
GIT = {f"GIT_{who}_{what}": "tester" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

# The command, and the power fails when the gate is about to be asked.
KILLED = """
import os, signal
from flows import retrain
from flows.promotion import gate
gate.decide = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
retrain.command([], standalone_mode=False)
"""
MODULES = """
import sys
from flows.retrain import command
code = command(sys.argv[1:], standalone_mode=False)
print(sorted({"prefect", "torch", "mlflow"} & set(sys.modules)))
sys.exit(code)
"""


def call(folder: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=folder, env=environment(**GIT), capture_output=True, text=True)


def python(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess:
    return call(folder, sys.executable, "-c", code, *arguments)


def git(folder: Path, *arguments: str) -> str:
    done = call(folder, "git", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    done = call(folder, sys.executable, "-m", "dvc", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def poor(content: dict) -> None:
    """Params whose networks learn next to nothing, so that others are better for certain."""
    shrink(content)
    content["data"]["digits"]["epochs"] = 1
    for member in content["members"].values():
        member["replicas"] = 1
        member["optimizer"]["lr"] = 1e-5


def better(content: dict) -> None:
    for member in content["members"].values():
        member["optimizer"]["lr"] = 0.01
    content["data"]["digits"]["epochs"] = 4


def one_after_the_other(folder: Path, plan: Plan) -> Mapping[str, Outcome]:
    """Runs the stages without Prefect."""
    with Processes() as processes:
        repro = Repro(folder, processes, lambda stage, line: None)
        return {stage: repro(stage, lambda line: None) for stage in plan.stages}


def nothing_runs(folder: Path, plan: Plan):
    raise AssertionError(f"{plan.stages} should be up to date")


@pytest.fixture(scope="session")
def poor_once(tmp_path_factory, empty_store) -> Path:
    """A project in git whose champion is poor, and nothing stale."""

    def make(place: Path) -> None:
        folder = make_project(place / "a project")
        shutil.copy(empty_store, folder)
        shutil.copy(ROOT / ".gitignore", folder)
        shutil.copy(ROOT / ".dvcignore", folder)
        for name in ("flows", "lightning_modules"):
            (folder / name).symlink_to(ROOT / name)
        edit(folder, poor)
        git(folder, "init", "--quiet")
        dvc(folder, "init", "--quiet")
        os.chdir(folder)
        given = read()
        check.note()
        download.download(given)
        settings.settings(given)
        for member in given.members:
            train.train(given, member)
        evaluate.evaluate(given)
        ensemble.ensemble(given)
        dvc(
            folder, "commit", "--force", "--quiet"
        )  # as if DVC had run the stages, each of which takes seconds to start
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", "first")

    return at_home(made_once(tmp_path_factory, "poor", make) / "a project")


@pytest.fixture(scope="session")
def killed_once(poor_once, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """Better params, new images, and a retrain that was killed between training and promotion."""

    def make(place: Path) -> None:
        folder = copied(poor_once, place / "a project")
        edit(folder, better)
        git(folder, "commit", "--quiet", "--all", "--message", "better")
        for number in range(10):
            drop_image(folder / "data/incoming" / str(number) / "new.png", seed=number)
        drop_text(folder / "data/incoming/3/broken.png")
        done = python(folder, KILLED)
        (place / "ended").write_text(json.dumps([done.returncode, done.stdout, done.stderr]))

    folder = made_once(tmp_path_factory, "killed", make)
    ended = subprocess.CompletedProcess("retrain", *json.loads((folder / "ended").read_text()))
    return at_home(folder / "a project"), ended


def drop_image(file: Path, seed: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)).save(file)
    os.utime(file, (time.time() - 60,) * 2)  # else it might still be copied


def drop_text(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"no image")
    os.utime(file, (time.time() - 60,) * 2)


@pytest.fixture
def up_to_date(poor_once, tmp_path, monkeypatch) -> Path:
    return enter(copied(poor_once, tmp_path / "a project"), monkeypatch)


@pytest.fixture
def killed(killed_once, tmp_path, monkeypatch) -> Path:
    return enter(copied(killed_once[0], tmp_path / "a project"), monkeypatch)


def copied(source: Path, folder: Path) -> Path:
    return shutil.copytree(source, folder, symlinks=True)


def enter(folder: Path, monkeypatch) -> Path:
    monkeypatch.chdir(folder)
    forget_stores(monkeypatch)  # MLflow would go on with that of the folder before
    for name, value in GIT.items():
        monkeypatch.setenv(name, value)
    return folder


def aliases() -> dict[str, str]:
    return Registry("digits").aliases()


def card(folder: Path) -> dict:
    return yaml.safe_load((folder / "data/digits/dataset.json").read_text())


def test_all_that_is_stale_runs_and_a_kill_before_the_gate_promotes_nothing(killed_once, poor_once, monkeypatch):
    folder, done = killed_once
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    assert "10 images taken in, 1 refused (data/rejected/reasons.csv)" in done.stdout
    for stage in ("download", "train@small", "train@wide", "evaluate", "ensemble"):
        assert f"> python -m flows.{stage.partition('@')[0]}" in done.stdout
    before = card(poor_once)
    assert card(folder)["test_sha256"] == before["test_sha256"]
    assert card(folder)["counts"] == before["counts"] | {"train": before["counts"]["train"] + 10}
    # DVC versions the images, git will keep their version, and both are as they say.
    assert (folder / "sources/digits/added.dvc").is_file()
    assert dvc(folder, "status", "--json").strip() == "{}"
    enter(folder, monkeypatch)
    assert aliases() == {"champion": "1", "challenger": "2"}


def test_the_next_run_promotes_and_tells_all_of_it(killed):
    ended = work(Options(), lambda said: None, nothing_runs)
    assert ended.kind == COMPLETED, ended.message
    assert aliases() == {"champion": "2", "challenger": "2", "previous_champion": "1"}
    assert "version 2 is champion now: better by " in ended.message
    assert "dvc.lock, sources/digits/added.dvc, metrics/digits differ from the last commit" in ended.message
    text = ended.report.read_text()
    assert ended.report.parent == killed / "reports"
    for part in (
        *(f"| {number} | 1 |" for number in range(10)),  # images by class
        "3/broken.png | ",
        "| download | sources/digits: modified",
        "| train@small |",
        "| accuracy |",
        "| soft_vote",
    ):
        assert part in text, part
    done = python(killed, MODULES)
    assert done.returncode == 0, done.stderr
    said, modules = done.stdout.splitlines()
    assert said.startswith("skipped: nothing is stale for digits, and no image has come in; dvc.lock, ")
    assert modules == "[]"


def test_a_commit_holds_what_changed_and_nothing_else(killed):
    (killed / "mine.txt").write_text("half done")
    git(killed, "add", "mine.txt")
    ended = work(Options(commit=True), lambda said: None, nothing_runs)
    assert ended.kind == COMPLETED, ended.message
    changed = git(killed, "show", "--name-only", "--format=%B").split()
    assert {"dvc.lock", "sources/digits/added.dvc", "metrics/digits/ensemble.json"} <= set(changed)
    assert "mine.txt" not in changed
    assert git(killed, "status", "--short").split() == ["A", "mine.txt"]
    assert git(killed, "log", "-1", "--format=%s").strip() == "Retrain digits with 10 more images"
    git(killed, "clone", "--quiet", killed.as_posix(), (killed.parent / "clone").as_posix())
    assert (killed.parent / "clone" / "sources/digits/added.dvc").is_file()


def test_a_commit_that_git_refuses_is_told_and_tried_again(killed):
    hook = killed / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'no commits today' >&2\nexit 1\n")
    hook.chmod(0o755)
    ended = work(Options(commit=True), lambda said: None, nothing_runs)
    assert ended.kind == FAILED
    assert "not committed: no commits today; nothing is lost, and the next run goes on" in ended.message
    assert aliases()["champion"] == "2"
    hook.unlink()
    ended = work(Options(commit=True), lambda said: None, nothing_runs)
    assert ended.kind == COMPLETED
    assert "committed dvc.lock" in ended.message
    assert aliases() == {"champion": "2", "challenger": "2", "previous_champion": "1"}


def test_without_mlflow_nothing_is_promoted_and_the_next_run_is(killed, no_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ended = work(Options(), lambda said: None, nothing_runs)
    assert ended.kind == FAILED
    assert no_store in ended.message
    assert "nothing is lost, and the next run goes on from there" in ended.message
    forget_stores(monkeypatch)
    assert aliases() == {"champion": "1", "challenger": "2"}
    assert work(Options(), lambda said: None, nothing_runs).kind == COMPLETED
    assert aliases() == {"champion": "2", "challenger": "2", "previous_champion": "1"}


def other_votes(content: dict) -> None:
    """Another ensemble of the networks that are there."""
    content["ensemble"]["methods"] = ["soft_vote"]


def without_mlflow(folder: Path, plan: Plan) -> Mapping[str, Outcome]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        return one_after_the_other(folder, plan)


@pytest.mark.long
def test_an_ensemble_that_was_made_without_mlflow_is_registered_before_the_gate_is_asked(up_to_date, monkeypatch):
    edit(up_to_date, other_votes)
    with monkeypatch.context() as patch:
        patch.setattr(registration.Registrar, "log_model", lambda *given: 1 / 0)  # the store is full, for example
        ended = work(Options(), lambda said: None, without_mlflow)
    assert ended.kind == FAILED
    assert ended.message.startswith("the new ensemble of digits could not be registered in MLflow, so the gate was not")
    assert aliases() == {"champion": "1", "challenger": "1"}
    ended = work(Options(), lambda said: None, nothing_runs)
    assert ended.kind == COMPLETED, ended.message
    assert aliases()["challenger"] == "2"
    assert "there is nothing to decide" not in ended.message
    assert promoting.decision_on(Registry("digits"), "2")["verdict"] in ("refuse", "promote")
    assert "| [small](http://127.0.0.1:5000/#/experiments/" in ended.report.read_text()
    # What DVC brings back from its cache is no less judged, though no stage ran that would have registered it.
    git(up_to_date, "checkout", "--quiet", "--", "params.yaml", "dvc.lock", "metrics")
    dvc(up_to_date, "checkout", "--quiet")
    Registry("digits").set_alias("challenger", "1")
    edit(up_to_date, other_votes)
    ended = work(Options(), lambda said: None, without_mlflow)
    assert ended.kind == COMPLETED, ended.message
    assert aliases()["challenger"] == "2"


def test_a_full_disk_is_told_and_the_next_run_goes_on(up_to_date):
    drop_image(up_to_date / "data/incoming/3/new.png")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # no file may grow: Python gets an error of the system's
    try:
        ended = work(Options(), lambda said: None, nothing_runs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ended.kind == FAILED
    assert ended.message.endswith("File too large; nothing is lost, and the next run goes on from there")
    assert (up_to_date / "data/incoming/3/new.png").is_file()
    # What cannot be written is told in a report where that can be.
    (up_to_date / "data/rejected").write_text("a file where a folder should be")
    drop_text(up_to_date / "data/incoming/3/broken.png")
    ended = work(Options(), lambda said: None, nothing_runs)
    assert ended.kind == FAILED
    assert "data/rejected" in ended.message
    assert in_markdown(ended.message) in ended.report.read_text()
    (up_to_date / "data/rejected").unlink()
    drop_text(up_to_date / "data/incoming/3/young.png")
    (up_to_date / "data/incoming/3/young.png").touch()
    ended = work(Options(), lambda said: None, lambda folder, plan: {})
    assert ended.message.startswith("check did not run" if "check" in ended.message else "download did not run")
    assert "left in data/incoming/ for the next run: 1 file that came" in ended.message
    assert not (up_to_date / "data/incoming/3/broken.png").exists()


# The flows themselves, with one server: the stages of the project are but the first two.
FLOWS = """
import json, sys
from pathlib import Path
from flows.orchestration import notifications
from flows.servers import running_server
server = running_server.server_if_none()
server.start()
server.wait()
from prefect.client.orchestration import get_client
from flows.retrain_flow import retrain
from flows.watch import watch

sent = []
notifications.notify = lambda subject, body, log: sent.append([subject, body])
states = [retrain(return_state=True)]
Path("new.png").rename("data/incoming/7/new.png")  # whose folder that run has made
states += [watch(return_state=True), watch(return_state=True), retrain(dataset="minst", return_state=True)]
with get_client(sync_client=True) as client:
    runs = [[run.name, run.state.name] for run in client.read_flow_runs()]
    tasks = [run.name for run in client.read_task_runs()]
    shown = {artifact.key: artifact.data for artifact in client.read_artifacts()}
told = [[state.name, state.message] for state in states]
print(json.dumps({"states": told, "runs": runs, "tasks": tasks, "artifacts": shown, "sent": sent}))
"""


@pytest.mark.long
def test_the_flows_say_what_they_did(up_to_date):
    described = yaml.safe_load((up_to_date / "dvc.yaml").read_text())
    described = {"stages": {name: described["stages"][name] for name in ("check", "download")}}
    (up_to_date / "dvc.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    drop_image(up_to_date / "new.png")
    done = python(up_to_date, FLOWS)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    skipped, completed, empty, failed = said["states"]
    assert skipped[0] == "Skipped"
    assert skipped[1].startswith("skipped: nothing is stale for digits, and no image has come in")
    assert completed[0] == "Completed"
    assert completed[1].startswith(
        "digits: 1 stage ran; 1 image taken in, 0 refused; version 1 is the champion already"
    )
    assert empty == ["Skipped", "data/incoming/ is empty"]
    assert failed[0] == "Failed"
    name = f"digits {git(up_to_date, 'rev-parse', '--short', 'HEAD').strip()}"
    names = sorted(run for run, _ in said["runs"])
    assert names == [*[name] * 2, *[f"incoming {name}"] * 2, name.replace("digits", "minst")]
    assert sorted(said["tasks"]) == ["download", "retrain-0"]  # the latter is the flow that `watch` called
    report = said["artifacts"]["digits-retrain"]
    assert report.startswith("# Retrain of digits, ")
    assert "| 7 | 1 |" in report
    assert "| [small](http://127.0.0.1:5000/#/experiments/" in report
    subjects = [f"Trainyard: retrain of {name}: completed", f"Trainyard: retrain of {names[-1]}: failed"]
    assert [subject for subject, _ in said["sent"]] == subjects
    assert "params.yaml has no block data.minst" in said["sent"][1][1]


def test_a_move_that_is_cut_off_is_finished_by_the_next_run(killed):
    cut = (
        "import os, signal\nfrom flows.retraining import steps\nfrom flows.tracking.registry import Registry\n"
        "point = Registry.set_alias\n"
        "def once(self, alias, version):\n"
        "    point(self, alias, version)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Registry.set_alias = once\n"
        "steps.work(steps.Options(), print, None)"
    )
    assert python(killed, cut).returncode == -signal.SIGKILL
    assert aliases()["champion"] == "1"
    assert promoting.standing("digits")["interrupted"]
    assert work(Options(), lambda said: None, nothing_runs).kind == COMPLETED
    assert aliases() == {"champion": "2", "challenger": "2", "previous_champion": "1"}
    assert promoting.standing("digits")["interrupted"] is None


def test_without_promotion_it_says_what_would_be(killed):
    ended = work(Options(promote=False), lambda said: None, nothing_runs)
    assert ended.kind == COMPLETED
    assert "version 2 would be promoted (--no-promote): better by " in ended.message
    assert aliases() == {"champion": "1", "challenger": "2"}


def test_a_refusal_is_recorded_with_the_challenger(killed):
    edit(killed, lambda content: content.update(gate={"latency_ms": 1e-9}))
    ended = work(Options(), lambda said: None, one_after_the_other)  # `check` looks at all of params.yaml
    assert ended.kind == COMPLETED, ended.message
    assert "the champion stays: it takes " in ended.message
    assert aliases() == {"champion": "1", "challenger": "2"}
    assert promoting.decision_on(Registry("digits"), "2")["verdict"] == "refuse"


def test_an_unreachable_remote_is_told_and_the_next_run_pushes(killed, tmp_path):
    (tmp_path / "remote").write_text("a file where a folder should be")
    dvc(killed, "remote", "add", "--default", "near", "../remote")
    ended = work(Options(), lambda said: None, nothing_runs)
    assert ended.kind == FAILED
    assert re.search(r"not pushed to the DVC remote near: dvc push failed: \w", ended.message)  # with the reason
    assert "version 2 is champion now" in ended.message  # here all is well
    (tmp_path / "remote").unlink()
    ended = work(Options(), lambda said: None, nothing_runs)
    assert ended.kind == COMPLETED, ended.message
    assert "pushed to the DVC remote near" in ended.message
    assert dvc(killed, "status", "--cloud", "--json").strip() == "{}"


def test_a_stage_that_fails_promotes_nothing_and_is_run_again(killed):
    (killed / "models/digits/small/weights.safetensors").unlink()
    shutil.rmtree(killed / ".dvc/cache/runs")

    def fails(folder: Path, plan: Plan) -> dict[str, Outcome]:
        return {plan.stages[0]: Outcome(plan.stages[0], 1.0, "its command exited with 1")}

    ended = work(Options(), lambda said: None, fails)
    assert ended.kind == FAILED
    assert ended.message.startswith("train@small failed: its command exited with 1; evaluate did not run; ensemble did")
    assert aliases()["champion"] == "1"
    assert [entry["file"] for batch in incoming.noted() for entry in batch["refused"]] == ["3/broken.png"]


def test_nothing_stale_is_skipped_but_what_came_in_is_looked_at(up_to_date):
    assert work(Options(), lambda said: None, nothing_runs).message.startswith("skipped: nothing is stale for digits")
    drop_text(up_to_date / "data/incoming/3/broken.png")
    dry = CliRunner().invoke(retrain.command, ["--dry"], standalone_mode=False)
    assert "would look at 1 file in data/incoming/" in dry.output
    ended = work(Options(), lambda said: None, nothing_runs)
    assert ended.message == "skipped: nothing is stale for digits; 1 image refused of what came in"
    assert "3/broken.png" in ended.report.read_text()
    assert not incoming.noted()


def test_an_end_without_a_message_is_told_by_its_name(monkeypatch):
    """Such as that of a run that somebody cancels on Prefect's pages."""
    monkeypatch.setattr(steps, "ahead", lambda options: None)
    monkeypatch.setattr(running_server, "server_if_none", lambda: None)
    monkeypatch.setattr(running_server, "watched_server", contextlib.nullcontext)
    monkeypatch.setattr("flows.retrain_flow.retrain", lambda **given: Cancelled())
    done = CliRunner().invoke(retrain.command, [], standalone_mode=False)
    assert (done.output, done.return_value) == ("Cancelled\n", 1)


def test_of_two_at_once_the_second_says_so_and_ends(up_to_date):
    code = (
        "import sys\nfrom pathlib import Path\nfrom flows.retraining.place import Place\n"
        "with Place(Path.cwd(), None, False).alone() as alone:\n    print(alone, flush=True)\n    sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code], cwd=up_to_date, env=environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert first.stdout.readline() == "True\n"
        second = python(up_to_date, MODULES)
        assert second.stderr == "another retrain of digits is at work in this project: this one ends\n"
        assert (second.returncode, second.stdout) == (1, "[]\n")
        first.kill()
        first.wait()
        with Place(up_to_date, None, False).alone() as alone:
            assert alone
    finally:
        first.kill()
        first.communicate()


@pytest.mark.long
def test_a_fresh_seed_trains_anew_and_leaves_the_project_as_it_is(up_to_date):
    before = {name: (up_to_date / name).read_bytes() for name in ("params.yaml", "dvc.lock")}
    planned = []

    def remembered(folder: Path, plan: Plan) -> Mapping[str, Outcome]:
        planned.append((folder, plan.stages))
        return one_after_the_other(folder, plan)

    ended = work(Options(fresh_seed=True, promote=False), lambda said: None, remembered)
    assert ended.kind == COMPLETED, ended.message
    [(folder, stages)] = planned
    assert sorted(stages) == sorted(STAGES)
    seed = yaml.safe_load((folder / "params.yaml").read_text())["seed"]
    assert f"trained with seed {seed} in a working copy" in ended.message
    assert aliases() == {"champion": "1", "challenger": "2"}
    assert {name: (up_to_date / name).read_bytes() for name in before} == before
    assert planning.plan(up_to_date).stages == []
    assert ended.report.parent == up_to_date / "reports"
    # The next one has another seed.
    place = Options(fresh_seed=True).place()
    assert place.left is None
    assert place.seed != seed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(dataset="minst"), "params.yaml has no block data.minst: datasets to retrain are digits"),
        (Options(fresh_seed=True, commit=True), "--commit is for the dataset and seed that params.yaml names"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(up_to_date, options, said):
    ended = work(options, lambda said: None, nothing_runs)
    assert (ended.kind, ended.message[: len(said)]) == (FAILED, said)
