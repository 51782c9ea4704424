"""ensembles/<dataset>.json: all that an ensemble is made of, so that it can be registered now or later."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flows.graph import healing
from flows.project import file_io, paths
from flows.project.errors import DamagedError, InputError
from lightning_modules import sealed

ABOUT = ("task", "dtype", "features", "target")  # keys of a dataset's card that say what goes in and what comes out


@dataclass(frozen=True)
class Record:
    """An ensemble.

    Attributes:
        method: as `names.label` writes it.
        fitted: what it fitted on validation, see `ensembles.Combiner`: nested lists by name.
        networks: the SHA-256 of each replica's weights, by member.
        shape: of an image: height, width, channels.
        class_names: in the order of the probabilities.
        test_sha256: the digest of the pinned test images and labels.
        metrics: to log with the model.
        about: what else the data's card says of `ABOUT`; records of older versions have nothing of it.
    """

    dataset: str
    method: str
    fitted: Mapping[str, list]
    networks: Mapping[str, list[str]]
    shape: list[int]
    class_names: list[str]
    test_sha256: str
    metrics: Mapping[str, float]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of all that makes the ensemble, by which the registry knows it."""
        networks = [digest for replicas in self.networks.values() for digest in replicas]
        fitted = {"weights": None, **self.fitted}
        made_of = {"method": self.method, **fitted, "networks": networks, "test": self.test_sha256}
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()

    @property
    def size(self) -> int:
        """The number of networks."""
        return sum(map(len, self.networks.values()))


def write(record: Record) -> None:
    file_io.write_json(paths.ensemble_file(record.dataset), sealed.sealed(asdict(record)))


def read(dataset: str) -> Record:
    """The record of a dataset's ensemble. Raises InputError if there is none, or the file is damaged."""
    file = paths.ensemble_file(dataset)
    try:
        needed = [name for name in Record.__dataclass_fields__ if name != "about"]
        found = sealed.opened(file_io.read_json(file, *needed), paths.shown(file))
    except FileNotFoundError:
        raise InputError(f"{paths.shown(file)} does not exist: run dvc repro ensemble") from None
    except DamagedError as error:
        raise file_io.damaged(file, error.reason, healing.heal(file, "ensemble")) from None
    return Record(**found)
