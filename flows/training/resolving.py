"""Resolves how a member is trained, once, from params.yaml, the data's card and this machine.

The result is frozen. Training, MLflow and the saved weights share its card, which `flows.train` makes once.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from flows.machine import hardware
from flows.params.params_file import Params
from flows.project.errors import InputError
from lightning_modules import names

# The keys of a dataset's card that a member's card has too: what its networks need of the data. Cards of older versions
# have the first four.
DATA = ("shape", "class_names", "mean", "std", "task", "dtype", "features", "target")


@dataclass(frozen=True)
class Resolved:
    """The training of one member.

    Attributes:
        seed: that of params.yaml, from which each replica's seed is derived.
        recipe: what makes its networks: network, activation, initializer, dropout, optimizer, schedule, replicas, ...
        settings: how they are trained: epochs, batch_size, augment, accelerator, precision, threads, parallel, ...
        data: what the dataset's card says of `DATA`.
        parameters: number of parameters of one network.
        jobs: replicas that train at once on this machine. Results do not depend on it.
    """

    member: str
    dataset: str
    seed: int
    recipe: dict
    settings: dict
    data: Mapping
    parameters: int
    jobs: int

    @property
    def card(self) -> dict:
        """The content of member.json before the results, in plain JSON types."""
        return {
            "member": self.member,
            "dataset": self.dataset,
            "seed": self.seed,
            "recipe": self.recipe,
            "settings": self.settings,
            **self.data,
            "parameters": self.parameters,
        }

    @property
    def seeds(self) -> list[int]:
        """One seed per replica."""
        return [replica_seed(self.seed, self.member, number) for number in range(self.recipe["replicas"])]

    @property
    def replica_inputs(self) -> dict:
        """All that the result of one replica depends on: the card without the number of replicas, so that a change of
        that number keeps the trained ones."""
        return self.card | {"recipe": {key: value for key, value in self.recipe.items() if key != "replicas"}}


def resolve(params: Params, member: str, data_card: Mapping, *, divided: bool) -> Resolved:
    """Decides by rules what params.yaml leaves open: accelerator, precision and how replicas train.

    Builds the network and its optimizer once, so that torch refuses a bad recipe before anything starts.

    Args:
        data_card: the dataset's card.
        divided: whether several processes divide each mini-batch.

    Raises:
        InputError: the recipe cannot be used.
    """
    from lightning_modules.fit import hardware_precision

    recipe, training = params.member(member).recipe, params.training
    accelerator = hardware.accelerator(training.accelerator, training.devices)
    settings = {
        **params.settings(member),
        "accelerator": accelerator,
        "precision": hardware_precision(training.precision, accelerator),
    }
    data = {key: data_card[key] for key in DATA if key in data_card}
    if (made := names.task_of(data_card)) != params.feed.task:
        raise InputError(
            f"params.yaml: data.{params.dataset}.task is {params.feed.task}, but data/{params.dataset} was made for "
            f"{made}: run dvc repro --force download"
        )
    if data.get("dtype") == "float32" and names.name_of(recipe["initializer"]) == "rbm":
        raise InputError(
            f"initializer rbm takes pixels for probabilities, and {params.dataset} has measurements: take another one"
        )
    parameters = build_once({"recipe": recipe, **data})
    jobs = side_by_side(recipe["replicas"], settings["threads"], accelerator, training.devices)
    card = {"recipe": recipe, "settings": settings, **data}
    settings["parallel"] = processes_or_stacked(card, recipe["replicas"], jobs, divided=divided)
    return Resolved(member, params.dataset, params.seed, recipe, settings, data, parameters, jobs)


def replica_seed(seed: int, member: str, replica: int) -> int:
    """A 32-bit seed, different for each replica of each member, and independent of how many there are."""
    return zlib.crc32(f"{seed}/{member}/{replica}".encode())


def side_by_side(replicas: int, threads: int, accelerator: str, devices: int) -> int:
    """The number of replicas that train at once: one per GPU, or as many as the cores have room for."""
    if accelerator == "gpu":
        return min(replicas, devices)
    return max(1, min(replicas, hardware.allotted_cores() // threads))


def processes_or_stacked(card: dict, replicas: int, jobs: int, *, divided: bool = False) -> str:
    """Resolves `training.parallel`: replicas in processes of their own, or stacked into one computation.

    "auto" is a rule by network and device. A measurement could decide differently the next time, and the two ways round
    differently. On a CPU, or with several GPUs, each replica has its own process. A single GPU is far too large for one
    small fully connected network, so it trains these stacked, unless their schedule goes by how well each does.

    Args:
        card: with recipe, shape, class_names and settings, whose `parallel` may be "auto".
        jobs: processes that may run side by side.
        divided: whether several processes divide each mini-batch.

    Returns:
        "processes" or "stacked".

    Raises:
        InputError: params.yaml says stacked, and the network cannot be stacked.
    """
    from lightning_modules import tasks
    from lightning_modules.networks.stacking import NotStackableError, stack
    from lightning_modules.together import refuse_unstackable

    settings, name = card["settings"], card["recipe"]["network"]["name"]
    if settings["parallel"] == "processes" or replicas == 1:
        return "processes"
    auto = settings["parallel"] == "auto"
    pays = settings["accelerator"] == "gpu" and name in ("mlp", "shallow") and jobs == 1 and not divided
    if auto and not pays:
        return "processes"
    try:
        refuse_unstackable(card["recipe"])
        stack([tasks.of(card).network(card["recipe"], card["shape"])])
    except NotStackableError as error:
        if auto:
            return "processes"
        raise InputError(
            f"params.yaml: training.parallel is stacked, but {error} (network {name}): use auto or processes"
        ) from None
    return "stacked"


def build_once(card: dict) -> int:
    """Builds the network and its optimizer once, so that torch refuses a bad recipe before anything starts. Returns the
    number of parameters."""
    from lightning_modules import networks, optimizers, regularization, tasks

    network = tasks.of(card).network(card["recipe"], card["shape"])
    decay = regularization.completed(card["recipe"])["decay"]
    optimizers.build(card["recipe"]["optimizer"], networks.groups(network, decay))
    return sum(parameter.numel() for parameter in network.parameters())
