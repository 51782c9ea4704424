"""Data-parallel training: several processes divide each mini-batch among themselves and sum their gradients.

The result is that of one process with the whole mini-batches, up to rounding: every process draws the random numbers
of the whole mini-batch and uses those of its own part. The one exception is batch normalisation, whose statistics are
those of a process's own part, as under torch's DistributedDataParallel; its running statistics are rank 0's.
"""

import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lightning_modules.errors import InputError, UnavailableError, sentence
from lightning_modules.lightning import environments, pl

# Lightning's plugin for each launcher, by which the processes find each other; "" is this project itself.
ENVIRONMENTS = {
    "": environments.LightningEnvironment,
    "torchrun": environments.TorchElasticEnvironment,
    "srun": lambda: environments.SLURMEnvironment(auto_requeue=False),
}
# How long a process waits for another one to start, or to finish its part.
PATIENCE = timedelta(minutes=10)


class SummedStrategy(pl.strategies.DDPStrategy):
    """Lightning's DDP strategy without the DistributedDataParallel wrapper.

    The wrapper would average gradients once per call of the module, and a whole block of mini-batches is one call. It
    would wait for ever for the gradients of frozen parameters, and give unequal parts of a mini-batch equal weights.
    """

    def configure_ddp(self) -> None:
        pass


class EndsOnSigterm(pl.Callback):
    """Ends the process on SIGTERM. Lightning's handler would broadcast amid a sum and wait for processes that ended."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class ProcessGroup:
    """The processes that train one network together, as seen from this one.

    Args:
        launcher: a key of ENVIRONMENTS. It has set the environment variables that Lightning's plugin for it reads.
        accelerator: "cpu" or "gpu".
        devices, nodes: number of processes per node, and of nodes.
        meeting: path of a file that does not exist yet, by which the processes of one node find each other. None: they
            meet at the launcher's main address and port, where anybody who can connect could join.

    Raises:
        InputError: the processes differ in their accelerator.
        UnavailableError: not all processes have joined within PATIENCE.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        local_rank: rank of this process on its node, which is also its device's number.
    """

    def __init__(self, launcher: str, accelerator: str, devices: int, nodes: int, meeting: Path | None = None) -> None:
        self.launcher, self.devices, self.nodes, self.size = launcher, devices, nodes, devices * nodes
        environment = self.environment()
        self.rank, self.local_rank = environment.global_rank(), environment.local_rank()
        self.backend = "nccl" if accelerator == "gpu" else "gloo"
        if accelerator == "gpu":
            torch.cuda.set_device(self.local_rank)
        if meeting:
            if sys.platform == "linux":
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else it listens for the network
            where = str(meeting)
        else:
            os.environ["MASTER_ADDR"] = environment.main_address
            os.environ["MASTER_PORT"] = str(environment.main_port)
            where = f"{environment.main_address}:{environment.main_port}"
        try:
            store = distributed.FileStore(str(meeting), self.size) if meeting else self.store()
            store.set_timeout(PATIENCE)
            self.agree(store)
            distributed.init_process_group(
                self.backend, store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE
            )
        except RuntimeError as error:  # each kind of store raises another subclass
            raise UnavailableError(
                f"the {self.size} processes that train together have not all come to {where} within "
                f"{PATIENCE.total_seconds():g} s: {sentence(error)}"
            ) from None

    def store(self) -> distributed.Store:
        found = distributed.rendezvous("env://", rank=self.rank, world_size=self.size, timeout=PATIENCE)
        return next(iter(found))[0]

    def agree(self, store: distributed.Store) -> None:
        """Raises InputError where only some processes use a GPU: NCCL and gloo would wait for each other."""
        store.set(f"trainyard/{self.rank}", self.backend)
        backends = [store.get(f"trainyard/{rank}").decode() for rank in range(self.size)]
        if len(set(backends)) == 1:
            return
        store.set(f"trainyard/{self.rank}/read", "")
        if self.rank == 0:  # the store may end with this process
            with suppress(RuntimeError):
                others = [f"trainyard/{rank}/read" for rank in range(self.size)]
                store.wait(others, timedelta(seconds=20))
        with_gpu = ", ".join(str(rank) for rank, backend in enumerate(backends) if backend == "nccl")
        raise InputError(
            f"of the {self.size} processes that train together only {with_gpu} (counted from 0) found a GPU: with "
            "training.accelerator cpu in params.yaml all do without"
        )

    def environment(self) -> environments.ClusterEnvironment:
        environment = ENVIRONMENTS[self.launcher]()
        # The plugins of torchrun and srun ignore these calls: they read their environment variables.
        environment.set_world_size(self.size)
        environment.set_global_rank(environment.node_rank() * self.devices + environment.local_rank())
        return environment

    def leave(self) -> None:
        distributed.destroy_process_group()

    def for_trainer(self) -> dict[str, Any]:
        """Arguments for Lightning's Trainer, with which it uses this process group and starts none."""
        return {
            "devices": self.devices,
            "num_nodes": self.nodes,
            "strategy": SummedStrategy(process_group_backend=self.backend),
            "plugins": [self.environment()],
            "use_distributed_sampler": False,
        }

    def part(self, count: int) -> tuple[int, int]:
        """This process's part of `count` things: its start, and its end (exclusive).

        With few things it may be empty, but never on rank 0, whose batch normalisation statistics are kept.
        """
        first, end = (-(-rank * count // self.size) for rank in (self.rank, self.rank + 1))
        return first, end

    def told(self, value: Any) -> Any:
        """Broadcasts rank 0's value, of plain types, and returns it on every rank."""
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    def all(self, value: Any) -> list:
        """The values of all processes, by rank."""
        values = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def sum(self, values: Tensor) -> Tensor:
        """Sums a tensor over all processes, in place."""
        distributed.all_reduce(values)
        return values

    def sum_gradients(self, network: nn.Module) -> None:
        """Sums each gradient over all processes, in one exchange. A process whose part was empty adds zeros."""
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        gradients = []
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        summed = self.sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for gradient, values in zip(gradients, summed.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(values.view(gradient.shape))

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites the tensors with rank 0's, in place."""
        for tensor in tensors:
            values = tensor.detach().contiguous()
            distributed.broadcast(values, 0)
            tensor.detach().copy_(values)
