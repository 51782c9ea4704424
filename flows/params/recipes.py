"""A member of params.yaml: its network, its optimizer and how many replicas it has."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidatorFunctionWrapHandler,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from flows.params import fields
from flows.project.errors import InputError, counted, quoted, unknown
from lightning_modules import names


class Network(BaseModel):
    """A network's name and its own sizes, completed with their defaults."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Annotated[str, fields.OneOf("network", names.NETWORKS)]
    """The network, which adapts to the size of the images and the number of classes."""

    @model_validator(mode="before")
    @classmethod
    def complete(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = {"name": given}
        if not fields.names_one_of(names.NETWORKS, given):
            return given
        defaults = names.NETWORKS[given["name"]]
        for key, value in given.items():
            if key != "name":
                if key not in defaults:
                    raise unknown(f"setting of network {given['name']}", key, defaults)
                check_sizes(key, value, like=defaults[key])
        none: dict[str, list] = {key: [] for key, value in given.items() if value is None}
        return defaults | given | none


def check_sizes(key: str, value: Any, like: Any) -> None:
    """Raises InputError unless a size is like its default: a positive integer, a list of them, or a boolean.

    No hidden layer is `hidden: null`. DVC leaves an empty list out of a stage's command, and would miss the change.
    """
    if value is None and key == "hidden" and isinstance(like, list):
        return
    if isinstance(like, bool):
        if not isinstance(value, bool):
            raise InputError(f"{key} is {quoted(value)}, but has to be true or false")
        return
    sizes = fields.limit_entries(value) if isinstance(like, list) else [value]
    if not sizes or not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        want = "a list of positive integers" if isinstance(like, list) else "a positive integer"
        none = ", or null for none" if key == "hidden" and isinstance(like, list) else ""
        raise InputError(f"{key} is {quoted(value)}, but has to be {want}, like {like}{none}")
    if isinstance(like, list) and key not in names.ANY_NUMBER and len(sizes) != len(like):
        raise InputError(f"{key} is {quoted(value)}, but has to name {len(like)} sizes, like {like}")


class Optimizer(BaseModel):
    """An optimizer's name, learning rate, weight decay and own hyper-parameters."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Annotated[str, fields.OneOf("optimizer", names.OPTIMIZERS)]
    """One of torch.optim by its name in lower case, a variant of its SGD (momentum, nag, gradient_descent), or one that
    is written here (adagrad_da, ftrl, lion, muon, proximal_adagrad, proximal_sgd, rmsprop_tf)."""
    lr: fields.Positive
    """The learning rate that the schedule multiplies: the one at its start, or at its peak where there is a warm-up."""
    weight_decay: fields.NotNegative = 0.0
    """Weight decay of all parameters, with biases and batch normalisation unless regularization.decay is weights."""

    @model_validator(mode="before")
    @classmethod
    def own_hyper_parameters(cls, given: Any) -> Any:
        if not fields.names_one_of(names.OPTIMIZERS, given):
            return given
        own = names.OPTIMIZERS[given["name"]]
        for key in given:
            if key not in ("name", "lr", "weight_decay", *own):
                raise unknown(f"setting of optimizer {given['name']}", key, ("lr", "weight_decay", *own))
        return {key: hyper_parameter(key, value, own[key]) if key in own else value for key, value in given.items()}


def hyper_parameter(key: str, value: Any, like: Any) -> Any:
    """A hyper-parameter's value, which has to be like its default: a boolean, a number, a list of equal length, or one
    of the strings in `names.CHOICES`."""
    if isinstance(like, str):
        if value not in names.CHOICES[key]:
            raise InputError(f"{key} is {quoted(value)}, but has to be {' or '.join(names.CHOICES[key])}")
        return value
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


def like_default(key: str, like: Any) -> dict:
    """The values that `hyper_parameter` accepts."""
    if isinstance(like, str):
        return {"enum": list(names.CHOICES[key]), "default": like}
    if isinstance(like, bool):
        return {"type": "boolean", "default": like}
    if isinstance(like, list):
        items = [{"type": ["number", "null"] if default is None else "number"} for default in like]
        return {"type": "array", "items": items, "minItems": len(like), "maxItems": len(like), "default": like}
    return {"type": "number", "default": like}


@dataclasses.dataclass(frozen=True)
class Named:
    """Annotates a name from a table, alone or in a mapping with hyper-parameters of its own.

    The value is the name where it has no hyper-parameters, else a mapping with all of them.
    """

    kind: str
    table: dict[str, dict[str, Any]]

    def check(self, given: Any) -> str | dict[str, Any]:
        if isinstance(given, str):
            given = {"name": given}
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            raise InputError(f"{quoted(given)} is no {self.kind}: give its name, or a mapping with `name`")
        name = given["name"]
        if name not in self.table:
            raise unknown(self.kind, name, self.table)
        own = self.table[name]
        for key in given:
            if key != "name" and key not in own:
                raise unknown(f"setting of {self.kind} {name}", key, own)
        if not own:
            return name
        values = {key: hyper_parameter(key, given.get(key, like), like) for key, like in own.items()}
        return {"name": name} | {key: names.within(name, key, value) for key, value in values.items()}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict:
        mappings: list[dict] = [{"name": {"enum": sorted(name for name, own in self.table.items() if not own)}}]
        for name, own in sorted(self.table.items()):
            if own:
                values = {key: like_default(key, like) | names.LIMITS.get((name, key), {}) for key, like in own.items()}
                mappings.append({"name": {"const": name}} | values)
        exact = {"type": "object", "required": ["name"], "additionalProperties": False}
        return {"anyOf": [{"enum": sorted(self.table)}, *(exact | {"properties": values} for values in mappings)]}


@dataclasses.dataclass(frozen=True)
class Rates:
    """Annotates one rate for all layers with dropout, or a list with one for each of them."""

    def check(self, given: Any, share: ValidatorFunctionWrapHandler) -> float | list[float]:
        """The value as a number or numbers; `share` checks one of them, and raises pydantic's error."""
        return [share(rate) for rate in fields.limit_entries(given)] if isinstance(given, list) else share(given)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        one = handler.generate_schema(fields.Share)
        # Else pydantic would write the value as it writes one rate, and warn of a list.
        written = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        return core_schema.no_info_wrap_validator_function(self.check, one, serialization=written)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict:
        one = handler(schema)
        return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


class Regularization(fields.Section):
    """What keeps a member's networks from overfitting, beside dropout, label smoothing and weight decay."""

    l1: fields.NotNegative = names.REGULARIZATION["l1"]
    """Adds l1 times the sum of the weights' absolute values to the loss; biases and normalisation are no weights."""
    l2: fields.NotNegative = names.REGULARIZATION["l2"]
    """Adds l2 times the sum of the weights' squares to the loss, beside the optimizer's weight_decay."""
    max_norm: fields.Positive | None = names.REGULARIZATION["max_norm"]
    """Largest norm of a unit's or filter's incoming weights, to which a step scales them down; null: no limit."""
    clip_norm: fields.Positive | None = names.REGULARIZATION["clip_norm"]
    """Largest norm of a network's whole gradient, to which it is scaled down; null: no limit."""
    clip_value: fields.Positive | None = names.REGULARIZATION["clip_value"]
    """Largest absolute value of each gradient, before clip_norm; null: no limit."""
    mixup: fields.NotNegative = names.REGULARIZATION["mixup"]
    """Alpha: each image is mixed with another one in shares drawn from Beta(alpha, alpha); 0: none is."""
    cutout: fields.Share = names.REGULARIZATION["cutout"]
    """Share of an image's sides that a rectangle at a random place covers; 0: what the augmentation covers."""
    decay: Literal["all", "weights"] = names.REGULARIZATION["decay"]
    """What the optimizer's weight_decay falls on: all parameters, or weights alone: no biases, no normalisation."""


# A member's own values of these override those of its dataset's block and of `training`.
OVERRIDES = ("epochs", "batch_size", "augment", "threads")


class Member(fields.Section):
    """One recipe and the number of networks trained by it."""

    network: Network
    """The network's name, or a mapping with its name and sizes."""
    activation: Annotated[str | dict, Named("activation", names.ACTIVATIONS)] = names.DEFAULTS["activation"]
    """Activation between the layers; in the cells of a recurrent network, tanh unless it is given."""
    initializer: Annotated[str | dict, Named("initializer", names.INITIALIZERS)] = names.DEFAULTS["initializer"]
    """Initializer of the trained weights."""
    dropout: Annotated[float | list[float], Rates()] = names.DEFAULTS["dropout"]
    """Fraction of activations that a training step drops, rounded to 1/256; a list: one for each layer with dropout."""
    loss: Annotated[str | dict, Named("loss", names.LOSSES)] = names.DEFAULTS["loss"]
    """What training minimises; unless it is given, mse where the dataset's task is regression, ctc for sequences."""
    label_smoothing: fields.Share = names.DEFAULTS["label_smoothing"]
    """Fraction of the target probability that the loss spreads over all classes; not for hinge, focal and ctc."""
    regularization: Regularization = Regularization()
    """What else keeps its networks from overfitting."""
    optimizer: Optimizer
    """The optimizer and its hyper-parameters."""
    schedule: Annotated[str | dict, Named("schedule", names.SCHEDULES)] = names.DEFAULTS["schedule"]
    """Schedule of the learning rate over the epochs."""
    test_time_views: Annotated[str, fields.OneOf("test-time views", names.VIEWS)] = names.DEFAULTS["test_time_views"]
    """Views of an image whose logits are averaged when predicting, never in training."""
    replicas: Annotated[int, Field(ge=1, le=1000), fields.NUMBER] = names.DEFAULTS["replicas"]
    """Number of networks of this recipe, which differ only in their seed."""
    batch_size: fields.Count | None = None
    """Overrides the dataset's."""
    epochs: fields.Count | None = None
    """Overrides the dataset's."""
    augment: Annotated[str, fields.OneOf("augmentation", names.AUGMENTATIONS)] | None = None
    """Overrides the dataset's."""
    threads: fields.Count | None = None
    """Overrides the value in training."""

    @model_validator(mode="before")
    @classmethod
    def activation_of_cells(cls, given: Any) -> Any:
        """Gives a recurrent network the activation that its cells have where they were published."""
        if isinstance(given, dict) and "activation" not in given:
            network = given.get("network")
            name = network.get("name") if isinstance(network, dict) else network
            if name in names.RECURRENT:
                return given | {"activation": names.RECURRENT_ACTIVATION}
        return given

    @model_validator(mode="after")
    def fits_its_network(self) -> "Member":
        network = self.network.model_dump()
        for kind, chosen in (("activation", self.activation), ("initializer", self.initializer)):
            if wrong := names.misfit(kind, chosen, network["name"]):
                raise InputError(wrong)
        places = names.dropouts(network)
        if isinstance(self.dropout, list) and len(self.dropout) != places:
            has = f"has {counted(places, 'layer')} with dropout"
            raise InputError(
                f"dropout has {counted(len(self.dropout), 'rate')}, but network {network['name']} {has}: "
                f"give {'that many, or ' if places else ''}one number for all"
            )
        return self

    @model_validator(mode="after")
    def across_keys(self) -> "Member":
        loss = names.name_of(self.loss)
        if self.label_smoothing and loss not in names.SMOOTHED:
            raise InputError(
                f"label_smoothing is {self.label_smoothing:g}, but loss {loss} has no target distribution to smooth: "
                f"set it to 0, or take one of {', '.join(names.SMOOTHED)}"
            )
        if names.name_of(self.initializer) == "rbm":
            network = self.network.model_dump()
            if not network.get("hidden", True):
                raise InputError("initializer rbm trains hidden layers, and the network has none: name sizes in hidden")
            if network.get("batch_norm"):
                raise InputError("initializer rbm does not fit batch normalisation: set batch_norm to false")
            if names.name_of(self.activation) == "maxout":
                raise InputError(
                    "initializer rbm needs an activation with an output for each input, and maxout has fewer: sigmoid "
                    "is the one that it was made for"
                )
        return self

    @property
    def recipe(self) -> dict:
        """What determines its networks, as plain JSON types."""
        return self.model_dump(exclude=set(OVERRIDES))
