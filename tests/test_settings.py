"""What all trainings depend on is in one file, and a member's own block is in its stage's command."""

import configparser
import copy
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import LIMIT, ROOT, edit, environment

from flows import check, settings
from flows.graph import code_digest, dvc_graph
from flows.params.params_file import read
from flows.project import file_io, paths
from flows.project.errors import InputError
from lightning_modules import names


@pytest.fixture
def noted(tiny) -> Path:
    """The project with all that the stage notes."""
    for package in code_digest.PACKAGES:
        shutil.copytree(ROOT / package, tiny / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tiny


def content() -> bytes:
    settings.settings(read())
    return paths.settings_file("digits").read_bytes()


def test_the_same_is_noted_again(tiny):
    assert content() == content()
    found = file_io.read_json(paths.settings_file("digits"))
    assert found["params"]["data.digits.batch_size"] == 64
    assert found["code"] == code_digest.digest("train")
    for stage in ("evaluate", "ensemble"):
        assert paths.code_file(stage).read_text() == f"{code_digest.digest(stage)}\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(seed=1),
        lambda content: content["data"]["digits"].update(epochs=5),
        lambda content: content["training"].update(monitor="accuracy"),
        lambda content: content["training"].update(strategy="ddp", devices=2),
    ],
)
def test_what_changes_every_training_is_noted(tiny, change):
    before = content()
    edit(tiny, change)
    assert content() != before


def test_changed_data_are_noted(tiny):
    before = content()
    with (tiny / "data" / "digits" / "dataset.json").open("a") as stream:
        stream.write(" ")
    assert content() != before


def test_what_changes_one_member_or_no_training_is_not_noted(tiny):
    before = content()
    edit(tiny, lambda content: content["members"]["small"].update(dropout=0.5))
    edit(tiny, lambda content: content["members"].pop("wide"))
    edit(tiny, lambda content: content["ensemble"].update(select_by="accuracy"))
    edit(tiny, lambda content: content["training"].update(devices=2))
    edit(tiny, lambda content: content["training"].update(strategy="ddp", devices=1))
    assert content() == before


def test_data_that_are_missing_are_bad_input(tiny):
    (tiny / "data" / "digits" / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"data/digits/dataset\.json does not exist: run dvc repro download"):
        content()


SOURCE = '''"""What it is for."""  # a comment
import os


class Thing:  # "not a string"
    """Of some lines,
    with ünicode."""

    size: int = 1
    """Of a field."""

    def act(self, text="# no comment"):  # one ü
        """Alone in its body."""


def name():
    # Alone on its line.
    text = """A value
    # of two lines."""
    return f"{text} # {os.sep}"
'''


def test_comments_docstrings_and_blank_lines_do_not_count():
    assert code_digest.bare(SOURCE).splitlines() == [
        "import os",
        "class Thing:",
        "    size: int = 1",
        '    def act(self, text="# no comment"):',
        "def name():",
        '    text = """A value',
        '    # of two lines."""',
        '    return f"{text} # {os.sep}"',
    ]


def test_all_else_counts(noted):
    """Of each file that a training reaches, a line more is another digest, and a line of prose more is none."""
    before = code_digest.by_file("train", noted)
    assert before == code_digest.by_file("train")  # wherever it lies
    for name in before:
        text = (noted / name).read_text(encoding="utf-8")
        (noted / name).write_text(f'"""Mended."""\n# A comment.\n\n{text}\n# Another.\n', encoding="utf-8")
    assert code_digest.by_file("train", noted) == before
    for name in before:
        with (noted / name).open("a") as stream:
            stream.write("\nSOMETHING = 1\n")
    after = code_digest.by_file("train", noted)
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)


def test_a_mended_comment_runs_settings_alone_and_a_changed_line_retrains(committed):
    """By DVC itself."""
    fit = committed.folder / "lightning_modules" / "fit.py"
    text = fit.read_text(encoding="utf-8")
    fit.write_text(f"# A comment.\n{text}", encoding="utf-8")
    done = committed.dvc("repro", "train@small", "train@wide")
    ran = [line for line in done.stdout.splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'settings':"], done.stdout + done.stderr
    assert committed.stale() == {}
    fit.write_text(f"{text}\nSOMETHING = 1\n", encoding="utf-8")
    committed.dvc("repro", "--single-item", "settings")
    assert committed.stale().keys() == {"train@small", "train@wide"}


def test_a_stage_of_a_member_makes_dvc_read_params_only_once():
    """DVC reads all of params.yaml, which grows with the members, for each stage that names keys of it."""
    described = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert [name for name, stage in described.items() if "foreach" in stage] == ["train"]
    assert "params" not in described["train"]["do"]
    assert described["train"]["do"]["deps"] == ["settings/${dataset}.json"]


def variants() -> dict[str, dict]:
    """Members that differ from "plain" in one thing each."""
    plain = {"network": {"name": "mlp"}, "optimizer": {"name": "adam", "lr": 0.1}}
    found = {"plain": plain}

    def vary(name: str, *path: str, value: object) -> None:
        member = copy.deepcopy(plain)
        section = member
        for key in path[:-1]:
            section = section.setdefault(key, {})
        section[path[-1]] = value
        found[name] = member

    for network, own in names.NETWORKS.items():
        for key, value in own.items():
            larger = [size + 1 for size in value] if isinstance(value, list) else value + 1
            other = not value if isinstance(value, bool) else larger
            vary(f"{network}-{key}", "network", value={"name": network, key: other})
    vary("none", "network", "hidden", value=None)
    for optimizer, own in names.OPTIMIZERS.items():
        for key, value in own.items():
            other: object = 0.25
            if isinstance(value, bool):
                other = not value
            elif isinstance(value, list):
                other = [0.5] * len(value)
            elif isinstance(value, str):
                other = names.CHOICES[key][-1]
            vary(f"{optimizer}-{key}", "optimizer", value={"name": optimizer, "lr": 0.1, key: other})
    for key in ("dropout", "label_smoothing"):
        vary(key, key, value=0.25)
    for key in ("epochs", "batch_size", "threads"):
        vary(key, key, value=3)
    vary("rates", "dropout", value=[0.25, 0.25, 0.25])
    vary("shallow", "network", value="shallow")
    tables = {
        "activation": names.ACTIVATIONS, "initializer": names.INITIALIZERS, "loss": names.LOSSES,
        "schedule": names.SCHEDULES,
    }  # fmt: skip
    for kind, table in tables.items():
        for name, own in table.items():
            for key, value in own.items():
                other = value + 1 if isinstance(value, int) else value / 2 or 0.25
                vary(f"{name}-{key}", kind, value={"name": name, key: other})
    vary("augment", "augment", value="flip")
    vary("test_time_views", "test_time_views", value="mirror")
    for key, known in (("activation", names.ACTIVATIONS), ("schedule", names.SCHEDULES)):
        vary(key, key, value=sorted(known)[1])
    vary("initializer", "initializer", value="zeros")
    vary("loss", "loss", value="mse")
    for key in names.REGULARIZATION:
        vary(f"regularization-{key}", "regularization", key, value="weights" if key == "decay" else 0.5)
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


@dataclasses.dataclass
class Committed:
    """A project of which DVC, which has run none of its stages, is told that their outputs are theirs."""

    folder: Path

    def dvc(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environment(), check=True, capture_output=True, text=True, timeout=LIMIT
        )

    def stale(self) -> dict:
        stages = dvc_graph.stale(self.folder).items()
        return {stage: why for stage, why in stages if stage.startswith(("settings", "train"))}


@pytest.fixture
def committed(noted) -> Committed:
    shutil.copytree(
        ROOT / ".dvc", noted / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "site-cache", "config.local")
    )
    shutil.copy(ROOT / ".dvcignore", noted)
    for name in read().members:
        (paths.model_folder("digits", name)).mkdir(parents=True)
        (paths.model_folder("digits", name) / "member.json").write_text("{}")
    check.note()
    settings.settings(read())
    made = Committed(noted)
    made.dvc("config", "--local", "core.no_scm", "true")
    made.dvc("commit", "--force", "check", "download", "settings", "train@small", "train@wide")
    return made


def test_an_edited_member_alone_is_stale_and_says_where(committed):
    assert committed.stale() == {}
    edit(committed.folder, lambda content: content["members"]["small"].update(dropout=0.5))
    assert committed.stale() == {"train@small": ["params.yaml members.small: modified"]}
    edit(committed.folder, lambda content: content["training"].update(threads=2))
    assert committed.stale()["settings"] == ["params.yaml training.threads: modified"]
