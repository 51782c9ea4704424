"""The only reader of params.yaml: checks it against frozen typed models before anything runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Field, PlainValidator, ValidationError, model_validator

from flows.params import fields, recipes, sections
from flows.project import paths
from flows.project.errors import InputError, counted, quoted, shown, unknown
from flows.untrusted import bounded_yaml
from lightning_modules import names

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MOST_TOLD = 10  # mistakes that one message reports


class Params(fields.Section):
    seed: Annotated[int, Field(ge=0, lt=2**32), fields.NUMBER]
    """Seed of the validation split, initial weights, batch order, dropout and augmentation."""
    dataset: Annotated[str, fields.OneOf("dataset", fields.DATASETS)]
    """Which block of `data` is used."""
    data: Annotated[
        dict[Annotated[str, fields.OneOf("dataset", fields.DATASETS)], sections.Feed],
        BeforeValidator(fields.limit_entries),
    ]
    """How each dataset is split and fed."""
    training: sections.Training
    """What holds for every member."""
    members: Annotated[
        dict[Annotated[str, PlainValidator(fields.member_name)], recipes.Member],
        Field(min_length=1),
        BeforeValidator(fields.limit_entries),
    ]
    """Who is trained: a recipe, a DVC stage and a folder of models each."""
    ensemble: sections.Ensemble
    """The ensemble methods that are compared, and the score that chooses one."""
    gate: sections.Gate = sections.Gate()
    """When a challenger replaces the champion. A change makes no stage stale."""
    drift: sections.Drift = sections.Drift()
    """When incoming images count as drifted. A change makes no stage stale."""
    limits: sections.Limits = sections.DEFAULT_LIMITS
    """How large a file from outside may be. A change makes no stage stale."""

    @model_validator(mode="after")
    def across_sections(self) -> "Params":
        if self.dataset not in self.data:
            raise InputError(f"data.{self.dataset} is missing, but dataset is {self.dataset}")
        for name in fields.RESERVED:
            if name in self.members:
                raise InputError(f"members.{name}: this name is taken by files of the project; choose another")
        if len(set(self.ensemble.labels)) < len(self.ensemble.methods):
            raise InputError("ensemble.methods names a method twice")
        for dataset in fields.WITHOUT_TEST_SPLIT:
            if dataset in self.data and self.data[dataset].test == "official":
                raise InputError(
                    f"data.{dataset}.test is official, but {dataset} has no official test split: "
                    "give a fraction such as 0.2"
                )
        for dataset in fields.WITH_TEST_SPLIT:
            if dataset in self.data and self.data[dataset].test != "official":
                raise InputError(f"data.{dataset}.test has to be official: {dataset} comes with its test split")
        self.check_task()
        for name in self.members:
            size, processes = self.settings(name)["batch_size"], self.training.processes
            if size < processes:
                raise InputError(
                    f"member {name} is trained with a batch_size of {size}, too small to be divided among {processes} "
                    "processes (training.devices × training.num_nodes): each needs an image of its own"
                )
        return self

    def check_task(self) -> None:
        """Gives members without a loss the task's default.

        Raises:
            InputError: a dataset has another task, or something does not fit the task of the chosen one.
        """
        for dataset, feed in self.data.items():
            known = fields.TASKS.get(dataset, ("classification",))
            if feed.task not in known:
                raise InputError(
                    f"data.{dataset}.task is {feed.task}, but {dataset} is for {' or '.join(known)}: set it to that"
                )
        task, dataset = self.feed.task, self.dataset
        if task == "regression":
            for key, value in (
                ("training.monitor", self.training.monitor),
                ("ensemble.select_by", self.ensemble.select_by),
            ):
                if value != "nll":
                    raise InputError(
                        f"{key} is {value}, but {dataset} is for regression, which has none: set it to nll, which is "
                        "the mean squared error there"
                    )
        given = [names.completed(method, names.ENSEMBLES) for method in self.ensemble.methods]
        left = [method["name"] for method in given if method["name"] in names.ENSEMBLES_OF[task]]
        if not left:
            raise InputError(
                f"ensemble.methods has {', '.join(self.ensemble.labels)}, but for {task} there "
                f"{'is' if len(names.ENSEMBLES_OF[task]) == 1 else 'are'} {', '.join(names.ENSEMBLES_OF[task])}"
            )
        if task != "classification" and any(method.get("temperature") for method in given):
            raise InputError(
                f"ensemble.methods has a temperature, but {dataset} is for {task}, and it is for classes: leave it out"
            )
        for name, member in self.members.items():
            if "loss" not in member.model_fields_set:
                self.members[name] = member = member.model_copy(update={"loss": names.TASKS[task][0]})
            if wrong := names.unfit(task, member.recipe):
                raise InputError(f"members.{name}: {wrong} (the task of dataset {dataset})")
            augment = self.settings(name)["augment"]
            if task == "sequence" and "flip" in augment:
                raise InputError(
                    f"member {name} has augment {augment}, which mirrors images, and a mirrored sequence runs "
                    "backwards: take none or shift"
                )

    def task_of(self, dataset: str) -> str:
        """What is learned of a dataset's images; classification where params.yaml says nothing of it."""
        return self.data[dataset].task if dataset in self.data else "classification"

    @property
    def feed(self) -> sections.Feed:
        """The block of the chosen dataset."""
        return self.data[self.dataset]

    def settings(self, name: str) -> dict:
        """How a member is trained, apart from its recipe: epochs, batch_size, augment, and the values of `training`."""
        member = self.member(name)
        general = {
            "epochs": self.feed.epochs,
            "batch_size": self.feed.batch_size,
            "augment": self.feed.augment,
            **self.training.model_dump(exclude=sections.PLACES),
        }
        if self.training.processes > 1:
            general["processes"] = self.training.processes
        own = {key: getattr(member, key) for key in recipes.OVERRIDES}
        return general | {key: value for key, value in own.items() if value is not None}

    def member(self, name: str) -> recipes.Member:
        """The member of that name. Raises InputError where params.yaml has none."""
        if name not in self.members:
            raise unknown("member", name, self.members)
        return self.members[name]


def parse(content: Any, source: str = "params.yaml") -> Params:
    """The checked content of params.yaml.

    Raises:
        InputError: says for each mistake the key, its value, and what it has to be.
    """
    if not isinstance(content, dict):
        raise InputError(f"{source} is empty or no mapping of keys to values")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
    # Mistakes below an unknown key are not reported.
    wrong = {problem["loc"][:-1] for problem in problems if problem["loc"][-1:] == ("[key]",)}
    told = [
        problem
        for problem in problems
        if problem["loc"][-1:] == ("[key]",)
        or not any(problem["loc"][:length] in wrong for length in range(len(problem["loc"]) + 1))
    ]
    more = f"; and {counted(len(told) - MOST_TOLD, 'more mistake')}" if len(told) > MOST_TOLD else ""
    raise InputError("; ".join(explain(source, problem) for problem in told[:MOST_TOLD]) + more)


# Pydantic's errors about Python types, in the words of YAML.
WORDS = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping of keys to values",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping of keys to values",
    "string_type": "a name",
}


def explain(source: str, problem: "ErrorDetails", model: type[BaseModel] = Params) -> str:
    """One of pydantic's errors about a model as a sentence."""
    place = [shown(str(part)) for part in problem["loc"] if part != "[key]"]
    key = ".".join(place)
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        return f"{source}: {unknown('key', key, siblings(place[:-1], model))}"
    if problem["type"] == "missing":
        return f"{source}: {key} is missing"
    if problem["type"] == "value_error":
        return f"{source}: {key + ': ' if key else ''}{problem['ctx']['error']}"
    if problem["type"] == "too_short":
        return f"{source}: {key} is empty: name at least one"
    said = WORDS.get(problem["type"]) or problem["msg"].removeprefix("Input should be ")
    given = "empty" if problem["input"] is None else quoted(problem["input"])
    return f"{source}: {key} is {given}, but should be {said}"


def siblings(place: list[str], model: type[BaseModel]) -> list[str]:
    """The keys that a section of a model may have, as dotted paths."""
    section, parts = model, iter(place)
    for part in parts:
        kind: Any = section.model_fields[part].annotation
        if get_origin(kind) is dict:  # of sections, by a key of the user's
            next(parts, None)
            kind = get_args(kind)[1]
        section = kind
    return [".".join([*place, name]) for name in section.model_fields]


def read(path: Path | None = None) -> Params:
    """Reads and checks params.yaml.

    Raises:
        InputError: the file is missing, no valid YAML, or holds a mistake.
    """
    path = path or paths.root() / "params.yaml"
    return parse(bounded_yaml.read(path), path.name)
