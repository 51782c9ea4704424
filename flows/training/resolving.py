"""How a member is trained: its replicas' seeds, and in which of the ways."""

import zlib

from flows.machine import hardware
from lightning_modules.errors import InputError


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
