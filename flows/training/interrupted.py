"""What an interrupted training leaves behind, and who may go on with it."""

import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.graph import code_digest
from flows.project import file_io
from flows.project.errors import InputError

# How long an interrupted training can be gone on with, once the member has been trained by another recipe.
KEPT_DAYS = 30


def fingerprint(*parts: object) -> str:
    """Of everything that a result depends on: work that carries another fingerprint cannot be gone on with."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode())
    digest.update(code_digest.digest("train").encode())
    return digest.hexdigest()[:16]


class Clock:
    """Seconds of training, those of interrupted runs included: kept in a file beside the checkpoints."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.before = file_io.read_or_anew(file, lambda kept: float(kept["seconds"]), 0.0)
        self.started = time.perf_counter()

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def keep(self) -> None:
        file_io.write_json(self.file, {"seconds": self.seconds()})


def forget_old(unfinished: Path) -> None:
    """Drops what other recipes of this member left when they were interrupted, a month ago or more."""
    for work in unfinished.iterdir():
        if time.time() - work.stat().st_mtime > KEPT_DAYS * 86400:
            shutil.rmtree(work)
    with suppress(OSError):  # something is left in it
        unfinished.rmdir()


@contextmanager
def only_one(unfinished: Path) -> Iterator[None]:
    """Holds the lock on the training of one member. Raises InputError where another process has it."""
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
