"""Shows the progress of a training: a bar for each replica on a terminal, now and then a line in a log."""

import sys
import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows.statistics.replicates import score_text

# Seconds between two lines about one replica in a log.
PAUSE = 10.0


def told(row: dict) -> str:
    """The validation scores of an epoch: nll 0.1234, accuracy 97.50%."""
    scores = {name.removeprefix("validation_"): value for name, value in row.items() if name.startswith("validation_")}
    return ", ".join(f"{name} {score_text(name, value)}" for name, value in scores.items())


class Board:
    """Shows the events that `fit` reports.

    Args:
        member: names the rows, `<member>-<replica>`.
        replicas: number of rows.
        epochs: full length of a row.
    """

    def __init__(self, member: str, replicas: int, epochs: int) -> None:
        self.member, self.replicas, self.epochs = member, replicas, epochs
        self.last_line = {number: time.monotonic() for number in range(replicas)}
        self.bars = None
        if sys.stdout.isatty():
            self.bars = Progress(
                TextColumn("{task.description:<12}"),
                BarColumn(),
                TextColumn("epoch {task.fields[epoch]:>3}/{task.total:.0f}"),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )

    def __enter__(self) -> "Board":
        if self.bars:
            self.bars.start()
            self.rows = [
                self.bars.add_task(f"{self.member}-{number}", total=self.epochs, epoch=0, numbers="", start=False)
                for number in range(self.replicas)
            ]
        return self

    def __exit__(self, *error: object) -> None:
        if self.bars:
            self.bars.stop()

    def finished_before(self, number: int) -> None:
        """Replica `number` was finished by an earlier run."""
        if self.bars:
            self.bars.update(self.rows[number], completed=self.epochs, epoch=self.epochs, numbers="done before")
        else:
            print(f"{self.member}-{number}: finished before", flush=True)

    def resumes(self, number: int) -> None:
        """Replica `number` was interrupted, and resumes from its last checkpoint."""
        self.tell(f"{self.member}-{number}: going on with a training that was interrupted")

    def restarts(self, number: int, aside: Path) -> None:
        """The checkpoint of replica `number` was damaged, and is now the file `aside`."""
        self.tell(
            f"{self.member}-{number}: its checkpoint was damaged, and is put aside as {aside}: the training begins anew"
        )

    def tell(self, text: str) -> None:
        if self.bars:
            self.bars.console.print(text, soft_wrap=True, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def show(self, number: int, event: dict) -> None:
        row = event.get("row")
        text = told(row) if row else ""
        if self.bars:
            task = self.rows[number]
            if not self.bars.tasks[number].started:
                self.bars.start_task(task)
            if "finished" in event:
                self.bars.update(task, completed=self.epochs, numbers=f"best epoch {event['best_epoch']}")
            else:
                fields: dict[str, Any] = {"numbers": text} if text else {}
                self.bars.update(task, completed=event["epoch"] - 1 + event["done"], epoch=event["epoch"], **fields)
        elif "finished" in event:
            print(f"{self.member}-{number}: finished, best epoch {event['best_epoch']}", flush=True)
        elif text and time.monotonic() - self.last_line[number] > PAUSE:
            self.last_line[number] = time.monotonic()
            print(f"{self.member}-{number}: epoch {event['epoch']}/{self.epochs}, validation {text}", flush=True)
