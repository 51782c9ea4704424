"""The one reader of params.yaml: frozen typed models that refuse what cannot work, before anything runs."""

import dataclasses
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from flows import bounded_yaml, project
from lightning_modules import known
from lightning_modules.errors import InputError, counted, quoted, shown, unknown

DATASETS = ("digits", "blobs", "mnist", "fashion_mnist", "cifar10", "folder")
WITH_TEST_SPLIT = ("mnist", "fashion_mnist", "cifar10")
WITHOUT_TEST_SPLIT = ("digits", "blobs")  # `folder` may have one
MOST_ENTRIES = 2000  # of a list or mapping
MOST_TOLD = 10  # mistakes of one file
# Names that a member cannot have: its files would lie where others lie.
RESERVED = ("ensemble", "members")
MEMBER_NAME = r"[a-z][a-z0-9_-]*"


def no_boolean(value: Any) -> Any:
    """Python takes true for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "a number")
    return value


def few_enough(value: Any) -> Any:
    """Before each entry is looked at: a megabyte of wrong ones would take seconds to be told."""
    if isinstance(value, (dict, list)) and len(value) > MOST_ENTRIES:
        raise InputError(f"{len(value):,} entries are too many: {MOST_ENTRIES:,} at most")
    return value


# Behind the bounds, which pydantic leaves out of the JSON Schema where they come after it.
NUMBER = BeforeValidator(no_boolean)
Fraction = Annotated[float, Field(gt=0, lt=1), NUMBER]
Share = Annotated[float, Field(ge=0, lt=1), NUMBER]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER]
Count = Annotated[int, Field(ge=1, le=10**9), NUMBER]
Size = Annotated[int, Field(ge=1, le=10**15), NUMBER]  # bytes or pixels


def official_or_fraction(value: Any) -> str | float:
    if value == "official":
        return value
    try:
        fraction = float(value)
    except (TypeError, ValueError, OverflowError):
        fraction = math.nan
    if isinstance(value, bool) or not 0 < fraction < 1:
        raise PydanticCustomError("test", "official or a fraction between 0 and 1")
    return fraction


def member_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(MEMBER_NAME, name):
        raise InputError(
            'a member\'s name is made of lower-case letters, digits, "-" and "_", and starts with a letter'
        )
    return name


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Annotates a name out of a table: any other is refused with the known ones, which the JSON Schema lists."""

    kind: str
    names: Collection[str]

    def check(self, name: str) -> str:
        if name not in self.names:
            raise unknown(self.kind, name, self.names)
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict:
        return handler(schema) | {"enum": sorted(self.names)}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Feed(Section):
    """How one dataset is split and fed."""

    test: Annotated[str | float, PlainValidator(official_or_fraction)]
    """official, where the dataset has a test split; else the fraction set aside, the same images for every seed."""
    validation: Fraction
    """Fraction of the training split, stratified; every choice is made on it."""
    batch_size: Count
    """Images in a training step."""
    epochs: Count
    """Passes over the training split at most: early stopping may end a replica before."""
    augment: Annotated[str, OneOf("augmentation", known.AUGMENTATIONS)] = "none"
    """How training images are changed at random. Flips suit photographs, not digits."""


class Training(Section):
    """What holds for every member."""

    early_stopping: Count
    """Epochs without a better validation `monitor` before a replica stops."""
    monitor: Literal["nll", "accuracy"]
    """What early stopping and the best epoch go by, on validation images."""
    accelerator: Literal["auto", "cpu", "gpu"]
    """auto: a GPU where there is one."""
    devices: Count
    """GPUs of a node, to spread the replicas over, or the stacks of at most 32 of them."""
    num_nodes: Count
    """Machines; more than one needs strategy ddp."""
    strategy: Literal["auto", "ddp"]
    """ddp: each mini-batch is divided among all devices, of which a CPU has any number."""
    precision: Literal["auto", "float32", "bfloat16"]
    """auto: mixed bfloat16 where the hardware has it, else float32."""
    threads: Count
    """CPU threads of one training process."""
    parallel: Literal["auto", "processes", "stacked"]
    """How replicas train together: in a process each, or stacked as one computation."""
    deterministic: bool
    """Same params, same machine: same weights, bit for bit."""

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


def names_one_of(table: dict, given: Any) -> bool:
    """Whether it is a mapping whose `name` is in the table; else the fields' own types say what it should be."""
    return isinstance(given, dict) and isinstance(given.get("name"), str) and given["name"] in table


class Network(BaseModel):
    """A network's name and its own settings, completed with their defaults."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Annotated[str, OneOf("network", known.NETWORKS)]
    """The network, which fits itself to the size and number of classes of the images."""

    @model_validator(mode="before")
    @classmethod
    def complete(cls, given: Any) -> Any:
        if not names_one_of(known.NETWORKS, given):
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
    sizes = few_enough(value) if isinstance(like, list) else [value]
    if not sizes or not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        want = "a list of positive integers" if isinstance(like, list) else "a positive integer"
        none = ", or null for none" if key == "hidden" and isinstance(like, list) else ""
        raise InputError(f"{key} is {quoted(value)}, but has to be {want}, like {like}{none}")
    if isinstance(like, list) and key != "hidden" and len(sizes) != len(like):
        raise InputError(f"{key} is {quoted(value)}, but has to name {len(like)} sizes, like {like}")


class Optimizer(BaseModel):
    """An optimizer's name, learning rate, weight decay and own hyper-parameters."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Annotated[str, OneOf("optimizer", known.OPTIMIZERS)]
    """torch.optim's by their names in lower case; momentum and nag are variants of its SGD; and muon."""
    lr: Positive
    """The learning rate that the schedule starts from."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False), NUMBER] = 0.0
    """Of all weights, biases and batch normalisation's too."""

    @model_validator(mode="before")
    @classmethod
    def own_settings(cls, given: Any) -> Any:
        if not names_one_of(known.OPTIMIZERS, given):
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
            raise InputError(f"{key} is {quoted(value)}, but has to be true or false")
        return value
    if isinstance(like, list):
        fits = isinstance(value, list) and len(value) == len(like)
        # Adafactor's first eps may be null, as its default is.
        if not fits or any(
            number(item) is None and (item, default) != (None, None) for item, default in zip(value, like)
        ):
            raise InputError(f"{key} is {quoted(value)}, but has to be a list of {len(like)} numbers")
        return [number(item) for item in value]
    if number(value) is None:
        raise InputError(f"{key} is {quoted(value)}, but has to be a number")
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
    """The network and its sizes."""
    activation: Annotated[str, OneOf("activation", known.ACTIVATIONS)] = known.DEFAULTS["activation"]
    """Between the layers."""
    initializer: Annotated[str, OneOf("initializer", known.INITIALIZERS)] = known.DEFAULTS["initializer"]
    """Of the weights that are trained."""
    dropout: Share = known.DEFAULTS["dropout"]
    """Share of activations that a training step drops, rounded to 1/256."""
    label_smoothing: Share = known.DEFAULTS["label_smoothing"]
    """Share of the probability that is spread over all classes in the loss."""
    optimizer: Optimizer
    """The optimizer and its hyper-parameters."""
    schedule: Annotated[str, OneOf("schedule", known.SCHEDULES)] = known.DEFAULTS["schedule"]
    """Of the learning rate over the epochs."""
    test_time_views: Annotated[str, OneOf("test-time views", known.VIEWS)] = known.DEFAULTS["test_time_views"]
    """Views of an image over which logits are averaged, never in training."""
    replicas: Annotated[int, Field(ge=1, le=1000), NUMBER] = known.DEFAULTS["replicas"]
    """Networks of this recipe that differ in their seed alone."""
    batch_size: Count | None = None
    """Instead of the dataset's."""
    epochs: Count | None = None
    """Instead of the dataset's."""
    augment: Annotated[str, OneOf("augmentation", known.AUGMENTATIONS)] | None = None
    """Instead of the dataset's."""
    threads: Count | None = None
    """Instead of training's."""

    @property
    def recipe(self) -> dict:
        """What makes its networks, as plain JSON types."""
        return self.model_dump(exclude=set(OVERRIDES))


class Ensemble(Section):
    methods: Annotated[
        list[Annotated[str, OneOf("ensemble method", known.VOTES)]], Field(min_length=1), BeforeValidator(few_enough)
    ]
    """The ways to vote that are compared on validation."""
    select_by: Literal["nll", "accuracy"]
    """Which way is chosen, on validation; it is scored once on test."""


class Gate(Section):
    """When a challenger replaces the champion. A limit that is null is none."""

    alpha: Fraction = 0.05
    """Chance that a challenger which is no better is ever promoted, over all decisions on the same test images."""
    class_drop: Annotated[float, Field(ge=0, le=100), NUMBER] | None = None
    """Most points of accuracy that a class may lose, such as 5; null: no limit."""
    ece_increase: Annotated[float, Field(ge=0, le=1), NUMBER] | None = None
    """Most that the calibration error may grow, such as 0.02; null: no limit."""
    latency_ms: Positive | None = None
    """Most milliseconds an image may take on this machine's CPU, in batches; null: no limit."""


class Drift(Section):
    """When incoming images count as others than those that the champion was made for."""

    alpha: Fraction = 0.01
    """Significance level of a comparison as a whole: about one false alarm in 1 / alpha."""
    effect: Share = 0.1
    """Least distance of two distributions (Kolmogorov-Smirnov, 0 to 1) that matters."""
    class_share: Share = 0.03
    """Least change of a class's share of the images (0 to 1) that matters."""
    images: Annotated[int, Field(ge=20), NUMBER] = 1000
    """Most images on either side of a comparison."""


class Limits(Section):
    """How large a file from outside may be. It is refused by what it claims, before anything of it is decoded."""

    image_bytes: Size = 100_000_000
    """Of an image file."""
    image_pixels: Size = 100_000_000
    """Width × height: a pixel takes up to four bytes of memory while it is decoded."""
    array_bytes: Size = 16_000_000_000
    """Of an .npz file, and of all that it unpacks to."""


BY_DEFAULT = Limits()


class Params(Section):
    seed: Annotated[int, Field(ge=0, lt=2**32), NUMBER]
    """Of the validation split, initial weights, batch order, dropout and augmentation."""
    dataset: Annotated[str, OneOf("dataset", DATASETS)]
    """Which block of `data` is used."""
    data: Annotated[dict[Annotated[str, OneOf("dataset", DATASETS)], Feed], BeforeValidator(few_enough)]
    """How each dataset is split and fed."""
    training: Training
    """What holds for every member."""
    members: Annotated[
        dict[Annotated[str, PlainValidator(member_name)], Member],
        Field(min_length=1),
        BeforeValidator(few_enough),
    ]
    """Who is trained: a recipe, a DVC stage and a folder of models each."""
    ensemble: Ensemble
    """The ways to vote that are compared, and by what."""
    gate: Gate = Gate()
    """When a challenger replaces the champion. Turning it makes no stage stale."""
    drift: Drift = Drift()
    """When incoming images count as others than those known. Turning it makes no stage stale."""
    limits: Limits = BY_DEFAULT
    """How large a file from outside may be, by what it claims. Turning it makes no stage stale."""

    @model_validator(mode="after")
    def across_sections(self) -> "Params":
        if self.dataset not in self.data:
            raise InputError(f"data.{self.dataset} is missing, but dataset is {self.dataset}")
        for name in RESERVED:
            if name in self.members:
                raise InputError(f"members.{name}: this name is taken by files of the project; choose another")
        if len(set(self.ensemble.methods)) < len(self.ensemble.methods):
            raise InputError("ensemble.methods names a method twice")
        for dataset in WITHOUT_TEST_SPLIT:
            if dataset in self.data and self.data[dataset].test == "official":
                raise InputError(
                    f"data.{dataset}.test is official, but {dataset} has no official test split: "
                    "give a fraction such as 0.2"
                )
        for dataset in WITH_TEST_SPLIT:
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
    wrong = {problem["loc"][:-1] for problem in problems if problem["loc"][-1:] == ("[key]",)}
    told = [
        problem
        for problem in problems
        if problem["loc"][-1:] == ("[key]",)
        or not any(problem["loc"][:length] in wrong for length in range(len(problem["loc"]) + 1))
    ]
    more = f"; and {counted(len(told) - MOST_TOLD, 'more mistake')}" if len(told) > MOST_TOLD else ""
    raise InputError("; ".join(explain(source, problem) for problem in told[:MOST_TOLD]) + more)


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
    place = [shown(str(part)) for part in problem["loc"] if part != "[key]"]
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
    given = "empty" if problem["input"] is None else quoted(problem["input"])
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
    return parse(bounded_yaml.read(path), path.name)
