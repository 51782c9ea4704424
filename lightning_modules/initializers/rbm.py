"""Greedy layer-wise pre-training: each hidden layer as a restricted Boltzmann machine on what the one before it makes.

Sources: Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002 (the learning rule); Hinton,
Osindero and Teh, A Fast Learning Algorithm for Deep Belief Nets, 2006 (the layers); Hinton, A Practical Guide to
Training Restricted Boltzmann Machines, 2010 (initial weights; when to sample, and when to take probabilities).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_modules.activations import ACTIVATIONS
from lightning_modules.errors import InputError
from lightning_modules.images import Images
from lightning_modules.regularization.dropout import Dropout

SPREAD = 0.01  # standard deviation of the weights before pre-training


class Machine:
    """A restricted Boltzmann machine of binary units that learns by contrastive divergence with one step (CD-1).

    Args:
        weight: hidden × visible, and hidden: the hidden units' biases. Both are learnt in place.
    """

    def __init__(self, weight: Tensor, hidden: Tensor) -> None:
        self.weight, self.hidden = weight, hidden
        self.visible = weight.new_zeros(weight.shape[1])

    def probabilities(self, visible: Tensor) -> Tensor:
        """That each hidden unit is on: images × hidden, of visible units, images × visible, 0 to 1."""
        return torch.addmm(self.hidden, visible, self.weight.T).sigmoid_()

    def reconstruction(self, hidden: Tensor) -> Tensor:
        """The probability that each visible unit is on, images × visible, of hidden units, images × hidden."""
        return torch.addmm(self.visible, hidden, self.weight).sigmoid_()

    def learn(self, images: Tensor, lr: float, generator: torch.Generator) -> Tensor:
        """One step on a mini-batch, images × visible. Returns its mean squared error of reconstruction.

        Hidden units are sampled where the images drive them. The reconstruction, and all that is measured, are
        probabilities, which have less noise.
        """
        driven = self.probabilities(images)
        noise = torch.rand(driven.shape, generator=generator, device=driven.device)
        again = self.reconstruction((noise < driven).to(driven.dtype))
        believed = self.probabilities(again)
        rate, missing = lr / len(images), images - again
        self.weight.addmm_(driven.T, images, alpha=rate).addmm_(believed.T, again, alpha=-rate)
        self.hidden.add_((driven - believed).sum(0), alpha=rate)
        self.visible.add_(missing.sum(0), alpha=rate)
        return missing.square().mean()


def begin(network: nn.Module) -> None:
    """Sets the weights that pre-training begins with: small ones in the hidden layers, and those of xavier_uniform in
    the last layer, which stays as it is until the network is trained. Biases are zero.

    Raises:
        InputError: `pretrain` does not fit the network.
    """
    plain = (nn.Sequential, nn.Flatten, nn.Linear, Dropout, *ACTIVATIONS.values())
    if other := [layer for layer in network.modules() if not isinstance(layer, plain)]:
        raise InputError(f"initializer rbm trains fully connected layers, and a {type(other[0]).__name__} is none")
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    if any(below.out_features != above.in_features for below, above in pairwise(layers)):
        raise InputError("initializer rbm needs layers that each have as many inputs as the one before has outputs")
    for layer in layers:
        nn.init.normal_(layer.weight, std=SPREAD)
        nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(layers[-1].weight)


@torch.no_grad()
def pretrain(
    state: dict[str, Tensor], images: Images, seed: int, *, epochs: int, lr: float, batch_size: int
) -> list[list[float]]:
    """Trains the hidden layers of a network, from the first to the last, and sets their weights and biases in place.

    The first machine sees intensities between 0 and 1, the others the probabilities of the one below, as sigmoid units
    compute them; with another activation the weights are no more than a beginning. The network sees normalised images
    x = (v - mean) / std, so the first layer gets the weights that compute the same from them:
    W v + b = (W · std) x + (b + W mean).

    Args:
        state: the state_dict of a network that `begin` has set.
        images: the training split; they are seen as they are, without augmentation.
        seed: of the order of the images and of the hidden units' samples.
        epochs, lr, batch_size: of each machine's training.

    Returns:
        For each machine the mean squared error of reconstruction in each epoch.
    """
    weights = [name for name, tensor in state.items() if tensor.dim() == 2]
    generator = torch.Generator(images.device).manual_seed(seed)
    machines: list[Machine] = []
    errors: list[list[float]] = []
    for name in weights[:-1]:
        layer = (state[name], state[f"{name.removesuffix('weight')}bias"])
        machine = Machine(*(tensor.detach().to(images.device, copy=True) for tensor in layer))
        errors.append([])
        for _ in range(epochs):
            total = torch.zeros((), device=images.device)
            for index in torch.randperm(len(images), generator=generator, device=images.device).split(batch_size):
                seen = intensities(images, index)
                for below in machines:
                    seen = below.probabilities(seen)
                total += machine.learn(seen, lr, generator) * len(index)
            errors[-1].append(total.item() / len(images))
        machines.append(machine)
    for name, machine in zip(weights, machines):
        weight, bias = machine.weight, machine.hidden
        if machine is machines[0]:
            pixels = images.height * images.width
            mean, std = (values.repeat_interleave(pixels) for values in (images.mean, images.std.clamp_min(1 / 255)))
            weight, bias = weight * std, bias + weight @ mean
        state[name].copy_(weight)
        state[f"{name.removesuffix('weight')}bias"].copy_(bias)
    return errors


def intensities(images: Images, index: Tensor) -> Tensor:
    """The images at `index` as visible units: N × (C·H·W) between 0 and 1, in the order of flattened N×C×H×W."""
    return images.taken(index).permute(0, 3, 1, 2).flatten(1).float().div_(255)
