"""Trains several small networks at once by PyTorch's own means: `torch.func.vmap` over stacked parameters, and a CUDA
stream for each network."""

import copy
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from lightning_modules import optimizers
from lightning_modules.images import Images


class ByVmap:
    """As in https://docs.pytorch.org/tutorials/intermediate/ensembling.html, with gradients and one optimizer for all.

    Args:
        networks: of one shape, without layers that draw random numbers.
        optimizer: see `optimizers.build`.
        autocast: gives the context of the forward pass.
    """

    def __init__(self, networks: list[nn.Module], images: Images, optimizer: dict, autocast: Callable) -> None:
        self.images, self.autocast = images, autocast
        self.parameters, self.buffers = stack_module_state(networks)
        skeleton = copy.deepcopy(networks[0]).to("meta")
        self.optimizer = optimizers.build(optimizer, self.parameters.values())

        def loss(parameters: dict, buffers: dict, batch: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(skeleton, (parameters, buffers), (batch,)).float(), labels)

        self.gradients = vmap(grad(loss))

    def step(self, index: Tensor) -> None:
        """Takes a step of each network.

        Args:
            index: networks × N positions of images.
        """
        batch, labels = self.images.batch(index)
        values = {name: parameter.detach() for name, parameter in self.parameters.items()}
        with self.autocast():
            found = self.gradients(values, self.buffers, batch, labels)
        for name, parameter in self.parameters.items():
            parameter.grad = found[name]
        self.optimizer.step()

    def state(self, number: int) -> dict[str, Tensor]:
        return {name: value[number].detach() for name, value in (self.parameters | self.buffers).items()}


class ByStreams:
    """Runs each network in a stream of its own, so that a GPU can run the kernels of several at a time."""

    def __init__(self, networks: list[nn.Module], images: Images, optimizer: dict, autocast: Callable) -> None:
        self.networks, self.images, self.autocast = networks, images, autocast
        self.optimizers = [optimizers.build(optimizer, network.parameters()) for network in networks]
        on_gpu = images.device.type == "cuda"
        self.streams = [torch.cuda.stream(torch.cuda.Stream()) if on_gpu else nullcontext() for _ in networks]

    def step(self, index: Tensor) -> None:
        for own, network, optimizer, stream in zip(index, self.networks, self.optimizers, self.streams):
            with stream:
                batch, labels = self.images.batch(own)
                with self.autocast():
                    logits = network(batch)
                F.cross_entropy(logits.float(), labels).backward()
                optimizer.step()
                optimizer.zero_grad()

    def state(self, number: int) -> dict[str, Tensor]:
        return self.networks[number].state_dict()
