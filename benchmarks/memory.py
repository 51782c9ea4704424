"""Peak memory of each stage for its images, relative to their decoded size; and for libraries and networks.

A stage's process tree is sampled all the time: its own memory, and the pages of the project's files that it has mapped.
Both are proportional shares, so that memory shared by forked processes counts once. Three runs of a stage are compared:

* with all images;
* with 4,000 of them: the rest of its memory does not grow with their number (libraries, networks, optimizers, the
  activations of a batch). What all images add to the peak is divided by what they add to the decoded size;
* with images of two pixels and tiny networks: the memory of the libraries. For the download stage, which decodes all
  images of an archive, it is the memory after loading torchvision.

Processes are read one after another, so that pages which one of them maps meanwhile may count twice: the figures err
upwards. MNIST and CIFAR-10 are read from TRAINYARD_MIRROR; without it the images are random, of the same shapes, and
the download stage is left out.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import yaml

from benchmarks.pipeline import copy
from flows.data import dataset as dataset_files
from flows.data import plain_arrays
from flows.data.fetch import MIRROR

INTERVAL = 0.02  # seconds between two samples
GOAL = 2.0
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
COUNTS = {"mnist": (60_000, 10_000), "cifar10": (50_000, 10_000)}  # training and test images
FEW = {"train": 3000, "test": 1000, "validation": 1000}  # images: at least a whole batch of each split
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
REPLICAS = 2
PER_PARAMETER = 5  # floats of four bytes: the weight, its gradient, AdamW's two moments, and the best epoch's weight
STAGES = {
    "download": ("-m", "flows.download"),
    "train": ("-m", "flows.train", "mlp"),
    "evaluate": ("-m", "flows.evaluate"),
    "ensemble": ("-m", "flows.ensemble"),
}
# torchvision does not read images of two pixels, so the comparison only loads torchvision.
LIBRARIES = STAGES | {"download": ("-c", "import flows.download, torchvision.datasets")}


@dataclass(frozen=True)
class Peak:
    """Bytes by kind, at the moment when their sum was largest."""

    own: int = 0
    mapped: int = 0

    @property
    def all(self) -> int:
        return self.own + self.mapped


def share(process: int, folder: Path) -> tuple[int, int]:
    """Proportional shares, in bytes, of a process's own memory and of its mapped pages of files in a folder.

    Raises:
        OSError: the process has ended.
    """
    proc = Path(f"/proc/{process}")
    own = mapped = 0
    for line in (proc / "smaps_rollup").read_text().splitlines():
        if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
            own += int(line.split()[1]) * 1024
    name = f" {folder}/"
    if name in (proc / "maps").read_text():
        inside = False
        for line in (proc / "smaps").read_text().splitlines():
            if line[0] in "0123456789abcdef":
                inside = name in line
            elif inside and line.startswith("Pss:"):
                mapped += int(line.split()[1]) * 1024
    return own, mapped


def peak(folder: Path, *arguments: str) -> Peak:
    """The peak of `python ARGUMENTS`, run in `folder`, with all processes that it starts.

    Raises:
        CalledProcessError: it failed.
    """
    command = [sys.executable, *arguments]
    # A server that does not answer: MLflow's memory is not measured here, and a new store takes long to open.
    env = {**os.environ, "TRAINYARD_JOBS": str(REPLICAS), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    highest = Peak()
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT)
        while child.poll() is None:
            shares = []
            with suppress(psutil.Error):
                root = psutil.Process(child.pid)
                for process in (root, *root.children(recursive=True)):
                    with suppress(OSError):
                        shares.append(share(process.pid, folder))
            now = Peak(sum(own for own, _ in shares), sum(mapped for _, mapped in shares))
            highest = max(highest, now, key=lambda found: found.all)
            time.sleep(INTERVAL)
        if child.returncode:
            output.seek(0)
            raise subprocess.CalledProcessError(child.returncode, command, output.read())
    return highest


def project(folder: Path, dataset: str, member: str, **recipe) -> Path:
    """Makes a copy of this project with one member of two replicas, trained for one epoch."""
    folder.mkdir()
    copy(folder)
    file = folder / "params.yaml"
    params = yaml.safe_load(file.read_text(encoding="utf-8"))
    params["dataset"] = dataset
    params["data"][dataset]["epochs"] = 1
    params["members"] = {member: params["members"][member] | {"replicas": REPLICAS} | recipe}
    file.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return folder


def random_images(dataset: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in zip(("train", "test"), COUNTS[dataset]):
        arrays[f"{split}_images"] = random.integers(0, 256, (count, *SHAPES[dataset]), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 10
    return arrays


def write(folder: Path, dataset: str, arrays: dict[str, np.ndarray], validation: int) -> None:
    """Writes data/<dataset>/. The last `validation` training images are the validation split."""
    train, channels = len(arrays["train_labels"]), SHAPES[dataset][-1]
    card = {
        "name": dataset,
        "shape": list(SHAPES[dataset]),
        "counts": {"train": train - validation, "validation": validation, "test": len(arrays["test_labels"])},
        "class_names": [str(number) for number in range(10)],
        "mean": [0.5] * channels,
        "std": [0.3] * channels,
        "test_sha256": dataset_files.digest_of_test_data(arrays["test_images"], arrays["test_labels"]),
    }
    indices = np.arange(train - validation, train)
    plain_arrays.write(folder / "data" / dataset, arrays | {"validation_indices": indices}, card, [])


def size(arrays: dict[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays.values())


def megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB"


def row(what: str, added: Peak, decoded: int) -> dict:
    ratio = added.all / decoded
    return {
        "what": f"peak memory, {what}, against their decoded size",
        "ours": f"{megabytes(added.all)} ({megabytes(added.own)} own, {megabytes(added.mapped)} mapped)",
        "other": megabytes(decoded),
        "ratio": f"{ratio:.2f}",
        "goal": f"at most {GOAL:g}",
        "reached": ratio <= GOAL,
    }


def plain(what: str, ours: str, other: str = "") -> dict:
    """A row without a goal."""
    return {"what": f"peak memory, {what}", "ours": ours, "other": other}


def more(large: Peak, small: Peak) -> Peak:
    return Peak(large.own - small.own, large.mapped - small.mapped)


def of_networks(few: Path, dataset: str, member: str, added: Peak) -> dict:
    card = json.loads((few / "models" / dataset / member / "member.json").read_text(encoding="utf-8"))
    counted = PER_PARAMETER * 4 * card["parameters"] * REPLICAS
    what = f"train: {REPLICAS} networks {member} on {dataset} and their batches, of it weights, gradients and optimizer"
    return plain(what, megabytes(added.all), megabytes(counted))


def measure() -> list[dict]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        bare = project(folder / "libraries", "blobs", "mlp", network={"name": "mlp", "hidden": [2]})
        peak(bare, *STAGES["download"])
        libraries = {stage: peak(bare, *command) for stage, command in LIBRARIES.items()}
        rows = [plain(f"{stage}: libraries", megabytes(taken.all)) for stage, taken in libraries.items()]
        for dataset in SHAPES:
            rows += of_dataset(folder, dataset, libraries)
    return rows


def of_dataset(folder: Path, dataset: str, libraries: dict[str, Peak]) -> list[dict]:
    full, few = project(folder / dataset, dataset, "mlp"), project(folder / f"few-{dataset}", dataset, "mlp")
    rows = []
    if os.environ.get(MIRROR):
        added = more(peak(full, *STAGES["download"]), libraries["download"])
        data = full / "data" / dataset
        arrays = {name: np.load(data / f"{name}.npy") for name in ARRAYS}
        rows.append(row(f"download: all images of {dataset}", added, size(arrays)))
    else:
        arrays = random_images(dataset)
        write(full, dataset, arrays, len(arrays["train_labels"]) // 10)
    some = {name: array[: FEW[name.partition("_")[0]]] for name, array in arrays.items()}
    decoded = size(arrays) - size(some)
    write(few, dataset, some, FEW["validation"])
    for stage, command in STAGES.items():
        if stage == "download":
            continue
        small = peak(few, *command)
        rows.append(row(f"{stage}: the images of {dataset}", more(peak(full, *command), small), decoded))
        if stage == "train":
            rows.append(of_networks(few, dataset, "mlp", more(small, libraries["train"])))
    convolutions = project(folder / f"cnn-{dataset}", dataset, "cnn")
    write(convolutions, dataset, some, FEW["validation"])
    added = more(peak(convolutions, "-m", "flows.train", "cnn"), libraries["train"])
    return [*rows, of_networks(convolutions, dataset, "cnn", added)]
