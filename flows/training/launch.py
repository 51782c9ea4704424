"""Which processes this command has to start, where several divide each mini-batch (`training.strategy: ddp`).

Those are all of its node, or a single one if torchrun or srun starts one command per process.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from flows.params.sections import Training
from flows.project.errors import InputError, counted

# Names of interactive SLURM jobs, in which a person types the commands. Lightning goes by the same names.
INTERACTIVE = ("bash", "interactive")
BY_HAND = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


@dataclass(frozen=True)
class Launch:
    """The processes of a training, and those that this command starts.

    Attributes:
        by: the launcher: "torchrun" or "srun", which start one command per process, or "" if this command starts all
            processes of its node.
        devices, nodes: number of processes per node, and of nodes.
        local_ranks: ranks on this node of the processes that this command starts.
        leads: whether rank 0 is among them. Only the command that leads writes files and logs to MLflow.
        variables: environment variables of each process for Lightning's plugins, beside LOCAL_RANK.
    """

    by: str
    devices: int
    nodes: int
    local_ranks: tuple[int, ...]
    leads: bool
    variables: Mapping[str, str]


def launch(training: Training) -> Launch | None:
    """The processes to start; None if each replica trains in one process.

    Raises:
        InputError: torchrun, SLURM or the environment disagrees with params.yaml.
    """
    by = launcher()
    devices, nodes = training.devices, training.num_nodes
    if by:
        agree(by, training)
    if training.processes == 1:
        return None
    if by == "torchrun":
        return Launch(by, devices, nodes, (whole_number("LOCAL_RANK"),), whole_number("RANK") == 0, {})
    if by == "srun":
        return Launch(by, devices, nodes, (whole_number("SLURM_LOCALID"),), whole_number("SLURM_PROCID") == 0, {})
    ranks = tuple(range(devices))
    if nodes == 1:
        return Launch("", devices, 1, ranks, True, {"NODE_RANK": "0"})
    if missing := [name for name in BY_HAND if name not in os.environ]:
        raise InputError(
            f"params.yaml: training.num_nodes is {nodes}, so start this on every node: by torchrun or srun, or by hand "
            f"with {', '.join(BY_HAND)} set, of which {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not"
        )
    node = whole_number("NODE_RANK")
    if node >= nodes:
        raise InputError(f"NODE_RANK is {node}, but with training.num_nodes {nodes} the nodes are 0 to {nodes - 1}")
    return Launch("", devices, nodes, ranks, node == 0, {name: os.environ[name] for name in BY_HAND})


def launcher() -> str:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    # The script of a job has no step, or one whose id is near 2**32.
    step = os.environ.get("SLURM_STEP_ID", "")
    in_step = step.isdecimal() and int(step) < 2**31
    return "srun" if in_step and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE else ""


def agree(by: str, training: Training) -> None:
    """Raises InputError if the launcher started another number of processes than params.yaml says."""
    if by == "torchrun":
        processes, here = whole_number("WORLD_SIZE"), whole_number("LOCAL_WORLD_SIZE")
        how = "torchrun --nnodes {} --nproc-per-node {}"
    else:
        processes, here = whole_number("SLURM_NTASKS"), whole_number("SLURM_NTASKS_PER_NODE", "0")
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


def whole_number(name: str, default: str | None = None) -> int:
    """An environment variable as a whole number. Raises InputError if it is not one."""
    given = os.environ.get(name, default)
    if given is None or not given.isdecimal():
        raise InputError(f"{name} is {given!r}, but has to be a whole number")
    return int(given)
