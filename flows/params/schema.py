"""The JSON Schema of params.yaml, with which an editor underlines mistakes while one types.

Reads   the models in flows/params/ and the tables in lightning_modules/names.py
Writes  params.schema.json, which the first line of params.yaml names
Run     python -m flows.params.schema

Pydantic makes the schema of the models; this module adds the rules that they check in code. The reader of params.yaml
decides: the schema refuses numbers in quotes, and does not know that a batch is divided among processes, which network
an activation or initializer fits, and how many layers have dropout.
"""

import ast
import inspect
import json
from itertools import pairwise
from typing import Any

import click
from pydantic import BaseModel

from flows.machine.console import run
from flows.params import fields, params_file, recipes, sections
from flows.project import file_io, paths
from lightning_modules import names

FILE = "params.schema.json"
DRAFT = "http://json-schema.org/draft-07/schema#"  # a name, not a URL to fetch; the newest draft that all editors know
FRACTION = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
SIZE = {"type": "integer", "minimum": 1}


def schema() -> dict:
    """The schema as plain JSON types."""
    made = params_file.Params.model_json_schema(ref_template="#/definitions/{model}")
    models = made.pop("$defs")
    described(made, params_file.Params)
    for name, model in models.items():
        described(model, getattr(recipes if hasattr(recipes, name) else sections, name))
    networks(models["Network"])
    optimizers(models["Optimizer"])
    network = models["Member"]["properties"]["network"]
    network["anyOf"] = [{"enum": sorted(names.NETWORKS)}, {"$ref": network.pop("$ref")}]
    across_keys(models["Member"])
    several_nodes(models["Training"])
    models["Ensemble"]["properties"]["methods"]["uniqueItems"] = True
    datasets(made, models["Feed"])
    members(made["properties"]["members"])
    return {"$schema": DRAFT, "title": "params.yaml of Trainyard", **without_titles(made | {"definitions": models})}


def described(made: dict, model: type[BaseModel]) -> None:
    """Adds the docstring below each field of the model as its description."""
    [written] = ast.parse(inspect.getsource(model)).body
    assert isinstance(written, ast.ClassDef)
    for field, said in pairwise(written.body):
        if isinstance(field, ast.AnnAssign) and isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant):
            made["properties"][ast.unparse(field.target)]["description"] = said.value.value


def networks(made: dict) -> None:
    """Adds each network's own sizes: those that `recipes.check_sizes` accepts."""

    def sizes(key: str, like: Any) -> dict:
        if isinstance(like, bool):
            return {"type": "boolean", "default": like}
        if not isinstance(like, list):
            return {**SIZE, "default": like}
        if key == "hidden":
            return {"type": ["array", "null"], "items": SIZE, "minItems": 1, "default": like}
        if key in names.ANY_NUMBER:
            return {"type": "array", "items": SIZE, "minItems": 1, "default": like}
        return {"type": "array", "items": SIZE, "minItems": len(like), "maxItems": len(like), "default": like}

    tables = {name: {key: sizes(key, like) for key, like in own.items()} for name, own in names.NETWORKS.items()}
    by_name(made, tables)


def optimizers(made: dict) -> None:
    """Adds each optimizer's own hyper-parameters: those that `recipes.hyper_parameter` accepts."""

    tables = {
        name: {key: recipes.like_default(key, like) for key, like in own.items()}
        for name, own in names.OPTIMIZERS.items()
    }
    by_name(made, tables)


def across_keys(member: dict) -> None:
    """Adds the rule that label smoothing needs a loss with a target distribution."""
    smoothed = {"enum": list(names.SMOOTHED)}
    member["allOf"] = [
        {
            "if": {"properties": {"label_smoothing": {"not": {"const": 0}}}, "required": ["label_smoothing", "loss"]},
            "then": {
                "properties": {"loss": {"anyOf": [smoothed, {"type": "object", "properties": {"name": smoothed}}]}}
            },
        }
    ]


def by_name(made: dict, tables: dict[str, dict[str, dict]]) -> None:
    """Allows each name the keys in its table and the common keys, and no others."""
    common = dict.fromkeys(made["properties"], True)
    made["allOf"] = [
        when("name", name, {"properties": common | own, "additionalProperties": False}) for name, own in tables.items()
    ]


def when(key: str, value: str, then: dict) -> dict:
    """The rule that `then` holds for a mapping in which the key has the value."""
    return {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": then}


def several_nodes(made: dict) -> None:
    """Adds the rule that several nodes need strategy ddp."""
    made["allOf"] = [when("strategy", "auto", {"properties": {"num_nodes": {"maximum": 1}}})]


def datasets(made: dict, feed: dict) -> None:
    """Adds a block for each dataset, of which the chosen one is required, and whether its test split is official."""
    official = {"const": "official"}
    either: dict[str, Any] = {"anyOf": [official, FRACTION]}
    tests: dict[str, dict[str, Any]] = dict.fromkeys(fields.DATASETS, either)
    tests |= dict.fromkeys(fields.WITHOUT_TEST_SPLIT, FRACTION) | dict.fromkeys(fields.WITH_TEST_SPLIT, official)
    feed["properties"]["test"] |= either
    data = made["properties"]["data"]
    del data["propertyNames"]
    data["properties"] = {
        dataset: {"allOf": [{"$ref": "#/definitions/Feed"}, own(fields.TASKS.get(dataset, ("classification",)), test)]}
        for dataset, test in tests.items()
    }
    data["additionalProperties"] = False
    made["allOf"] = [
        when("dataset", dataset, {"properties": {"data": {"required": [dataset]}}}) for dataset in fields.DATASETS
    ]


def own(tasks: tuple[str, ...], test: dict) -> dict:
    """What holds for the block of one dataset: its tasks, and its test split."""
    needed = {} if "classification" in tasks else {"required": ["task"]}
    return {"properties": {"task": {"enum": list(tasks)}, "test": test}} | needed


def members(made: dict) -> None:
    """Restricts the names of members to names of files."""
    made["propertyNames"] = {"pattern": f"^{fields.MEMBER_NAME}$", "not": {"enum": list(fields.RESERVED)}}


def without_titles(made: Any) -> Any:
    """The schema without pydantic's titles, which repeat the keys."""
    if isinstance(made, dict):
        return {key: without_titles(value) for key, value in made.items() if (key, type(value)) != ("title", str)}
    return [without_titles(value) for value in made] if isinstance(made, list) else made


def text() -> str:
    """The content of params.schema.json."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


@click.command()
def command() -> None:
    """Write params.schema.json, the JSON Schema by which editors check params.yaml."""
    file_io.write_if_changed(paths.root() / FILE, text())


if __name__ == "__main__":
    run(command)
