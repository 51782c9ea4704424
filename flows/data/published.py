"""Published datasets, which torchvision decodes from verified archives: MNIST, Fashion-MNIST, CIFAR-10."""

import gzip
import hashlib
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import numpy as np

from flows.data import fetch, source_images
from flows.project import paths
from flows.project.errors import InputError
from flows.untrusted import masking


def mnist(test: str, dataset: str = "mnist", reader: str = "MNIST") -> source_images.Images:
    """28×28×1, 60,000 + 10,000 images."""
    source = source_images.describe(dataset)
    archives = [fetch.Archive(**entry) for entry in source["archives"]]
    with workspace() as scratch:
        for archive in archives:
            lay_out(scratch, archive.path.removesuffix(".gz"), gzip.decompress(fetch.read(archive)))
        (train_images, train_labels), (test_images, test_labels) = decode(reader, scratch)
    return source_images.Images(
        train_images[..., None], train_labels, test_images[..., None], test_labels, source["class_names"],
        [origin(archive, archive) for archive in archives],
    )  # fmt: skip


def fashion_mnist(test: str) -> source_images.Images:
    """28×28×1, 60,000 + 10,000 images."""
    return mnist(test, "fashion_mnist", "FashionMNIST")


def cifar10(test: str) -> source_images.Images:
    """32×32×3, 50,000 + 10,000 images."""
    source = source_images.describe("cifar10")
    whole = fetch.Archive(**source["archives"][0])
    parts = [fetch.Archive(**entry) for entry in source["members"]]
    with workspace() as scratch:
        for part, content in cifar10_files(whole, parts):
            lay_out(scratch, part.path, content)
        images, labels = decode_cifar10(scratch)
    at = 50_000
    return source_images.Images(
        images[:at], labels[:at], images[at:], labels[at:], source["class_names"],
        [origin(part, whole) for part in parts],
    )  # fmt: skip


def cifar10_files(whole: fetch.Archive, parts: list[fetch.Archive]) -> Iterator[tuple[fetch.Archive, bytes]]:
    """The files of CIFAR-10: unpacked, as most torchvision data folders have them, or else from the archive."""
    if not fetch.cache_file(whole).is_file():
        try:
            for part in parts:
                yield part, fetch.read(part)
            return
        except fetch.Absent:
            pass
    with fetch.stream(whole) as archive:
        yield from members(archive, parts)


def workspace() -> tempfile.TemporaryDirectory:
    """A private temporary folder for one decoding.

    torchvision reads files by name, and unpickles CIFAR's. In this folder they are exactly the bytes that were
    verified, whatever happens to a mirror meanwhile.
    """
    paths.state_folder().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="decode-", dir=paths.state_folder())


def lay_out(scratch: str, path: str, content: bytes) -> None:
    file = Path(scratch, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def decode(reader: str, scratch: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(images, labels) of the training split and of the test split."""
    from torchvision import datasets

    splits = [getattr(datasets, reader)(scratch, train=train, download=False) for train in (True, False)]
    return [(np.ascontiguousarray(split.data), np.asarray(split.targets, np.int64)) for split in splits]


def decode_cifar10(scratch: str) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels), the training split first, then the test split."""
    from torchvision.datasets import CIFAR10

    images, labels = np.empty((60_000, 32, 32, 3), np.uint8), np.empty(60_000, np.int64)
    at = 0
    # One file at a time: torchvision needs three times the size of the training split while it joins it.
    for file in (*CIFAR10.train_list, *CIFAR10.test_list):
        batch = type("Batch", (CIFAR10,), {"train_list": [file], "test_list": []})(scratch)
        here = slice(at, at + len(batch))
        images[here], labels[here] = batch.data, batch.targets
        at = here.stop
    return images, labels


def origin(file: fetch.Archive, published: fetch.Archive) -> dict:
    return {
        "file": file.path,
        "from": published.url and masking.address(published.url),
        "bytes": file.bytes,
        "sha256": file.sha256,
    }


def members(packed: BufferedReader, parts: list[fetch.Archive]) -> Iterator[tuple[fetch.Archive, bytes]]:
    """The wanted files of a .tar.gz, each verified. Nothing is unpacked to disk, so no name can lead elsewhere."""
    wanted = {part.path: part for part in parts}
    try:
        with tarfile.open(fileobj=packed, mode="r|gz") as archive:
            for entry in archive:
                if entry.name not in wanted:
                    continue
                part = wanted.pop(entry.name)
                if not entry.isreg() or entry.size != part.bytes:
                    raise InputError(f"{part.path} in the archive is no file of {part.bytes:,} bytes")
                content = archive.extractfile(entry)
                found = content.read() if content else b""
                if hashlib.sha256(found).hexdigest() != part.sha256:
                    raise InputError(f"{part.path} in the archive has not the SHA-256 {part.sha256}")
                yield part, found
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise InputError(f"the archive cannot be unpacked: {error}") from None
    if wanted:
        raise InputError(f"the archive lacks {', '.join(sorted(wanted))}")
