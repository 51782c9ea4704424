"""CPU cores over all flows of a user on this machine: a stage waits for those that stages of other flows use.

A file for each core, in the folder of temporary files, is locked for as long as the core is used: the locks of a
process that is gone are gone, too. Which core it is tells one from another, and no more: the system places threads as
it likes. A flow that has all cores may have as many stages at work as its user wants.
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

INTERVAL = 0.2  # seconds between two looks at whether a core is free
MOMENT = 1.0  # seconds of waiting of which nobody has to hear


def folder() -> Path:
    return Path(tempfile.gettempdir()) / f"trainyard-cores-{os.getuid()}"


class Cores:
    """Those that the stages of one flow use.

    Args:
        closed: once it is set, nobody waits any more.
    """

    def __init__(self, closed: threading.Event) -> None:
        self.closed = closed
        self.numbers = hardware.core_numbers()
        self.lock = threading.Lock()  # of the stages of this flow, which are threads
        self.used = 0  # by all stages together: more than there are, if the user likes
        self.gathered_for = 0  # cores of the stage whose turn it is
        self.held: dict[int, int] = {}  # the open files, by core

    @contextlib.contextmanager
    def hold(self, count: int, say: Callable[[str], None]) -> Iterator[None]:
        """Waits until so many cores are free, or all are this flow's, and holds them.

        Of all flows one stage at a time gathers cores, and the others wait for their turn: so one that needs many gets
        them, and no two wait for each other.
        """
        taken = self.take(count)
        if not taken:
            with contextlib.suppress(OSError):  # a full disk, a folder of somebody else's: the stage is worth more
                taken = self.wait(count, say)
        try:
            yield
        finally:
            if taken:
                self.release(count)

    def take(self, count: int) -> bool:
        """Whether the flow holds enough of them already, which it then uses."""
        with self.lock:
            if len(self.held) < self.needed(count):
                return False
            self.used += count
            return True

    def needed(self, count: int = 0) -> int:
        """How many this flow has to hold when it uses so many more."""
        return min(self.used + count, len(self.numbers))

    def wait(self, count: int, say: Callable[[str], None]) -> bool:
        """Whether it has got them, and was not closed meanwhile."""
        folder().mkdir(mode=0o700, exist_ok=True)
        turn = open_file("turn")
        told = time.monotonic() + MOMENT
        try:
            its_turn = False
            while not self.closed.is_set():
                its_turn = its_turn or locks(turn)
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
                    if locks(file):
                        self.held[number] = file
                    else:
                        os.close(file)
        return self.take(count)

    def release(self, count: int) -> None:
        with self.lock:
            self.used -= count
            self.drop()

    def drop(self) -> None:
        """Lets go of what no stage uses, but not of what one is gathering."""
        while len(self.held) > self.needed(self.gathered_for):
            os.close(self.held.popitem()[1])


def open_file(name: str) -> int:
    return os.open(folder() / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def locks(file: int) -> bool:
    """Whether it is locked by this opening of it, now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
