"""Which stages there is room for at the same time: the cores and GPUs that each one takes, and those that are left."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flows.machine import hardware
from flows.params.params_file import Params

# Stages that compute on a GPU where there is one: evaluate on one, train on as many as `devices` says.
ON_GPU = {"train", "evaluate"}
# Stages that compute next to nothing: no other flow has to wait while one of them waits for a mirror, for example.
LIGHT = {"check", "settings", "download"}


@dataclass(frozen=True)
class Share:
    """What one stage takes while it runs."""

    cores: int = 1
    gpus: int = 0


def shares(widths: Mapping[str, int], workers: int, params: Params, gpus: int) -> dict[str, Share]:
    """By stage. Stages that can run side by side divide the cores among them, and one that runs alone has them all;
    but the threads of a training are given, since its result depends on them.

    Args:
        widths: how many stages can run at the same time as each one, itself included.
        workers: stages at the same time, at most.
        gpus: of this machine.
    """
    cores = hardware.cores()
    found = {}
    for stage, wide in widths.items():
        group, _, member = stage.partition("@")
        on_gpu = bool(gpus) and params.training.accelerator != "cpu" and group in ON_GPU
        share = max(1, cores // min(workers, wide))
        if group == "train" and member in params.members and not on_gpu:
            processes = params.training.devices if params.training.strategy == "ddp" else 1
            share = max(share, processes * params.settings(member)["threads"])
        devices = min(params.training.devices, gpus) if group == "train" else 1
        found[stage] = Share(share, devices if on_gpu else 0)
    return found


def kept_from_other_flows(stage: str, share: Share) -> int:
    """How many cores stages of other flows must leave alone. One on GPUs has them to itself by their slots, and
    needs little else."""
    return 0 if share.gpus or stage.partition("@")[0] in LIGHT else share.cores


class Room:
    """What the running stages leave free."""

    def __init__(self, shares: Mapping[str, Share], workers: int, gpus: int) -> None:
        self.shares = shares
        self.workers = workers
        # More workers than cores are the user's wish.
        self.cores = max(workers, hardware.cores())
        self.gpus = gpus
        self.running: set[str] = set()

    def choose(self, ready: Iterable[str]) -> list[str]:
        """The stages among those that are ready, in their order, which can start now; they count as running."""
        chosen = []
        for stage in ready:
            if self.fits(self.shares[stage]):
                self.running.add(stage)
                chosen.append(stage)
        return chosen

    def fits(self, share: Share) -> bool:
        if not self.running:  # a training may be given more threads than there are cores
            return True
        taken = [self.shares[stage] for stage in self.running]
        return (
            len(taken) < self.workers
            and sum(other.cores for other in taken) + share.cores <= self.cores
            and sum(other.gpus for other in taken) + share.gpus <= self.gpus
        )

    def leave(self, stage: str) -> None:
        self.running.discard(stage)
