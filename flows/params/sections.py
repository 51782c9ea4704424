"""The sections of params.yaml, apart from its members."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from flows.params import fields
from flows.project.errors import InputError
from lightning_modules import names


class Feed(fields.Section):
    """How one dataset is split and fed."""

    test: Annotated[str | float, PlainValidator(fields.official_or_fraction)]
    """official, where the dataset has a test split; else the fraction set aside, the same images for every seed."""
    validation: fields.Fraction
    """Fraction of the training split, stratified; every choice is made on it."""
    batch_size: fields.Count
    """Images in a training step."""
    epochs: fields.Count
    """Passes over the training split at most: early stopping may end a replica before."""
    augment: Annotated[str, fields.OneOf("augmentation", names.AUGMENTATIONS)] = "none"
    """How training images are changed at random. Flips suit photographs, not digits."""


class Training(fields.Section):
    """What holds for every member."""

    early_stopping: fields.Count
    """Epochs without a better validation `monitor` before a replica stops."""
    monitor: Literal["nll", "accuracy"]
    """What early stopping and the best epoch go by, on validation images."""
    accelerator: Literal["auto", "cpu", "gpu"]
    """auto: a GPU where there is one."""
    devices: fields.Count
    """GPUs of a node, to spread the replicas over, or the stacks of at most 32 of them."""
    num_nodes: fields.Count
    """Machines; more than one needs strategy ddp."""
    strategy: Literal["auto", "ddp"]
    """ddp: each mini-batch is divided among all devices, of which a CPU has any number."""
    precision: Literal["auto", "float32", "bfloat16"]
    """auto: mixed bfloat16 where the hardware has it, else float32."""
    threads: fields.Count
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


# Where a member is trained changes its networks by the number of `processes` alone.
PLACES = {"devices", "num_nodes", "strategy"}


class Ensemble(fields.Section):
    methods: Annotated[
        list[Annotated[str, fields.OneOf("ensemble method", names.VOTES)]],
        Field(min_length=1),
        BeforeValidator(fields.few_enough),
    ]
    """The ways to vote that are compared on validation."""
    select_by: Literal["nll", "accuracy"]
    """Which way is chosen, on validation; it is scored once on test."""


class Gate(fields.Section):
    """When a challenger replaces the champion. A limit that is null is none."""

    alpha: fields.Fraction = 0.05
    """Chance that a challenger which is no better is ever promoted, over all decisions on the same test images."""
    class_drop: Annotated[float, Field(ge=0, le=100), fields.NUMBER] | None = None
    """Most points of accuracy that a class may lose, such as 5; null: no limit."""
    ece_increase: Annotated[float, Field(ge=0, le=1), fields.NUMBER] | None = None
    """Most that the calibration error may grow, such as 0.02; null: no limit."""
    latency_ms: fields.Positive | None = None
    """Most milliseconds an image may take on this machine's CPU, in batches; null: no limit."""


class Drift(fields.Section):
    """When incoming images count as others than those that the champion was made for."""

    alpha: fields.Fraction = 0.01
    """Significance level of a comparison as a whole: about one false alarm in 1 / alpha."""
    effect: fields.Share = 0.1
    """Least distance of two distributions (Kolmogorov-Smirnov, 0 to 1) that matters."""
    class_share: fields.Share = 0.03
    """Least change of a class's share of the images (0 to 1) that matters."""
    images: Annotated[int, Field(ge=20), fields.NUMBER] = 1000
    """Most images on either side of a comparison."""


class Limits(fields.Section):
    """How large a file from outside may be. It is refused by what it claims, before anything of it is decoded."""

    image_bytes: fields.Size = 100_000_000
    """Of an image file."""
    image_pixels: fields.Size = 100_000_000
    """Width × height: a pixel takes up to four bytes of memory while it is decoded."""
    array_bytes: fields.Size = 16_000_000_000
    """Of an .npz file, and of all that it unpacks to."""


BY_DEFAULT = Limits()
