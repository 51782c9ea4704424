"""The sections of params.yaml, apart from its members."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from flows.params import fields
from flows.params.recipes import Named
from flows.project.errors import InputError
from lightning_modules import names


class Feed(fields.Section):
    """How one dataset is split and fed."""

    task: Annotated[str, fields.OneOf("task", names.TASKS)] = "classification"
    """What is learned of an image: a class, a number (regression) or a sequence of classes. Each dataset has one."""
    test: Annotated[str | float, PlainValidator(fields.official_or_fraction)]
    """official, where the dataset has a test split; else the fraction that becomes one, the same for every seed."""
    validation: fields.Fraction
    """Fraction of the training split that becomes the validation split, stratified; every choice is made on it."""
    batch_size: fields.Count
    """Images in a mini-batch."""
    epochs: fields.Count
    """Most passes over the training split; early stopping may end a replica before."""
    augment: Annotated[str, fields.OneOf("augmentation", names.AUGMENTATIONS)] = "none"
    """How training images are changed at random. Flips suit photographs, not digits."""


class Training(fields.Section):
    """What holds for every member."""

    early_stopping: fields.Count
    """Epochs without a better validation score (`monitor`) before a replica stops."""
    monitor: Literal["nll", "accuracy"]
    """The validation score that decides on early stopping and the best epoch; nll is the mse of a regression."""
    accelerator: Literal["auto", "cpu", "gpu"]
    """auto: a GPU where there is one, else the CPU."""
    devices: fields.Count
    """GPUs of a node, over which replicas, or stacks of at most 32 replicas, are distributed."""
    num_nodes: fields.Count
    """Machines; more than one needs strategy ddp."""
    strategy: Literal["auto", "ddp"]
    """ddp: each mini-batch is divided among all devices; a CPU counts as any number of devices."""
    precision: Literal["auto", "float32", "bfloat16"]
    """auto: mixed bfloat16 where the hardware has it, else float32."""
    threads: fields.Count
    """CPU threads of one training process."""
    parallel: Literal["auto", "processes", "stacked"]
    """How replicas train together: each in a process of its own, or stacked in one computation."""
    deterministic: bool
    """The same params on the same machine give the same weights, bit for bit."""

    @model_validator(mode="after")
    def one_node_by_default(self) -> "Training":
        if self.num_nodes > 1 and self.strategy == "auto":
            raise InputError(
                f"num_nodes is {self.num_nodes}, but by strategy auto a replica trains on one device: set it to ddp"
            )
        return self

    @property
    def processes(self) -> int:
        """The number of processes that share each mini-batch of a replica."""
        return self.devices * self.num_nodes if self.strategy == "ddp" else 1


# Of where a member is trained, only the number of `processes` changes its networks.
PLACES = {"devices", "num_nodes", "strategy"}


class Ensemble(fields.Section):
    methods: Annotated[
        list[Annotated[str | dict, Named("ensemble method", names.ENSEMBLES)]],
        Field(min_length=1),
        BeforeValidator(fields.limit_entries),
    ]
    """The ensemble methods that are compared on the validation split."""
    select_by: Literal["nll", "accuracy"]
    """The validation score that chooses a method, which is then scored once on the test split."""

    @property
    def labels(self) -> list[str]:
        """What the methods are called in tables."""
        return [names.label(given, names.ENSEMBLES) for given in self.methods]


class Gate(fields.Section):
    """When a challenger replaces the champion. A limit of null is no limit."""

    alpha: fields.Fraction = 0.05
    """Chance, over all decisions on the same test images, that a challenger is promoted that is no better."""
    class_drop: Annotated[float, Field(ge=0, le=100), fields.NUMBER] | None = None
    """Most percentage points of accuracy that a class may lose, such as 5; null: no limit."""
    ece_increase: Annotated[float, Field(ge=0, le=1), fields.NUMBER] | None = None
    """Largest increase of the expected calibration error, such as 0.02; null: no limit."""
    latency_ms: fields.Positive | None = None
    """Most milliseconds an image may take on this machine's CPU, in batches; null: no limit."""


class Drift(fields.Section):
    """When incoming images count as drifted from those that the champion was made for."""

    alpha: fields.Fraction = 0.01
    """Significance level of a whole comparison: about one false alarm in 1 / alpha comparisons."""
    effect: fields.Share = 0.1
    """Least distance of two distributions (Kolmogorov-Smirnov, 0 to 1) that matters."""
    class_share: fields.Share = 0.03
    """Least change of a class's fraction of the images (0 to 1) that matters."""
    images: Annotated[int, Field(ge=20), fields.NUMBER] = 1000
    """Most images on each side of a comparison."""


class Limits(fields.Section):
    """How large a file from outside may be. The size that it claims counts, and is checked before it is decoded."""

    image_bytes: fields.Size = 100_000_000
    """Most bytes of an image file."""
    image_pixels: fields.Size = 100_000_000
    """Most pixels of an image, width × height; decoding takes up to four bytes of memory a pixel."""
    array_bytes: fields.Size = 16_000_000_000
    """Most bytes of an .npz file, packed and unpacked."""


DEFAULT_LIMITS = Limits()
