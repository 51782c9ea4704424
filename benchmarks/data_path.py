"""How long it takes to feed an epoch of 60,000 images of 28×28: ours against torchvision's dataset and a DataLoader.

Both give the same normalised float32 batches of 128 in the same order, which is checked first. Images are random, in
files like MNIST's, so that no network is needed: the time does not depend on what they show.
"""

import struct
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import in_turn

COUNT, SIDE, BATCH = 60_000, 28, 128
MEAN, STD = [0.1307], [0.3081]
GOAL = 20.0


def write_like_mnist(root: Path, training: tuple, held_out: tuple) -> None:
    """Writes images (uint8, N×H×W or N×H×W×1) and labels of both splits as files of torchvision's MNIST dataset."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, (images, labels) in (("train", training), ("t10k", held_out)):
        head = struct.pack(">4i", 2051, *images.shape[:3])
        (raw / f"{split}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">2i", 2049, len(labels))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(head + labels.astype(np.uint8).tobytes())


def measure(count: int = COUNT) -> list[dict]:
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    from lightning_modules.images import Images

    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, SIDE, SIDE), np.uint8)
    labels = random.integers(0, 10, count, np.uint8)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_like_mnist(Path(folder), (pixels, labels), (pixels, labels))
        to_tensor = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        shift = [transforms.RandomCrop(SIDE, padding=SIDE // 8)]
        for name, augment, transform, workers in (
            ("plain", "none", to_tensor, 0),
            ("plain, 2 workers", "none", to_tensor, 2),
            ("random shift", "shift", shift + to_tensor, 0),
        ):
            dataset = datasets.MNIST(folder, transform=transforms.Compose(transform))
            ours = Images(pixels[..., None], labels.astype(np.int64), MEAN, STD, augment)
            order = torch.arange(count)
            usual = DataLoader(dataset, batch_size=BATCH, num_workers=workers)
            if augment == "none":
                batch, target = next(iter(usual))
                own, own_target = ours.batch(order[:BATCH])
                assert torch.allclose(batch, own, atol=1e-5)
                assert torch.equal(target, own_target)

            def feed(ours=ours, order=order) -> None:
                ours.begin_epoch(0)
                for index in order.split(BATCH):
                    ours.batch(index)

            def feed_usual(usual=usual) -> None:
                for _ in usual:
                    pass

            times = in_turn(feed, feed_usual)
            rows.append(
                {
                    "what": f"data path, {name}: an epoch of {count:,} images, against torchvision + DataLoader",
                    "ours": f"{times['ours']:.3f} s",
                    "other": f"{times['other']:.2f} s",
                    "ratio": f"{times['ratio']:.0f} ({times['ratio_min']:.0f} to {times['ratio_max']:.0f})",
                    "goal": f"at least {GOAL:.0f}",
                    "reached": times["ratio"] >= GOAL,
                    "load": times["load"],
                }
            )
    return rows
