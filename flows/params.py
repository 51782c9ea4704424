"""The one reader of params.yaml: frozen typed models that refuse what cannot work, before anything runs."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from flows import project
from lightning_modules import known
from lightning_modules.errors import InputError, unknown

DATASETS = ("digits", "blobs", "mnist", "fashion_mnist", "cifar10", "folder")
# Names that a member cannot have: its files would lie where others lie.
RESERVED = ("ensemble", "members")

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


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

    test: Literal["official"] | Fraction
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
    precision: Literal["auto", "float32", "bfloat16"]
    threads: Count
    deterministic: bool


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
        return defaults | given


def check_sizes(key: str, value: Any, like: Any) -> None:
    """A size is a positive integer, or a list of them where the default is one."""
    sizes = value if isinstance(like, list) else [value]
    if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        want = "a list of positive integers" if isinstance(like, list) else "a positive integer"
        raise InputError(f"{key} is {value!r}, but has to be {want}, like {like}")
    if isinstance(like, list) and key != "hidden" and len(sizes) != len(like):
        raise InputError(f"{key} is {value!r}, but has to name {len(like)} sizes, like {like}")


class Optimizer(BaseModel):
    """An optimizer's name, learning rate, weight decay and own hyper-parameters."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Annotated[str, one_of("optimizer", known.OPTIMIZERS)]
    lr: Positive
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def own_settings(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("name") not in known.OPTIMIZERS:
            return given
        own = known.OPTIMIZERS[given["name"]]
        for key in given:
            if key not in ("name", "lr", "weight_decay", *own):
                raise unknown(f"setting of optimizer {given['name']}", key, ("lr", "weight_decay", *own))
        # YAML reads 1e-8 as a string.
        return {key: value if key == "name" else number(key, value) for key, value in given.items()}


def number(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [number(key, item) for item in value]
    if isinstance(value, (bool, int, float)):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{key} is {value!r}, but has to be a number") from None


class Member(Section):
    """One recipe and the number of networks trained by it."""

    network: Network
    activation: Annotated[str, one_of("activation", known.ACTIVATIONS)] = "relu"
    initializer: Annotated[str, one_of("initializer", known.INITIALIZERS)] = "he_normal"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    optimizer: Optimizer
    schedule: Annotated[str, one_of("schedule", known.SCHEDULES)] = "constant"
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1


class Ensemble(Section):
    methods: Annotated[list[Annotated[str, one_of("ensemble method", known.VOTES)]], Field(min_length=1)]
    select_by: Literal["nll", "accuracy"]


class Params(Section):
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    dataset: Annotated[str, one_of("dataset", DATASETS)]
    data: dict[Annotated[str, one_of("dataset", DATASETS)], Feed]
    training: Training
    members: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")], Member], Field(min_length=1)]
    ensemble: Ensemble

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
                raise InputError(f"data.{dataset}.test is official, but {dataset} has no official test split: "
                                 "give a fraction such as 0.2")
        for dataset in ("mnist", "fashion_mnist", "cifar10"):
            if dataset in self.data and self.data[dataset].test != "official":
                raise InputError(f"data.{dataset}.test has to be official: {dataset} comes with its test split")
        return self

    @property
    def feed(self) -> Feed:
        """The block of the chosen dataset."""
        return self.data[self.dataset]

    def member(self, name: str) -> Member:
        """Raises InputError for a name that params.yaml does not have."""
        if name not in self.members:
            raise unknown("member", name, self.members)
        return self.members[name]


def parse(content: Any, source: str = "params.yaml") -> Params:
    """Raises InputError with one line a mistake: the key, what it is, what it has to be."""
    if not isinstance(content, dict):
        raise InputError(f"{source} is empty or no mapping of keys to values")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise InputError("; ".join(dict.fromkeys(explain(source, problem) for problem in error.errors()))) from None


def explain(source: str, problem: dict) -> str:
    """One mistake as a sentence."""
    place = [str(part) for part in problem["loc"] if part not in ("[key]", "literal['official']")]
    # pydantic names the branch of a union in the path ("test.constrained-float"): no key of the user's.
    place = [part for part in place if not part.startswith(("constrained", "function-", "float", "literal"))]
    key = ".".join(place)
    if problem["type"] == "extra_forbidden":
        return f"{source}: {unknown('key', key, siblings(place[:-1]))}"
    if problem["type"] == "missing":
        return f"{source}: {key} is missing"
    if problem["type"] == "value_error":
        return f"{source}: {key + ': ' if key else ''}{problem['ctx']['error']}"
    said = problem["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{source}: {key} is {problem['input']!r}, but should be {said}"


def siblings(place: list[str]) -> list[str]:
    """The keys that a section may have, as dotted paths."""
    section: Any = Params
    for part in place:
        field = section.model_fields.get(part) if isinstance(section, type) else None
        if part in ("data", "members"):
            section = Feed if part == "data" else Member
        elif field is not None:
            section = field.annotation
    return [".".join([*place, name]) for name in section.model_fields]


def read(path: Path | None = None) -> Params:
    """Reads and checks params.yaml.

    Raises:
        InputError: the file is missing, no YAML, or holds what cannot work.
    """
    path = path or project.root() / "params.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    return parse(content, path.name)
