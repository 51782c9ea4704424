"""Watches whether Prefect's server still answers."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import click

from flows.machine import ports
from flows.servers import prefect_server

GONE_AFTER = 60.0  # seconds without an answer from the server after which a command ends
GRACE = 15.0  # seconds that the command then has to end by itself: Prefect's client would retry for minutes
INTERVAL = 2.0  # seconds between two checks

# Set while Prefect's server does not answer, so that nobody calls it: each call would take a minute.
away = threading.Event()


class Watch:
    """Ends this process when Prefect's server has not answered for too long.

    First by SIGTERM, so that stages end and keep what they have; then, if the process has not ended, at once.

    Args:
        gone_after: seconds without an answer.
        last_words: called before the process is ended at once.

    Attributes:
        lost: whether the server has not answered for too long.
        told: whether the user knows; set it to keep the watch from printing the message.
    """

    def __init__(self, gone_after: float, last_words: Callable[[], object] = lambda: None) -> None:
        self.gone_after, self.last_words = gone_after, last_words
        # None if it has never answered: perhaps only Prefect's own client can reach it.
        self.answered = time.monotonic() if ports.answers(prefect_server.health(), timeout=10) else None
        self.lost = False
        self.told = False
        self.over = False  # whether the process is about to end by itself
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.look, name="watch-server", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Stops the watch, but not while the server does not answer: as the process exits, Prefect would retry long."""
        self.over = True
        if not away.is_set():
            self.stopped.set()

    def look(self) -> None:
        while not self.stopped.wait(INTERVAL):
            now = time.monotonic()
            if ports.answers(prefect_server.health(), timeout=10):
                self.answered = now
                away.clear()
            elif self.answered is None:
                continue
            elif not away.is_set():
                away.set()
                click.echo(
                    f"Prefect's server at {prefect_server.shown()} does not answer: stages go on, and all ends if it "
                    f"is not back within {self.gone_after:g} seconds",
                    err=True,
                )
            elif now - self.answered >= self.gone_after:
                break
        else:
            return
        self.lost = True
        if not self.over:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        if not self.told:
            self.last_words()
            click.echo(f"\ntrainyard: {gone()}", err=True)  # what Prefect printed last may have no end
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(1)


def gone() -> str:
    return (
        f"Prefect's server at {prefect_server.shown()} does not answer any more. What has finished is kept, and "
        "trainings to their last checkpoint: run it again, and it goes on from there"
    )
