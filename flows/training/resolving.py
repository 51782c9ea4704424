"""How a member is trained, resolved once: what params.yaml says, the data, and this machine.

The frozen object that comes out is what the training, MLflow and the saved weights share.
"""

import copy
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from flows.machine import hardware
from flows.params.params_file import Params
from flows.project.errors import InputError
from flows.training.launch import Launch


@dataclass(frozen=True)
class Resolved:
    """The training of one member.

    Attributes:
        seed: that of params.yaml, out of which each replica has its own.
        recipe: what makes its networks: network, activation, initializer, dropout, optimizer, schedule, replicas, ...
        settings: how they are trained: epochs, batch_size, augment, accelerator, precision, threads, parallel, ...
        data: shape (height × width × channels), class_names, and mean and std of each channel.
        parameters: of one network.
        jobs: replicas that train at once on this machine. Nothing that is learned depends on it.
    """

    member: str
    dataset: str
    seed: int
    recipe: Mapping
    settings: Mapping
    data: Mapping
    parameters: int
    jobs: int = field(compare=False)

    @property
    def card(self) -> dict:
        """As member.json has it, apart from what came out; plain JSON types, a copy each time."""
        return copy.deepcopy(
            {
                "member": self.member,
                "dataset": self.dataset,
                "seed": self.seed,
                "recipe": dict(self.recipe),
                "settings": dict(self.settings),
                **self.data,
                "parameters": self.parameters,
            }
        )

    @property
    def seeds(self) -> list[int]:
        """Of the replicas."""
        return [replica_seed(self.seed, self.member, number) for number in range(self.recipe["replicas"])]

    @property
    def of_a_replica(self) -> dict:
        """All that the result of one replica depends on. Another number of replicas leaves those that are trained as
        they are."""
        card = self.card
        del card["recipe"]["replicas"]
        return card


def resolve(params: Params, member: str, data_card: Mapping, part: Launch | None) -> Resolved:
    """Decides by rules what params.yaml leaves open: accelerator, precision and how replicas train. The network
    and its optimizer are built once, so that what torch refuses is said before anything starts.

    Args:
        data_card: that of the dataset.
        part: this command's, of a training whose mini-batches are divided among processes.

    Raises:
        InputError: the recipe cannot be used.
    """
    import torch

    from lightning_modules.fit import hardware_precision

    recipe, training = params.member(member).recipe, params.training
    accelerator = hardware.accelerator(training.accelerator, training.devices)
    settings = {
        **params.settings(member),
        "accelerator": accelerator,
        "precision": hardware_precision(training.precision, accelerator),
    }
    data = {key: data_card[key] for key in ("shape", "class_names", "mean", "std")}
    # A pool of threads in this process would hang the first parallel operation of the processes forked from it.
    torch.set_num_threads(1)
    parameters = try_out({"recipe": recipe, **data})
    jobs = side_by_side(recipe["replicas"], settings["threads"], accelerator, training.devices)
    if part and settings["parallel"] == "auto":
        settings["parallel"] = "processes"
    settings["parallel"] = processes_or_stacked(
        {"recipe": recipe, "settings": settings, **data}, recipe["replicas"], jobs
    )
    return Resolved(member, params.dataset, params.seed, recipe, settings, data, parameters, jobs)


def replica_seed(seed: int, member: str, replica: int) -> int:
    """Another one for each replica of each member, the same however many there are. 32 bits."""
    return zlib.crc32(f"{seed}/{member}/{replica}".encode())


def side_by_side(replicas: int, threads: int, accelerator: str, devices: int) -> int:
    """How many replicas train at once: one per GPU, or as many as the cores have room for."""
    if accelerator == "gpu":
        return min(replicas, devices)
    return max(1, min(replicas, hardware.allotted_cores() // threads))


def processes_or_stacked(card: dict, replicas: int, jobs: int) -> str:
    """Resolves `training.parallel`: replicas in processes of their own, or stacked into one computation.

    A rule by network and device, not a measurement, which may come out differently the next time, while the two round
    differently. Each replica has its process on a CPU or where there are several GPUs. One GPU, far too large for one
    small network of fully connected layers, trains those, all of which can be, stacked.

    Args:
        card: recipe, shape, class_names, settings (of which `parallel` may be "auto").
        jobs: processes that may run side by side.

    Raises:
        InputError: stacked is asked for, and the network cannot be stacked.
    """
    from lightning_modules import networks
    from lightning_modules.stacked import NotStackableError, stack

    settings, name = card["settings"], card["recipe"]["network"]["name"]
    if settings["parallel"] == "processes" or replicas == 1:
        return "processes"
    if settings["parallel"] == "auto":
        return "stacked" if settings["accelerator"] == "gpu" and name == "mlp" and jobs == 1 else "processes"
    try:
        stack([networks.build(card["recipe"], card["shape"], len(card["class_names"]))])
    except NotStackableError as error:
        raise InputError(
            f"params.yaml: training.parallel is stacked, but {error} (network {name}): use auto or processes"
        ) from None
    return "stacked"


def try_out(card: dict) -> int:
    """Builds the network and its optimizer once, so that what torch refuses is said before anything starts.
    Returns the number of parameters."""
    from lightning_modules import networks, optimizers

    network = networks.build(card["recipe"], card["shape"], len(card["class_names"]))
    optimizers.build(card["recipe"]["optimizer"], networks.groups(network))
    return sum(parameter.numel() for parameter in network.parameters())
