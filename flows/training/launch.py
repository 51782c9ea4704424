"""Which of the processes that divide each mini-batch among them (`training.strategy: ddp`) this command has to start:
those of its node, or, where torchrun or srun has started one command for each of them, its own.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from flows.params.sections import Training
from flows.project.errors import InputError, counted

# In these jobs of SLURM a person types the commands; Lightning takes their names for the same.
INTERACTIVE = ("bash", "interactive")
BY_HAND = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


@dataclass(frozen=True)
class Launch:
    """The part of this command in a training.

    Attributes:
        by: "torchrun" or "srun", which start a command for each process, or "" where this command starts those of its
            node.
        devices, nodes: processes on each node, and nodes.
        local_ranks: of the processes that it has to start: their numbers on the node.
        leads: whether the first process of all is among them. Only this command writes files and tells MLflow.
        variables: of the environment, for Lightning's plugins to read in each of the processes, beside LOCAL_RANK.
    """

    by: str
    devices: int
    nodes: int
    local_ranks: tuple[int, ...]
    leads: bool
    variables: Mapping[str, str]


def launch(training: Training) -> Launch | None:
    """None where each replica trains in one process.

    Raises:
        InputError: what torchrun, SLURM or the environment says does not agree with params.yaml.
    """
    by = launcher()
    devices, nodes = training.devices, training.num_nodes
    if by:
        agree(by, training)
    if training.processes == 1:
        return None
    if by == "torchrun":
        return Launch(by, devices, nodes, (whole("LOCAL_RANK"),), whole("RANK") == 0, {})
    if by == "srun":
        return Launch(by, devices, nodes, (whole("SLURM_LOCALID"),), whole("SLURM_PROCID") == 0, {})
    ranks = tuple(range(devices))
    if nodes == 1:
        return Launch("", devices, 1, ranks, True, {"NODE_RANK": "0"})
    if missing := [name for name in BY_HAND if name not in os.environ]:
        raise InputError(
            f"params.yaml: training.num_nodes is {nodes}, so start this on every node: by torchrun or srun, or by hand "
            f"with {', '.join(BY_HAND)} set, of which {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not"
        )
    node = whole("NODE_RANK")
    if node >= nodes:
        raise InputError(f"NODE_RANK is {node}, but with training.num_nodes {nodes} the nodes are 0 to {nodes - 1}")
    return Launch("", devices, nodes, ranks, node == 0, {name: os.environ[name] for name in BY_HAND})


def launcher() -> str:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    # A job's script has no step, or one with a number near 2**32.
    step = os.environ.get("SLURM_STEP_ID", "")
    in_step = step.isdecimal() and int(step) < 2**31
    return "srun" if in_step and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE else ""


def agree(by: str, training: Training) -> None:
    """Raises InputError where another number of processes was started than params.yaml wants."""
    if by == "torchrun":
        processes, here = whole("WORLD_SIZE"), whole("LOCAL_WORLD_SIZE")
        how = "torchrun --nnodes {} --nproc-per-node {}"
    else:
        processes, here = whole("SLURM_NTASKS"), whole("SLURM_NTASKS_PER_NODE", "0")
        how = "srun --nodes={} --ntasks-per-node={}"
    if processes == training.processes == 1:
        return
    started = f"{by} started {counted(processes, 'process', 'processes')}"
    if training.processes == 1:
        raise InputError(
            f"{started}, but by params.yaml a replica trains in one: to divide its mini-batches among them, set "
            "training.strategy to ddp, and training.devices and training.num_nodes"
        )
    if (processes, here) != (training.processes, training.devices):
        raise InputError(
            f"{started}, {here or 'an unsaid number of them'} on this node, but params.yaml "
            f"has training.devices {training.devices} and training.num_nodes {training.num_nodes}: start them with "
            f"{how.format(training.num_nodes, training.devices)}"
        )


def whole(name: str, default: str | None = None) -> int:
    """A variable of the environment as a number. Raises InputError where it is none."""
    given = os.environ.get(name, default)
    if given is None or not given.isdecimal():
        raise InputError(f"{name} is {given!r}, but has to be a whole number")
    return int(given)
