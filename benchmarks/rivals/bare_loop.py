"""The limit for one network: a loop in bare PyTorch over tensors in memory, written for speed alone.

Images are normalised once; fused optimizer, autocast, channels_last. It logs and saves nothing.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import aside


def mlp(shape, classes, hidden, dropout):
    layers, features = [nn.Flatten()], shape[0] * shape[1] * shape[2]
    for size in hidden:
        layers += [nn.Linear(features, size), nn.ReLU(), nn.Dropout(dropout)]
        features = size
    return nn.Sequential(*layers, nn.Linear(features, classes))


def cnn(shape, classes, channels, hidden, dropout):
    """Five convolutions, two poolings, two fully connected layers."""
    height, width, inputs = shape
    layers = []
    for number, outputs in enumerate(channels):
        size = 5 if number < 2 else 3
        layers += [nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.ReLU()]
        if number < 2:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        inputs = outputs
    layers += [nn.Flatten(), nn.Linear(inputs * height * width, hidden), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))


NETWORKS = {"mlp": mlp, "cnn": cnn}


def network(recipe):
    """The function that builds a recipe's network, and the sizes that it takes."""
    sizes = dict(recipe["network"])
    if sizes.pop("batch_norm", False):
        raise ValueError("the bare loop has no batch norm")
    return NETWORKS[sizes.pop("name")], sizes


def initialize(layer):
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def load(folder, split, mean, std, device):
    images = torch.from_numpy(np.load(Path(folder) / f"{split}_images.npy")).float() / 255
    images = ((images - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)  # channels_last in memory
    return images.to(device), torch.from_numpy(np.load(Path(folder) / f"{split}_labels.npy")).to(device)


def prepare(settings: dict):
    device = torch.device("cuda" if settings["accelerator"] == "gpu" else "cpu")
    torch.set_num_threads(settings["threads"])
    stored = [settings[key] for key in ("mean", "std")]
    images, labels = load(settings["folder"], "train", *stored, device)
    held_out_images, held_out_labels = load(settings["folder"], "held_out", *stored, device)
    recipe = settings["recipe"]
    build, sizes = network(recipe)

    def train(seed: int, precision: str) -> float:
        """The accuracy on the held-out images after the last epoch."""
        torch.manual_seed(seed)
        model = build(settings["shape"], settings["classes"], **sizes, dropout=recipe["dropout"]).apply(initialize)
        model = model.to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe["optimizer"]["lr"], fused=True)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
        for _ in range(settings["epochs"]):
            model.train()
            for index in torch.randperm(len(images), device=device).split(settings["batch_size"]):
                with autocast:
                    logits = model(images[index])
                loss = F.cross_entropy(logits.float(), labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.inference_mode(), autocast:
                hits = sum(
                    (model(batch).argmax(1) == labels).sum()
                    for batch, labels in zip(held_out_images.split(1000), held_out_labels.split(1000))
                )
        return hits.item() / len(held_out_labels)

    return train


if __name__ == "__main__":
    aside.serve(prepare)
