"""Several processes that train one network: each mini-batch is divided among them, and the gradients are summed.

What comes out is what one process would learn from the whole mini-batches, up to rounding: all draw the same random
numbers, for the whole mini-batch, and each takes its part of them. Batch normalisation alone takes its statistics
from a process's own part, as it does under torch's DistributedDataParallel; the running ones are the first process's.
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

# How the processes of a training find each other, by who started them; "" is this project itself.
ENVIRONMENTS = {
    "": environments.LightningEnvironment,
    "torchrun": environments.TorchElasticEnvironment,
    "srun": lambda: environments.SLURMEnvironment(auto_requeue=False),
}
# How long a process waits for another, be it to start or to finish its part.
PATIENCE = timedelta(minutes=10)


class SummedStrategy(pl.strategies.DDPStrategy):
    """Lightning's DDP without DistributedDataParallel around the module.

    That averages gradients once per call of the module, of which a block of mini-batches is one, waits for ever for
    those of parameters that are not trained any more, and gives the parts of an uneven mini-batch the same weight.
    """

    def configure_ddp(self) -> None:
        pass


class EndsOnSigterm(pl.Callback):
    """Lightning's own handler would broadcast in the midst of a sum, and wait for processes that are gone."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class ProcessGroup:
    """This process among those that train together.

    Args:
        launcher: who started them, a name of ENVIRONMENTS. It has set the variables that Lightning's plugin of that
            name reads.
        accelerator: "cpu" or "gpu".
        devices, nodes: processes on each node, and nodes.
        meeting: a file that is not there yet, by which the processes of one node find each other. None: at the address
            and port that the variables name, where anybody who reaches them could take part.

    Raises:
        InputError: the processes differ in their accelerator.
        UnavailableError: they have not all come within PATIENCE.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        local_rank: number of this process and of its device on its node.
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
        except RuntimeError as error:  # of each kind of store another one
            raise UnavailableError(
                f"the {self.size} processes that train together have not all come to {where} within "
                f"{PATIENCE.total_seconds():g} s: {sentence(error)}"
            ) from None

    def store(self) -> distributed.Store:
        found = distributed.rendezvous("env://", rank=self.rank, world_size=self.size, timeout=PATIENCE)
        return next(iter(found))[0]

    def agree(self, store: distributed.Store) -> None:
        """Raises InputError where some train on GPUs and others do not: their libraries would wait for each other."""
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
        # torchrun and srun have said so already; the others do not listen.
        environment.set_world_size(self.size)
        environment.set_global_rank(environment.node_rank() * self.devices + environment.local_rank())
        return environment

    def leave(self) -> None:
        distributed.destroy_process_group()

    def for_trainer(self) -> dict[str, Any]:
        """What Lightning's Trainer has to be told. It finds the process group, and starts none."""
        return {
            "devices": self.devices,
            "num_nodes": self.nodes,
            "strategy": SummedStrategy(process_group_backend=self.backend),
            "plugins": [self.environment()],
            "use_distributed_sampler": False,
        }

    def part(self, count: int) -> tuple[int, int]:
        """Where this process's part of `count` things begins and ends; it may be empty where they are few, but for
        that of the first process, whose statistics of batch normalisation are kept."""
        first, end = (-(-rank * count // self.size) for rank in (self.rank, self.rank + 1))
        return first, end

    def told(self, value: Any) -> Any:
        """What the first process gives here, in all of them. Plain types."""
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    def all(self, value: Any) -> list:
        """What each process gives here, by rank."""
        values = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes, in place."""
        distributed.all_reduce(values)
        return values

    def sum_gradients(self, network: nn.Module) -> None:
        """Makes each gradient the sum of those of all processes, in one exchange. Of a process whose part of the
        mini-batch was empty they are zero."""
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
        """Makes them what they are in the first process."""
        for tensor in tensors:
            values = tensor.detach().contiguous()
            distributed.broadcast(values, 0)
            tensor.detach().copy_(values)
