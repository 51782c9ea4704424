"""The whole pipeline in a clone, as a user runs it: through DVC, killed half-way, and in parallel with Prefect."""

import hashlib
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from click.testing import CliRunner
from conftest import LIMIT, ROOT, at_home, edit, environment, made_once, refused, shrink, soon
from PIL import Image

from flows import ensemble, evaluate, train
from flows.commands import track
from flows.graph import dvc_graph
from flows.project.errors import InputError
from flows.tracking import experiments, loading, mlflow_store

SOURCES = (".dvc", ".dvcignore", ".gitignore", "dvc.yaml", "flows", "lightning_modules")
STAGES = ["check", "download", "settings", "train@small", "train@wide", "evaluate", "ensemble"]


def command(folder: Path, *arguments: str, code: int | None = 0, **env: str) -> str:
    """What `python -m ARGUMENTS` says, in the folder."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment(PYTHONPATH="", **env), text=True, timeout=LIMIT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert code is None or done.returncode == code, done.stdout
    return done.stdout


def dvc(folder: Path, *arguments: str, code: int | None = 0) -> str:
    return command(folder, "dvc", *arguments, code=code)


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True, text=True).stdout


def copy_of_sources(folder: Path) -> Path:
    """What a clone has, and no more, with small params; its sizes are those of a training that can be killed."""
    not_tracked = shutil.ignore_patterns("__pycache__", "tmp", "cache", "site-cache", "config.local")
    for name in SOURCES:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=not_tracked)
        else:
            shutil.copy(ROOT / name, target)
    for description in (ROOT / "sources").glob("*/source.yaml"):
        target = folder / "sources" / description.parent.name
        target.mkdir(parents=True)
        shutil.copy(description, target)

    shutil.copy(ROOT / "tests" / "params.yaml", folder)

    def change(content: dict) -> None:
        shrink(content)
        content["data"]["digits"]["epochs"] = 80

    edit(folder, change)
    return folder


def clone(folder: Path) -> Path:
    copy_of_sources(folder)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "a clone")
    return folder


@pytest.fixture(scope="module")
def done_once(tmp_path_factory) -> tuple[Path, str]:
    """A clone, in a path with a space, after `dvc repro` from nothing; and what that said."""

    def make(place: Path) -> None:
        (place / "said").write_text(dvc(clone(place / "a clone"), "repro"))

    folder = made_once(tmp_path_factory, "repro", make)
    return at_home(folder / "a clone"), (folder / "said").read_text()


@pytest.fixture
def done(done_once) -> Path:
    """To look at, not to change."""
    return done_once[0]


@pytest.fixture
def changeable(done, empty_store, tmp_path) -> Path:
    """A copy of it whose MLflow store is empty."""
    folder = tmp_path / "a copy"
    shutil.copytree(done, folder, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts"))
    shutil.copy(empty_store, folder)
    return folder


@pytest.fixture
def untrained(changeable) -> Path:
    """A copy with its dataset and nothing that was made of it, also not in DVC's cache."""
    shutil.rmtree(changeable / "models")
    shutil.rmtree(changeable / ".dvc" / "cache")
    return changeable


def ran(said: str) -> list[str]:
    return [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage '")]


def lock(folder: Path) -> dict:
    return yaml.safe_load((folder / "dvc.lock").read_text())


def weights(folder: Path, member: str) -> bytes:
    return (folder / "models" / "digits" / member / "weights.safetensors").read_bytes()


def test_from_nothing_every_stage_runs_once_and_then_none(done_once):
    done, said = done_once
    assert sorted(ran(said)) == sorted(STAGES)
    assert "cannot be used" not in said
    assert "registered: digits version 1, challenger and champion" in said
    again = dvc(done, "repro")
    assert ran(again) == []
    assert "Data and pipelines are up to date." in again
    assert "up to date" in dvc(done, "status")
    assert git(done, "status", "--porcelain").split() in (["??", "dvc.lock", "??", "metrics/"], ["??", "dvc.lock"])


def test_what_turns_no_stage_stale_runs_the_check_alone(changeable):
    content = yaml.safe_load((changeable / "params.yaml").read_text())
    content["gate"] = {"alpha": 0.01}
    (changeable / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert ran(dvc(changeable, "repro")) == ["check"]
    assert dvc_graph.must_run(dvc_graph.stages(changeable), list(STAGES), dvc_graph.stale(changeable)) == []


def test_no_text_of_params_yaml_reaches_a_shell_or_names_what_is_deleted(untrained):
    victim = untrained.parent / "not of this project"
    victim.mkdir()
    (victim / "kept").touch()
    good = (untrained / "params.yaml").read_text()
    shell = "x\ntouch ran\n#"  # behind a # in a command it is a line of its own

    def member(content: dict) -> dict:
        return content["members"]["small"]

    attacks: dict[str, Callable[[dict], object]] = {
        "a member's name": lambda content: content["members"].update({"a; touch ran #": member(content)}),
        "a key of a recipe": lambda content: member(content).update({shell: 1}),
        "a value of a recipe": lambda content: member(content).update(activation=shell),
        "a name of a network": lambda content: member(content)["network"].update(name=shell),
        "the dataset": lambda content: content.update(dataset=f"../../{victim.name}"),
        "a dataset inside of the project": lambda content: content.update(dataset="../flows"),
    }
    for name, attack in attacks.items():
        content = yaml.safe_load(good)
        attack(content)
        (untrained / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        # Some of it DVC refuses by itself; what does not need the stage that failed, runs.
        said = dvc(untrained, "repro", "--keep-going", code=None)
        assert re.search("ERROR|trainyard: params.yaml: ", said), name
        assert not (untrained / "ran").exists(), name
        assert (victim / "kept").exists(), name
        assert (untrained / "flows").is_dir(), name


def test_metrics_are_shown_by_dvc(done):
    shown = dvc(done, "metrics", "show", "--md")
    for name in ("small", "wide", "ensemble"):
        assert name in shown
    assert "test.accuracy" in shown


def test_runs_name_the_commit_the_stage_and_the_data(done, monkeypatch):
    monkeypatch.chdir(done)
    client = mlflow_store.connect()
    commit = git(done, "rev-parse", "HEAD").strip()
    data = next(out["md5"] for out in lock(done)["stages"]["download"]["outs"])
    found = client.search_runs([experiments.experiment(client, "digits")])
    assert len(found) == 6
    for run in found:
        name = run.info.run_name
        assert run.data.tags["mlflow.source.git.commit"] == commit
        assert run.data.tags["trainyard.git_dirty"] == "false"
        assert run.data.tags["trainyard.data_hash"] == data
        stage = "ensemble" if name == "ensemble" else f"train@{name.partition('-')[0]}"
        assert run.data.tags["trainyard.dvc_stage"].endswith(stage)


@pytest.mark.long
def test_a_changed_member_and_a_new_one_are_trained_alone(changeable):
    before = weights(changeable, "small")

    def change(content: dict) -> None:
        content["members"]["wide"]["dropout"] = 0.1
        content["members"]["new"] = content["members"]["wide"] | {"dropout": 0.2}
        content["data"]["mnist"] = content["data"]["digits"] | {"test": "official"}

    edit(changeable, change)
    said = dvc(changeable, "repro", "train")
    assert ran(said) == ["check", "train@wide", "train@new"]
    assert weights(changeable, "small") == before
    assert (changeable / "models" / "digits" / "new" / "member.json").exists()


def test_data_that_was_changed_behind_dvcs_back_is_refused_by_a_stage_and_restored_by_repro(
    changeable, no_store, monkeypatch, capfd
):
    file = changeable / "data" / "digits" / "train_images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.chmod(0o644)
    file.write_bytes(content)
    monkeypatch.chdir(changeable)
    said = refused(capfd, train.command, "small")
    assert "data/digits/train_images.npy is not what dataset.json says (changed or damaged)" in said
    dvc(changeable, "repro", "download")
    content[-1] ^= 255
    assert file.read_bytes() == content
    assert "up to date" in dvc(changeable, "status")


@pytest.mark.parametrize(
    ("name", "reader", "stage"),
    [
        ("data/digits/train_images.npy", [train, "small"], "download"),
        ("models/digits/wide/weights.safetensors", [evaluate], "train@wide"),
        ("predictions/digits/wide.validation.npy", [ensemble], "evaluate"),
    ],
)
def test_a_byte_flipped_in_dvcs_cache_is_found_and_what_the_message_says_heals_it(
    changeable, no_store, monkeypatch, name, reader, stage
):
    file = changeable / name
    before = file.read_bytes()
    digest = hashlib.md5(before, usedforsecurity=False).hexdigest()
    kept = changeable / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    damaged = bytearray(before)
    damaged[-1] ^= 1
    kept.chmod(0o644)
    kept.write_bytes(damaged)
    kept.chmod(0o444)  # as DVC leaves it: of what could be written to it makes sure
    file.unlink()
    dvc(changeable, "checkout", "--force")
    assert file.read_bytes() == damaged
    assert "up to date" in dvc(changeable, "status")  # DVC does not look into its cache
    monkeypatch.chdir(changeable)
    module, *arguments = reader
    with pytest.raises(InputError) as error:
        CliRunner().invoke(module.command, arguments, catch_exceptions=False, standalone_mode=False)
    said = str(error.value)
    assert name in said
    assert kept.relative_to(changeable).as_posix() in said
    remove, again = re.findall("`(.*?)`", said)[:2]
    assert remove.startswith("rm -rf ")
    assert again == f"dvc repro {stage}"
    subprocess.run(remove, shell=True, check=True, cwd=changeable)
    dvc(changeable, "repro", stage)
    assert file.read_bytes() == before  # which the reader takes
    assert "up to date" in dvc(changeable, "status")


def test_track_logs_what_an_outage_kept_back(changeable, monkeypatch):
    monkeypatch.chdir(changeable)
    said = CliRunner().invoke(track.command, catch_exceptions=False).stdout
    assert "wide: in sqlite:///" in said
    assert loading.champion("digits")["version"] == "1"
    client = mlflow_store.connect()
    assert len(client.search_runs([experiments.experiment(client, "digits")])) == 6
    edit(changeable, lambda content: content.update(seed=1))
    assert "stale: " in CliRunner().invoke(track.command, catch_exceptions=False).stdout


def processes_in(folder: Path) -> list[psutil.Process]:
    """Of stages: DVC leaves a daemon for its own housekeeping."""
    found = []
    for process in psutil.process_iter():
        try:
            inside = Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE
            if inside and any(word.startswith("flows.") for word in process.cmdline()):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_repro_leaves_no_result_and_goes_on_to_the_same_weights(done, untrained, number):
    repro = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "train@small"], cwd=untrained, env=environment(PYTHONPATH=""),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    unfinished = untrained / ".trainyard" / "unfinished" / "digits" / "small"
    assert soon(lambda: any(unfinished.glob("*/replica-0.ckpt")))
    repro.send_signal(number)
    repro.wait(LIMIT)
    assert soon(lambda: not processes_in(untrained))
    assert not [file for file in (untrained / "models").rglob("*") if file.is_file() and file.name != ".gitignore"]
    assert any(unfinished.glob("*/replica-*")), "it was finished before it was killed: more epochs are needed"
    said = dvc(untrained, "repro", "train@small")
    assert ran(said) == ["train@small"]
    assert weights(untrained, "small") == weights(done, "small")
    assert not unfinished.exists()
    assert lock(untrained)["stages"]["train@small"] == lock(done)["stages"]["train@small"]


@pytest.mark.long
def test_the_pipeline_in_parallel_leaves_the_same_lock(done, tmp_path):
    folder = clone(tmp_path / "a clone")
    said = command(folder, "flows.pipeline", "--workers", "2")
    assert "soft_vote" in said
    assert lock(folder) == lock(done)
    assert "up to date" in dvc(folder, "status")
    assert ran(dvc(folder, "repro")) == []


def test_a_copy_that_is_no_repository_works(empty_store, tmp_path):
    folder = copy_of_sources(tmp_path / "a copy")
    shutil.copy(empty_store, folder)
    dvc(folder, "config", "--local", "core.no_scm", "true")
    said = dvc(folder, "repro", "train@wide")
    assert ran(said) == ["check", "download", "settings", "train@wide"]
    assert weights(folder, "wide")
    assert not os.path.lexists(folder / ".git")


@pytest.mark.long
@pytest.mark.parametrize("home", [None, "/sys"])
def test_hardly_any_surroundings(tmp_path, home):
    """No terminal, no input, no place for a user's own settings, ASCII alone, 40 columns, files for the owner's eyes,
    and a path of spaces and letters of many scripts."""
    folder = clone(tmp_path / "ein Proj\u00e9kt \u6570 \u0434\u0430")
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "COLUMNS": "40", "TMPDIR": str(tmp_path), "PYTHONPATH": ""}
    env |= {} if home is None else {"HOME": home}
    image = tmp_path / "\u00e4.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(image)
    for arguments in (["pipeline"], ["results"], ["status"], ["champion"], ["predict", str(image)], ["pipeline"]):
        done = subprocess.run(
            ["sh", "-c", 'umask 077; exec "$@" <&-', "sh", sys.executable, "-m", "flows.cli", *arguments],
            cwd=folder, env=env, capture_output=True, timeout=LIMIT, start_new_session=True,
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        assert b"Traceback" not in done.stdout + done.stderr
    assert lock(folder)["stages"].keys() == set(STAGES)
    assert stat.S_IMODE((folder / "models/digits/wide/weights.safetensors").stat().st_mode) & 0o77 == 0


def test_readmes_table_of_experiments_has_their_names(tmp_path):
    [line] = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("dvc exp show")]
    # DVC names a number's file where another file has one of that name.
    metric, other = "metrics/digits/ensemble.json", "metrics/digits/members/mlp.json"
    stage = {
        "cmd": f"mkdir -p metrics/digits/members && cp score.json {metric} && cp score.json {other}",
        "params": ["members"],
        "metrics": [{file: {"cache": False}} for file in (metric, other)],
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"ensemble": stage}}))
    (tmp_path / "score.json").write_text('{"test": {"accuracy": 0.95}}')
    (tmp_path / "params.yaml").write_text("dataset: digits\nmembers: {mlp: {dropout: 0.3}}\n")
    (tmp_path / "dropout.py").write_text("# no param\n")
    git(tmp_path, "init", "--quiet")
    dvc(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    me = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org"}
    me |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in me.items()}
    command(tmp_path, "dvc", "exp", "run", "--name", "by-its-name", "-S", "members.mlp.dropout=0.25", **me)
    said = command(tmp_path, *shlex.split(line.partition("#")[0]), "--md")
    [row] = [row.split("|")[1:-1] for row in said.splitlines() if "by-its-name" in row]
    assert {cell.strip() for cell in row[1:]} == {"digits", "0.25", "0.95"}
