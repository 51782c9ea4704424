"""What all trainings depend on alike is in one file, and what a member says is in its stage's command."""

import configparser
import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, edit, environment

from flows import settings
from flows.graph import dvc_graph
from flows.params.params_file import read
from flows.project import file_io, paths
from lightning_modules import names
from lightning_modules.errors import InputError


@pytest.fixture
def noted(tiny) -> Path:
    """The project with all that the stage notes."""
    for package in ("flows", "lightning_modules"):
        shutil.copytree(ROOT / package, tiny / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tiny


def content() -> bytes:
    settings.settings(read())
    return paths.settings_file("digits").read_bytes()


def test_the_same_is_noted_again(noted):
    assert content() == content()
    found = file_io.read_json(paths.settings_file("digits"))
    assert found["params"]["data.digits.batch_size"] == 64
    assert "lightning_modules/fit.py" in found["files"]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(seed=1),
        lambda content: content["data"]["digits"].update(epochs=5),
        lambda content: content["training"].update(monitor="accuracy"),
        lambda content: content["training"].update(strategy="ddp", devices=2),
    ],
)
def test_what_changes_every_training_is_noted(noted, change):
    before = content()
    edit(noted, change)
    assert content() != before


@pytest.mark.parametrize("file", ["data/digits/dataset.json", "flows/train.py", "lightning_modules/networks.py"])
def test_changed_data_and_code_are_noted(noted, file):
    before = content()
    with (noted / file).open("a") as stream:
        stream.write(" ")
    assert content() != before


def test_what_changes_one_member_or_no_training_is_not_noted(noted):
    before = content()
    edit(noted, lambda content: content["members"]["small"].update(dropout=0.5))
    edit(noted, lambda content: content["members"].pop("wide"))
    edit(noted, lambda content: content["ensemble"].update(select_by="accuracy"))
    edit(noted, lambda content: content["training"].update(devices=2))
    edit(noted, lambda content: content["training"].update(strategy="ddp", devices=1))
    assert content() == before


def test_a_file_that_is_missing_is_bad_input(noted):
    (noted / "flows" / "train.py").unlink()
    with pytest.raises(InputError, match=r"flows/train\.py does not exist"):
        content()


def test_a_stage_of_a_member_makes_dvc_read_params_only_once():
    """DVC reads all of params.yaml, which grows with the members, for each stage that names keys of it."""
    described = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert [name for name, stage in described.items() if "foreach" in stage] == ["train"]
    assert "params" not in described["train"]["do"]
    assert described["train"]["do"]["deps"] == described["settings"]["outs"]


def variants() -> dict[str, dict]:
    """Members that differ from "plain" in one thing each."""
    plain = {"network": {"name": "mlp"}, "optimizer": {"name": "adam", "lr": 0.1}}
    found = {"plain": plain}

    def vary(name: str, *path: str, value: object) -> None:
        member = copy.deepcopy(plain)
        section = member
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = value
        found[name] = member

    for network, own in names.NETWORKS.items():
        for key, value in own.items():
            other = [size + 1 for size in value] if isinstance(value, list) else value + 1
            vary(f"{network}-{key}", "network", value={"name": network, key: other})
    vary("none", "network", "hidden", value=None)
    for optimizer, own in names.OPTIMIZERS.items():
        for key, value in own.items():
            other = not value if isinstance(value, bool) else [0.5] * len(value) if isinstance(value, list) else 0.5
            vary(f"{optimizer}-{key}", "optimizer", value={"name": optimizer, "lr": 0.1, key: other})
    for key in ("dropout", "label_smoothing"):
        vary(key, key, value=0.25)
    for key in ("epochs", "batch_size", "threads"):
        vary(key, key, value=3)
    vary("augment", "augment", value="flip")
    vary("test_time_views", "test_time_views", value="mirror")
    for key, names in (("activation", names.ACTIVATIONS), ("schedule", names.SCHEDULES)):
        vary(key, key, value=names[1])
    vary("initializer", "initializer", value="zeros")
    vary("replicas", "replicas", value=2)
    return found


def test_members_that_differ_have_commands_that_differ(project):
    """With DVC's own way to write a recipe, and this project's settings of it."""
    from dvc.parsing.interpolate import to_str

    config = configparser.ConfigParser()
    config.read_string((ROOT / ".dvc" / "config").read_text().replace("    ", ""))
    members = variants()
    edit(project, lambda content: content.update(members=members))  # all are accepted
    written = {name: to_str(member, dict(config["parsing"])) for name, member in members.items()}
    assert len(set(written.values())) == len(written)
    false = {"optimizer": {"name": "sgd", "lr": 0.1, "nesterov": False}}
    assert to_str(false, dict(config["parsing"])) != to_str({"optimizer": {"name": "sgd", "lr": 0.1}})


def test_an_edited_member_alone_is_stale_and_says_where(noted):
    """By DVC, which has no run of these stages but is told that their outputs are theirs."""
    shutil.copytree(
        ROOT / ".dvc", noted / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "site-cache", "config.local")
    )
    for name in read().members:
        (paths.model_folder("digits", name)).mkdir(parents=True)
        (paths.model_folder("digits", name) / "member.json").write_text("{}")
    settings.settings(read())

    def dvc(*arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        subprocess.run(command, cwd=noted, env=environment(), check=True, capture_output=True)

    dvc("config", "--local", "core.no_scm", "true")
    dvc("commit", "--force", "settings", "train@small", "train@wide")

    def stale() -> dict:
        return {stage: why for stage, why in dvc_graph.stale(noted).items() if stage.startswith(("settings", "train"))}

    assert stale() == {}
    edit(noted, lambda content: content["members"]["small"].update(dropout=0.5))
    assert stale() == {"train@small": ["params.yaml members.small: modified"]}
    edit(noted, lambda content: content["training"].update(threads=2))
    assert stale()["settings"] == ["params.yaml training.threads: modified"]
