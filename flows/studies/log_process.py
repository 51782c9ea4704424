"""MLflow's part of a study, in a process of its own: it loads MLflow and opens the store, which takes seconds, while
torch is loaded, and it logs the runs while the figures are drawn."""

import contextlib
import gc
import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from flows.project.errors import WorkerError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from flows.tracking.study_runs import StudyLog

YOUNG = 10_000  # as in flows/machine/console.py


class LogProcess:
    """The process, seen from its parent."""

    def __init__(self, process: "BaseProcess", connection: Connection) -> None:
        self.process, self.connection = process, connection

    def log(self, log: "StudyLog", *arguments: Any) -> None:
        """Begins to log; for the arguments see `StudyLog.log`."""
        self.tell((log, arguments))

    def finish(self) -> None:
        """Says that the files are written, and waits until all is logged.

        Raises:
            WorkerError: the process was killed, or there is a mistake in its code.
        """
        self.tell(None)
        self.process.join()
        if self.process.exitcode:
            raise WorkerError(
                f"the process that logs to MLflow ended with exit code {self.process.exitcode}: run the study again, "
                "which trains nothing again"
            )

    def tell(self, message: Any) -> None:
        # It may have ended: where this result is logged already, or the store failed, it does not wait for the files.
        with contextlib.suppress(OSError):
            self.connection.send(message)


@contextlib.contextmanager
def log_process() -> Iterator[LogProcess]:
    """Starts the process, and ends it on exit."""
    # Not forked: a process may have a store open, and a SQLite connection must not be carried over.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), daemon=True)
    process.start()
    there.close()
    try:
        yield LogProcess(process, here)
    finally:
        process.kill()  # which has ended unless the study failed
        process.join()
        here.close()


def serve(connection: Connection) -> None:
    """The main function of the process. Receives a StudyLog and its arguments, then word that the files are there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    gc.set_threshold(YOUNG)

    from flows.tracking import mlflow_store

    with contextlib.suppress(Exception):  # it fails again when something is logged, which says so
        mlflow_store.connect()
    try:
        log, arguments = connection.recv()
    except EOFError:  # the parent was killed
        return
    log.log(*arguments, connection.recv)
    gc.freeze()  # else Python collects garbage once more as it exits
