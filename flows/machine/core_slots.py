"""CPU cores shared by all flows of a user on this machine: a stage waits for cores that stages of other flows use.

Each core has a file in the folder of temporary files, which is locked while the core is used: when a process ends, its
locks are released. Cores are only counted: the system places threads as it likes. A flow that holds all cores may run
as many stages as its user wants.
"""

import contextlib
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flows.machine import hardware

INTERVAL = 0.2  # seconds between two attempts to lock a core
MOMENT = 1.0  # seconds of waiting before it is reported


def folder() -> Path:
    return Path(tempfile.gettempdir()) / f"trainyard-cores-{os.getuid()}"


class Cores:
    """The cores that the stages of one flow use.

    Args:
        closed: when it is set, all waiting ends.
    """

    def __init__(self, closed: threading.Event) -> None:
        self.closed = closed
        self.numbers = hardware.core_numbers()
        self.lock = threading.Lock()  # the stages of this flow are threads
        self.used = 0  # by all stages together; may exceed the cores there are, if the user wants
        self.gathered_for = 0  # cores that the stage whose turn it is wants
        self.held: dict[int, int] = {}  # descriptor of the locked file, by core

    @contextlib.contextmanager
    def hold(self, count: int, say: Callable[[str], None]) -> Iterator[None]:
        """Waits until `count` cores are free, or this flow holds all cores; holds them inside the `with`.

        One stage at a time, over all flows, gathers cores; the others wait for their turn. So a stage that needs many
        gets them, and no two wait for each other.

        Args:
            say: called with a message when the stage has to wait.
        """
        taken = self.take(count)
        if not taken:
            with contextlib.suppress(OSError):  # a full disk, another user's folder: the stage runs anyway
                taken = self.wait(count, say)
        try:
            yield
        finally:
            if taken:
                self.release(count)

    def take(self, count: int) -> bool:
        """Whether the flow already holds enough cores; if so, they count as used."""
        with self.lock:
            if len(self.held) < self.needed(count):
                return False
            self.used += count
            return True

    def needed(self, count: int = 0) -> int:
        """How many cores this flow has to hold to use `count` more."""
        return min(self.used + count, len(self.numbers))

    def wait(self, count: int, say: Callable[[str], None]) -> bool:
        """Waits for cores. Returns whether it got them: False where it was closed meanwhile."""
        folder().mkdir(mode=0o700, exist_ok=True)
        turn = open_file("turn")
        told = time.monotonic() + MOMENT
        try:
            its_turn = False
            while not self.closed.is_set():
                its_turn = its_turn or try_lock(turn)
                if its_turn and self.gather(count):
                    return True
                if told and time.monotonic() > told:
                    told = 0.0
                    say("waits for CPU cores: other flows on this machine use them")
                self.closed.wait(INTERVAL)
            return False
        finally:
            with self.lock:
                self.gathered_for = 0
                self.drop()
            os.close(turn)

    def gather(self, count: int) -> bool:
        with self.lock:
            self.gathered_for = count
            for number in self.numbers:
                if number not in self.held and len(self.held) < self.needed(count):
                    file = open_file(f"core-{number}")
                    if try_lock(file):
                        self.held[number] = file
                    else:
                        os.close(file)
        return self.take(count)

    def release(self, count: int) -> None:
        with self.lock:
            self.used -= count
            self.drop()

    def drop(self) -> None:
        """Releases the cores that no stage uses or is gathering."""
        while len(self.held) > self.needed(self.gathered_for):
            os.close(self.held.popitem()[1])


def open_file(name: str) -> int:
    return os.open(folder() / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def try_lock(file: int) -> bool:
    """Locks the open file, without waiting. Returns whether that succeeded."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
