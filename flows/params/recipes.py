"""A member of params.yaml: its network, its optimizer and how many replicas it has."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flows.params import fields
from flows.project.errors import InputError, quoted, unknown
from lightning_modules import names


class Network(BaseModel):
    """A network's name and its own settings, completed with their defaults."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Annotated[str, fields.OneOf("network", names.NETWORKS)]
    """The network, which fits itself to the size and number of classes of the images."""

    @model_validator(mode="before")
    @classmethod
    def complete(cls, given: Any) -> Any:
        if not fields.names_one_of(names.NETWORKS, given):
            return given
        defaults = names.NETWORKS[given["name"]]
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
    sizes = fields.few_enough(value) if isinstance(like, list) else [value]
    if not sizes or not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        want = "a list of positive integers" if isinstance(like, list) else "a positive integer"
        none = ", or null for none" if key == "hidden" and isinstance(like, list) else ""
        raise InputError(f"{key} is {quoted(value)}, but has to be {want}, like {like}{none}")
    if isinstance(like, list) and key != "hidden" and len(sizes) != len(like):
        raise InputError(f"{key} is {quoted(value)}, but has to name {len(like)} sizes, like {like}")


class Optimizer(BaseModel):
    """An optimizer's name, learning rate, weight decay and own hyper-parameters."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Annotated[str, fields.OneOf("optimizer", names.OPTIMIZERS)]
    """torch.optim's by their names in lower case; momentum and nag are variants of its SGD; and muon."""
    lr: fields.Positive
    """The learning rate that the schedule starts from."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False), fields.NUMBER] = 0.0
    """Of all weights, biases and batch normalisation's too."""

    @model_validator(mode="before")
    @classmethod
    def own_settings(cls, given: Any) -> Any:
        if not fields.names_one_of(names.OPTIMIZERS, given):
            return given
        own = names.OPTIMIZERS[given["name"]]
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
            fields.number(item) is None and (item, default) != (None, None) for item, default in zip(value, like)
        ):
            raise InputError(f"{key} is {quoted(value)}, but has to be a list of {len(like)} numbers")
        return [fields.number(item) for item in value]
    if fields.number(value) is None:
        raise InputError(f"{key} is {quoted(value)}, but has to be a number")
    return fields.number(value)


# A member's own values of these go before those of its dataset's block and of `training`.
OVERRIDES = ("epochs", "batch_size", "augment", "threads")


class Member(fields.Section):
    """One recipe and the number of networks trained by it."""

    network: Network
    """The network and its sizes."""
    activation: Annotated[str, fields.OneOf("activation", names.ACTIVATIONS)] = names.DEFAULTS["activation"]
    """Between the layers."""
    initializer: Annotated[str, fields.OneOf("initializer", names.INITIALIZERS)] = names.DEFAULTS["initializer"]
    """Of the weights that are trained."""
    dropout: fields.Share = names.DEFAULTS["dropout"]
    """Share of activations that a training step drops, rounded to 1/256."""
    label_smoothing: fields.Share = names.DEFAULTS["label_smoothing"]
    """Share of the probability that is spread over all classes in the loss."""
    optimizer: Optimizer
    """The optimizer and its hyper-parameters."""
    schedule: Annotated[str, fields.OneOf("schedule", names.SCHEDULES)] = names.DEFAULTS["schedule"]
    """Of the learning rate over the epochs."""
    test_time_views: Annotated[str, fields.OneOf("test-time views", names.VIEWS)] = names.DEFAULTS["test_time_views"]
    """Views of an image over which logits are averaged, never in training."""
    replicas: Annotated[int, Field(ge=1, le=1000), fields.NUMBER] = names.DEFAULTS["replicas"]
    """Networks of this recipe that differ in their seed alone."""
    batch_size: fields.Count | None = None
    """Instead of the dataset's."""
    epochs: fields.Count | None = None
    """Instead of the dataset's."""
    augment: Annotated[str, fields.OneOf("augmentation", names.AUGMENTATIONS)] | None = None
    """Instead of the dataset's."""
    threads: fields.Count | None = None
    """Instead of training's."""

    @property
    def recipe(self) -> dict:
        """What makes its networks, as plain JSON types."""
        return self.model_dump(exclude=set(OVERRIDES))
