"""The progress of a study, on a terminal and in a log."""

import sys
import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PAUSE = 10.0  # seconds between two lines in a log


class Bar:
    """The progress of a study in epochs of single networks: a bar on a terminal, now and then a line in a log."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done, self.last = name, total, 0, time.monotonic()
        self.started = self.last
        self.bar = None
        if sys.stdout.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"),
                TimeElapsedColumn(), TimeRemainingColumn(),
            )  # fmt: skip
            self.task = self.bar.add_task(name, total=total)

    def __enter__(self) -> "Bar":
        return self

    def start(self) -> None:
        """Shows the bar, or says in a log what begins. The bar's thread must not be there while workers are forked."""
        if self.bar:
            self.bar.start()
        else:
            print(f"{self.name}: {self.done:,} of {self.total:,} epochs are done", flush=True)

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, epochs: int) -> None:
        self.done += epochs
        self.total = max(self.total, self.done)
        if self.bar:
            self.bar.update(self.task, completed=self.done, total=self.total)
        elif time.monotonic() - self.last > PAUSE:
            self.last = time.monotonic()
            left = (self.last - self.started) / self.done * (self.total - self.done) if self.done else 0
            print(f"{self.name}: {self.done:,} of {self.total:,} epochs, {left:.0f} s left", flush=True)
