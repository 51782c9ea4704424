"""params.schema.json: it is that of the typed models, and an editor refuses by it what they refuse."""

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from conftest import MISSING, put

from flows.params import params_file
from flows.params import schema as flows_schema
from flows.project import paths
from flows.project.errors import InputError
from lightning_modules import names

ROOT = Path(__file__).resolve().parents[1]
EDITOR = jsonschema.Draft7Validator(flows_schema.schema())

# Of every type, in and out of bounds; but for 1.0, which is a whole number to JSON and none to a network's sizes.
VALUES = (
    MISSING, None, True, -1, 0, 1, 2, 200, 10**16, -0.5, 0.5, 1.5, "", "official", "none", "auto", "nll", "relu",
    [], [1], [0.5, 0.9], [1, 2, 3], [1, -2, 3], [None, 0.1], [1] * 5, ["soft_vote"], ["soft_vote"] * 2, {},
    {"name": "mlp"},
)  # fmt: skip


@pytest.fixture
def content() -> dict:
    """Small, and with every section."""
    shipped = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text(encoding="utf-8"))
    shipped["members"] = {"mlp": shipped["members"]["mlp"]}
    sections = params_file.parse(shipped).model_dump()
    mlp = shipped["members"]["mlp"]
    mlp |= {"loss": "cross_entropy", "regularization": dict(names.REGULARIZATION)}
    return shipped | {name: sections[name] for name in ("gate", "drift", "limits")}


def test_the_file_is_that_of_the_models():
    assert (ROOT / flows_schema.FILE).read_text(encoding="utf-8") == flows_schema.text(), "make schema writes it"


def test_the_command_writes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    assert CliRunner().invoke(flows_schema.command).exit_code == 0
    assert (tmp_path / flows_schema.FILE).read_text(encoding="utf-8") == flows_schema.text()


def test_params_yaml_names_it_in_its_first_line():
    first = (ROOT / "params.yaml").read_text(encoding="utf-8").partition("\n")[0]
    assert first == f"# yaml-language-server: $schema={flows_schema.FILE}"


def test_it_is_a_json_schema_of_the_draft_that_it_names():
    jsonschema.Draft7Validator.check_schema(json.loads(flows_schema.text()))
    assert jsonschema.Draft7Validator.META_SCHEMA["$schema"] == flows_schema.DRAFT


@pytest.mark.parametrize("file", ["params.yaml", "tests/params.yaml"])
def test_what_is_shipped_is_right(file):
    EDITOR.validate(yaml.safe_load((ROOT / file).read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "members").glob("*.yaml")), ids=lambda file: file.stem)
def test_members_on_offer_are_right(content, file):
    EDITOR.validate(content | {"members": yaml.safe_load(file.read_text(encoding="utf-8"))})


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("members.mlp.optimizer.name", "adamm", "members.mlp.optimizer.name"),
        ("members.mlp.optimizer.betas2", [0.9, 0.99], "members.mlp.optimizer"),
        ("members.mlp.network.chanels", [1, 2], "members.mlp.network"),
        ("members.mlp.activation", "rleu", "members.mlp.activation"),
        ("members.mlp.dropout", 1.5, "members.mlp.dropout"),
        ("members.mlp.droput", 0.5, "members.mlp"),
        ("members.mlp.regularization.max_norm", 0, "members.mlp.regularization.max_norm"),
        ("members.mlp.regularization.l3", 0, "members.mlp.regularization"),
        ("members.mlp.loss", {"name": "focal", "gamma": -1}, "members.mlp.loss"),
        ("members.mlp.initializer", {"name": "rbm", "epochs": 0.5}, "members.mlp.initializer"),
        ("members.ensemble", {}, "members"),
        ("dataset", "minst", "dataset"),
        ("data.mnist.test", 0.2, "data.mnist.test"),
        ("data.imagenet", {}, "data"),
        ("training.num_nodes", 2, "training.num_nodes"),
        ("ensemble.methods", ["soft_vote", "soft_vote"], "ensemble.methods"),
        ("memebrs", {}, ""),
    ],
)
def test_a_mistake_is_underlined_where_it_is(content, key, value, where):
    mistakes = list(EDITOR.iter_errors(put(content, key, value)))
    assert where in {".".join(map(str, mistake.absolute_path)) for mistake in mistakes}
    with pytest.raises(InputError):
        params_file.parse(put(content, key, value))


def test_every_key_is_explained():
    schema = flows_schema.schema()
    models = {"params.yaml": schema, **schema["definitions"]}
    assert set(models) == {"params.yaml", "Feed", "Training", "Network", "Optimizer", "Member", "Ensemble", "Gate",
                           "Regularization", "Drift", "Limits"}  # fmt: skip
    for name, model in models.items():
        for key, what in model["properties"].items():
            assert what.get("description"), (name, key)


def test_of_any_value_of_any_key_it_says_what_the_reader_says(content):
    every = list(keys(content))
    assert {"seed", "data.folder.augment", "members.mlp.dropout", "limits.array_bytes"} < set(every)
    for key in every:
        agree(content, key)


@pytest.mark.parametrize("name", names.NETWORKS)
def test_of_each_network_too(content, name):
    content = put(content, "members.mlp.network", {"name": name, **names.NETWORKS[name]})
    for key in names.NETWORKS[name]:
        agree(content, f"members.mlp.network.{key}")


@pytest.mark.parametrize("name", names.OPTIMIZERS)
def test_of_each_optimizer_too(content, name):
    content = put(content, "members.mlp.optimizer", {"name": name, "lr": 0.1, **names.OPTIMIZERS[name]})
    for key in ("lr", "weight_decay", *names.OPTIMIZERS[name]):
        agree(content, f"members.mlp.optimizer.{key}")
    other = next(key for own in names.OPTIMIZERS.values() for key in own if key not in names.OPTIMIZERS[name])
    assert not right(put(content, f"members.mlp.optimizer.{other}", 0.5))


@pytest.mark.parametrize("loss", names.TASKS["classification"])
def test_of_each_loss_too(content, loss):
    own = names.LOSSES[loss]
    content = put(content, "members.mlp.loss", {"name": loss, **own})
    for key in own:
        agree(content, f"members.mlp.loss.{key}")
    agree(content, "members.mlp.label_smoothing")
    agree(put(content, "members.mlp.loss", loss), "members.mlp.label_smoothing")


def test_of_what_pre_trains_too(content):
    for key in names.INITIALIZERS["rbm"]:
        given = {"name": "rbm", **names.INITIALIZERS["rbm"]}
        agree(put(content, "members.mlp.initializer", given), f"members.mlp.initializer.{key}")


@pytest.mark.parametrize("name", sorted(name for name, own in names.SCHEDULES.items() if own))
def test_of_each_schedule_too(content, name):
    content = put(content, "members.mlp.schedule", {"name": name, **names.SCHEDULES[name]})
    for key in names.SCHEDULES[name]:
        agree(content, f"members.mlp.schedule.{key}")
    assert not right(put(content, "members.mlp.schedule.speed", 0.5))


def agree(content: dict, key: str) -> None:
    """Tries every value in the key's place."""
    for value in VALUES:
        turned = put(content, key, value)
        try:
            params_file.parse(turned)
            accepted = True
        except InputError:
            accepted = False
        if accepted and key == "training.deterministic" and type(value) in (int, float):
            continue  # 1 is taken for true
        if key == "members.mlp.dropout" and value == [0.5, 0.9]:
            assert right(turned)
            continue  # three layers have dropout, which the schema does not count
        assert right(turned) == accepted, (key, "missing" if value is MISSING else value)


def right(content: dict) -> bool:
    return EDITOR.is_valid(content)


def keys(section: dict, above: str = "") -> Iterator[str]:
    """All keys, dotted, of sections too."""
    for key, value in section.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{above}{key}.")
