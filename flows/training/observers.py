"""Who is told how a training goes on, by the process that listens to its workers."""

from typing import Protocol


class Tracker(Protocol):
    """Logs it: `flows.tracking.member_runs.Tracker`."""

    def start(self) -> None:
        """Workers are at work, and there is time to load a library."""

    def epoch(self, number: int, row: dict) -> None:
        """Replica `number` has come to the end of an epoch, of which this is the row of its history."""


class Clock(Protocol):
    """Counts its seconds: `flows.training.interrupted.Clock`."""

    def keep(self) -> None:
        """What was counted up to now is not to be lost with this process."""
