"""The gradient that reaches each layer before the first step: where it vanishes, a network cannot learn."""

from collections.abc import Sequence

import torch

from lightning_modules import initializers, losses, names, networks
from lightning_modules.classifier import epoch_seed
from lightning_modules.images import Images

MOST = 256  # training images whose mean gradient is measured


def norms(recipe: dict, seed: int, shape: Sequence[int], classes: int, images: Images) -> list[float]:
    """The norm of the loss's gradient by the weights of each layer, from the first layer to the last, as a network of
    the recipe is initialised by the seed.

    Args:
        shape: height, width and channels of an image.
        images: the training images.
    """
    torch.manual_seed(seed)
    network = networks.build(recipe, shape, classes)
    networks.prepare(network, images.first)
    initializers.pretrain(network.state_dict(), recipe["initializer"], images, epoch_seed(seed, -1))
    network.eval()  # without dropout: of the network, not of a draw
    index = torch.arange(min(MOST, len(images)), device=images.device)
    loss = losses.build(recipe.get("loss", names.DEFAULTS["loss"]))
    batch, labels = images.batch(index)
    loss(network.to(images.device)(batch).float(), labels).mean().backward()
    return [
        float(parameter.grad.norm())
        for parameter in network.parameters()
        if parameter.ndim > 1 and parameter.grad is not None
    ]
