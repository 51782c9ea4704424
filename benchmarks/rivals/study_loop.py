"""A training of a study as a bare PyTorch loop: tensors in memory, torch.optim with its defaults, no DataLoader.

It logs and saves nothing, and keeps the last epoch's weights, not the best one's.
"""

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import aside
from benchmarks.rivals.bare_loop import load

OPTIMIZERS = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}


def mlp(features, hidden, classes):
    """Fully connected layers with ReLU, initialised after He."""
    layers = []
    for size in hidden:
        layers += [nn.Linear(features, size), nn.ReLU()]
        features = size
    layers.append(nn.Linear(features, classes))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def tensors(settings, split):
    """Normalised images, N×features, and labels."""
    images, labels = load(settings["folder"], split, settings["mean"], settings["std"], torch.device("cpu"))
    return images.flatten(1).contiguous(), labels


def prepare(settings: dict):
    torch.set_num_threads(settings["threads"])
    (images, labels), (held_out_images, held_out_labels) = (tensors(settings, split) for split in ("train", "held_out"))

    def train(seed: int, optimizer: str) -> float:
        """The accuracy on the held-out images after the last epoch."""
        torch.manual_seed(seed)
        model = mlp(images.shape[1], settings["hidden"], settings["classes"])
        steps = OPTIMIZERS[optimizer](model.parameters(), lr=settings["rates"][optimizer])
        for _ in range(settings["epochs"]):
            for index in torch.randperm(len(images)).split(settings["batch_size"]):
                loss = F.cross_entropy(model(images[index]), labels[index])
                steps.zero_grad()
                loss.backward()
                steps.step()
            with torch.inference_mode():
                accuracy = (model(held_out_images).argmax(1) == held_out_labels).float().mean()
        return accuracy.item()

    return train


if __name__ == "__main__":
    aside.serve(prepare)
