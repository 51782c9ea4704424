"""The one reader of params.yaml: frozen typed models that refuse what cannot work, before anything runs."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from flows import project
from lightning_modules import known
from lightning_modules.errors import InputError, unknown

DATASETS = ("digits", "blobs", "mnist", "fashion_mnist", "cifar10", "folder")
# Names that a member cannot have: its files would lie where others lie.
RESERVED = ("ensemble", "members")


def no_boolean(value: Any) -> Any:
    """Python takes true for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "a number")
    return value


Real = Annotated[float, BeforeValidator(no_boolean)]
Whole = Annotated[int, BeforeValidator(no_boolean)]
Fraction = Annotated[Real, Field(gt=0, lt=1)]
Share = Annotated[Real, Field(ge=0, lt=1)]
Positive = Annotated[Real, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=1)]


def official_or_fraction(value: Any) -> str | float:
    if value == "official":
        return value
    try:
        fraction = float(value)
    except (TypeError, ValueError):
        fraction = math.nan
    if isinstance(value, bool) or not 0 < fraction < 1:
        raise PydanticCustomError("test", "official or a fraction between 0 and 1")
    return fraction


def member_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise InputError(
            'a member\'s name is made of lower-case letters, digits, "-" and "_", and starts with a letter'
        )
    return name


def one_of(kind: str, names) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise unknown(kind, name, names)
        return name

    return AfterValidator(check)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Feed(Section):
    """How one dataset is split and fed."""

    test: Annotated[str | float, PlainValidator(official_or_fraction)]
    validation: Fraction
    batch_size: Count
    epochs: Count
    augment: Annotated[str, one_of("augmentation", known.AUGMENTATIONS)] = "none"


class Training(Section):
    """What holds for every member."""

    early_stopping: Count
    monitor: Literal["nll", "accuracy"]
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Count
    num_nodes: Count
    strategy: Literal["auto", "ddp"]
    precision: Literal["auto", "float32", "bfloat16"]
    threads: Count
    parallel: Literal["auto", "processes", "stacked"]
    deterministic: bool

    @model_validator(mode="after")
    def one_node_by_default(self) -> "Training":
        if self.num_nodes > 1 and self.strategy == "auto":
            raise InputError(
                f"num_nodes is {self.num_nodes}, but by strategy auto a replica trains on one device: set it to ddp"
            )
        return self

    @property
    def processes(self) -> int:
        """That divide each mini-batch of a replica among them."""
        return self.devices * self.num_nodes if self.strategy == "ddp" else 1


class Network(BaseModel):
    """A network's name and its own settings, completed with their defaults."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Annotated[str, one_of("network", known.NETWORKS)]

    @model_validator(mode="before")
    @classmethod
    def complete(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("name") not in known.NETWORKS:
            return given
        defaults = known.NETWORKS[given["name"]]
        for key, value in given.items():
            if key != "name":
                if key not in defaults:
                    raise unknown(f"setting of network {given['name']}", key, defaults)
                check_sizes(key, value, like=defaults[key])
        none = {key: [] for key, value in given.items() if value is None}
        return defaults | given | none


def check_sizes(key: str, value: Any, like: Any) -> None:
    """A size is a positive integer, or a list of them where the default is one; `hidden` is null for no layer at all,
    not an empty list, which DVC leaves out of a stage's command: it would not see the change."""
    if value is None and key == "hidden" and isinstance(like, list):
        return
    sizes = value if isinstance(like, list) else [value]
    if not sizes or not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        want = "a list of positive integers" if isinstance(like, list) else "a positive integer"
        none = ", or null for none" if key == "hidden" and isinstance(like, list) else ""
        raise InputError(f"{key} is {value!r}, but has to be {want}, like {like}{none}")
    if isinstance(like, list) and key != "hidden" and len(sizes) != len(like):
        raise InputError(f"{key} is {value!r}, but has to name {len(like)} sizes, like {like}")


class Optimizer(BaseModel):
    """An optimizer's name, learning rate, weight decay and own hyper-parameters."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Annotated[str, one_of("optimizer", known.OPTIMIZERS)]
    lr: Positive
    weight_decay: Annotated[Real, Field(ge=0, allow_inf_nan=False)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def own_settings(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("name") not in known.OPTIMIZERS:
            return given
        own = known.OPTIMIZERS[given["name"]]
        for key in given:
            if key not in ("name", "lr", "weight_decay", *own):
                raise unknown(f"setting of optimizer {given['name']}", key, ("lr", "weight_decay", *own))
        return {key: setting(key, value, own[key]) if key in own else value for key, value in given.items()}


def setting(key: str, value: Any, like: Any) -> Any:
    """A hyper-parameter is what its default is: true or false, a number, or a list of as many numbers."""
    if isinstance(like, bool):
        if not isinstance(value, bool):
            raise InputError(f"{key} is {value!r}, but has to be true or false")
        return value
    if isinstance(like, list):
        fits = isinstance(value, list) and len(value) == len(like)
        # Adafactor's first eps may be null, as its default is.
        if not fits or any(
            number(item) is None and (item, default) != (None, None) for item, default in zip(value, like)
        ):
            raise InputError(f"{key} is {value!r}, but has to be a list of {len(like)} numbers")
        return [number(item) for item in value]
    if number(value) is None:
        raise InputError(f"{key} is {value!r}, but has to be a number")
    return number(value)


def number(value: Any) -> float | int | None:
    """None for what is no finite number. YAML reads 1e-8 as a string."""
    if isinstance(value, bool):
        return None
    try:
        finite = math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    if not finite:
        return None
    return value if isinstance(value, int) else float(value)


# Where a member is trained changes its networks by the number of `processes` alone.
PLACES = {"devices", "num_nodes", "strategy"}

# A member's own values of these go before those of its dataset's block and of `training`.
OVERRIDES = ("epochs", "batch_size", "augment", "threads")


class Member(Section):
    """One recipe and the number of networks trained by it."""

    network: Network
    activation: Annotated[str, one_of("activation", known.ACTIVATIONS)] = known.DEFAULTS["activation"]
    initializer: Annotated[str, one_of("initializer", known.INITIALIZERS)] = known.DEFAULTS["initializer"]
    dropout: Share = known.DEFAULTS["dropout"]
    label_smoothing: Share = known.DEFAULTS["label_smoothing"]
    optimizer: Optimizer
    schedule: Annotated[str, one_of("schedule", known.SCHEDULES)] = known.DEFAULTS["schedule"]
    test_time_views: Annotated[str, one_of("test-time views", known.VIEWS)] = known.DEFAULTS["test_time_views"]
    replicas: Annotated[Whole, Field(ge=1, le=1000)] = known.DEFAULTS["replicas"]
    # Where a member is fed otherwise than its dataset's block says, or has its own number of threads.
    batch_size: Count | None = None
    epochs: Count | None = None
    augment: Annotated[str, one_of("augmentation", known.AUGMENTATIONS)] | None = None
    threads: Count | None = None

    @property
    def recipe(self) -> dict:
        """What makes its networks, as plain JSON types."""
        return self.model_dump(exclude=set(OVERRIDES))


class Ensemble(Section):
    methods: Annotated[list[Annotated[str, one_of("ensemble method", known.VOTES)]], Field(min_length=1)]
    select_by: Literal["nll", "accuracy"]


class Gate(Section):
    """When a challenger replaces the champion. A limit that is null is none."""

    alpha: Fraction = 0.05
    class_drop: Annotated[Real, Field(ge=0, le=100)] | None = None
    ece_increase: Annotated[Real, Field(ge=0, le=1)] | None = None
    latency_ms: Positive | None = None


class Drift(Section):
    """When incoming images count as others than those that the champion was made for."""

    alpha: Fraction = 0.01
    effect: Share = 0.1
    images: Annotated[Whole, Field(ge=20)] = 1000


class Params(Section):
    seed: Annotated[Whole, Field(ge=0, lt=2**32)]
    dataset: Annotated[str, one_of("dataset", DATASETS)]
    data: dict[Annotated[str, one_of("dataset", DATASETS)], Feed]
    training: Training
    members: Annotated[dict[Annotated[str, PlainValidator(member_name)], Member], Field(min_length=1)]
    ensemble: Ensemble
    gate: Gate = Gate()
    drift: Drift = Drift()

    @model_validator(mode="after")
    def across_sections(self) -> "Params":
        if self.dataset not in self.data:
            raise InputError(f"data.{self.dataset} is missing, but dataset is {self.dataset}")
        for name in RESERVED:
            if name in self.members:
                raise InputError(f"members.{name}: this name is taken by files of the project; choose another")
        if len(set(self.ensemble.methods)) < len(self.ensemble.methods):
            raise InputError("ensemble.methods names a method twice")
        for dataset in ("digits", "blobs"):
            if dataset in self.data and self.data[dataset].test == "official":
                raise InputError(
                    f"data.{dataset}.test is official, but {dataset} has no official test split: "
                    "give a fraction such as 0.2"
                )
        for dataset in ("mnist", "fashion_mnist", "cifar10"):
            if dataset in self.data and self.data[dataset].test != "official":
                raise InputError(f"data.{dataset}.test has to be official: {dataset} comes with its test split")
        for name in self.members:
            size, processes = self.settings(name)["batch_size"], self.training.processes
            if size < processes:
                raise InputError(
                    f"member {name} is trained with a batch_size of {size}, too small to be divided among {processes} "
                    "processes (training.devices × training.num_nodes): each needs an image of its own"
                )
        return self

    @property
    def feed(self) -> Feed:
        """The block of the chosen dataset."""
        return self.data[self.dataset]

    def settings(self, name: str) -> dict:
        """How a member is trained, apart from its recipe: epochs, batch_size, augment, and what `training` says."""
        member = self.member(name)
        general = {
            "epochs": self.feed.epochs,
            "batch_size": self.feed.batch_size,
            "augment": self.feed.augment,
            **self.training.model_dump(exclude=PLACES),
        }
        if self.training.processes > 1:
            general["processes"] = self.training.processes
        own = {key: getattr(member, key) for key in OVERRIDES}
        return general | {key: value for key, value in own.items() if value is not None}

    def member(self, name: str) -> Member:
        """Raises InputError for a name that params.yaml does not have."""
        if name not in self.members:
            raise unknown("member", name, self.members)
        return self.members[name]


def parse(content: Any, source: str = "params.yaml") -> Params:
    """Raises InputError with one sentence a mistake: the key, what it is, what it has to be."""
    if not isinstance(content, dict):
        raise InputError(f"{source} is empty or no mapping of keys to values")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
    # What lies under a key that has to go is no mistake of its own.
    wrong = [problem["loc"][:-1] for problem in problems if problem["loc"][-1:] == ("[key]",)]
    told = [
        explain(source, problem)
        for problem in problems
        if problem["loc"][-1:] == ("[key]",) or not any(problem["loc"][: len(key)] == key for key in wrong)
    ]
    raise InputError("; ".join(told))


# What pydantic says about the Python type, in words of the file.
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


def explain(source: str, problem: dict) -> str:
    """One mistake as a sentence."""
    place = [str(part) for part in problem["loc"] if part != "[key]"]
    key = ".".join(place)
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        return f"{source}: {unknown('key', key, siblings(place[:-1]))}"
    if problem["type"] == "missing":
        return f"{source}: {key} is missing"
    if problem["type"] == "value_error":
        return f"{source}: {key + ': ' if key else ''}{problem['ctx']['error']}"
    if problem["type"] == "too_short":
        return f"{source}: {key} is empty: name at least one"
    said = WORDS.get(problem["type"]) or problem["msg"].removeprefix("Input should be ")
    given = "empty" if problem["input"] is None else repr(problem["input"])
    return f"{source}: {key} is {given}, but should be {said}"


def siblings(place: list[str]) -> list[str]:
    """The keys that a section may have, as dotted paths."""
    blocks = {"data": Feed, "members": Member}
    section = (blocks.get(place[0]) or Params.model_fields[place[0]].annotation) if place else Params
    return [".".join([*place, name]) for name in section.model_fields]


def read(path: Path | None = None) -> Params:
    """Reads and checks params.yaml.

    Raises:
        InputError: the file is missing, no YAML, or holds what cannot work.
    """
    path = path or project.root() / "params.yaml"
    try:
        content = project.read_yaml(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    return parse(content, path.name)
