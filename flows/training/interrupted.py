"""Interrupted trainings: whether one can be resumed, its lock, and when it is deleted."""

import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.graph import code_digest
from flows.project import file_io
from flows.project.errors import InputError

# How long an interrupted training is kept, once the member has been trained with another recipe.
KEPT_DAYS = 30


def fingerprint(*parts: object) -> str:
    """16 hex digits of the SHA-256 of all that a result depends on: `parts` and the code of train.

    An interrupted training with another fingerprint cannot be resumed.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode())
    digest.update(code_digest.digest("train").encode())
    return digest.hexdigest()[:16]


class Clock:
    """Counts seconds of training, including those of interrupted runs, in a file beside the checkpoints."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.before = file_io.read_or_anew(file, lambda kept: float(kept["seconds"]), 0.0)
        self.started = time.perf_counter()

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def keep(self) -> None:
        file_io.write_json(self.file, {"seconds": self.seconds()})


def delete_old(unfinished: Path) -> None:
    """Deletes interrupted trainings of this member, with other recipes, that are older than KEPT_DAYS."""
    for work in unfinished.iterdir():
        if time.time() - work.stat().st_mtime > KEPT_DAYS * 86400:
            shutil.rmtree(work)
    with suppress(OSError):  # the folder is not empty
        unfinished.rmdir()


@contextmanager
def training_lock(unfinished: Path) -> Iterator[None]:
    """Holds the lock on the training of one member. Raises InputError if another process holds it."""
    from filelock import FileLock, Timeout

    unfinished.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(unfinished.with_name(f"{unfinished.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        member, dataset = unfinished.name, unfinished.parent.name
        raise InputError(f"{member} is being trained on {dataset} by another process: wait for it") from None
    try:
        yield
    finally:
        lock.release()
