"""Runs a command and ends its process: after bad input with one sentence and exit code 2, after any other foreseen
failure with one sentence and exit code 1."""

import atexit
import errno
import gc
import io
import os
import stat
import sys
from types import TracebackType
from typing import Any, TextIO

import click

from flows.machine import environment_variables
from flows.project.errors import (
    DivergedError,
    ExhaustedError,
    InputError,
    UnavailableError,
    WorkerError,
    exhausted,
)
from flows.untrusted import masking
from flows.untrusted.escaping import printable

# New objects between two garbage collections. Loading torch, Lightning and MLflow makes half a million objects, few of
# which are garbage; with Python's default, 700, loading takes a fifth longer.
YOUNG = 10_000


def run(command: click.Command, libraries: bool = False) -> None:
    """Runs a command with the arguments of this process and exits.

    Args:
        libraries: whether it needs the libraries that a pipeline may have loaded for its stages.
    """
    environment_variables.set_variables()
    sys.stdout, sys.stderr = outlives_reader(sys.stdout), outlives_reader(sys.stderr)
    sys.excepthook = say_unforeseen
    gc.set_threshold(YOUNG)
    # Otherwise Python collects garbage once more as it exits, which takes up to two seconds.
    atexit.register(gc.freeze)
    if "DVC_STAGE" in os.environ:
        from flows.machine.orphans import die_with_dvc

        die_with_dvc()
    if libraries:
        from flows.machine.preloaded_client import run_in_fork

        code = run_in_fork()
        if code is not None:
            sys.exit(code)
    try:
        code = command(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.message = masking.text(error.message)  # type: ignore[misc]  # final, says click, and shows it
        error.show()
        sys.exit(error.exit_code)
    except (InputError, DivergedError, WorkerError, ExhaustedError) as error:
        click.echo(f"trainyard: {printable(masking.text(str(error)))}", err=True)
        sys.exit(2 if isinstance(error, InputError) and not isinstance(error, UnavailableError) else 1)
    except Exception as error:  # each library reports a full disk by an error of its own
        said = exhausted(error)
        if said is None:
            raise
        click.echo(f"trainyard: {printable(masking.text(said))}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def say_unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints an unforeseen error as Python does, with its traceback, but with secrets masked."""
    import traceback

    if sys.stderr is not None:
        sys.stderr.write(masking.text("".join(traceback.format_exception(kind, error, trace))))


class Output(io.FileIO):
    """Standard output or error that survives its reader, and masks the environment's secrets, whichever library prints
    them.

    When the reader goes away (`| head -1`, a closed terminal), the work goes on, and all later output, also that of
    processes that are started later, goes to /dev/null.
    """

    def write(self, data: Any) -> int:
        shown = masking.output(data)
        if shown is None:
            return self.write_as_it_is(data)
        while shown:
            shown = shown[self.write_as_it_is(shown) or 0 :]
        return len(data)

    def write_as_it_is(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # For a terminal that is gone the error is EIO, as for a broken disk.
            closed = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
            if error.errno != errno.EPIPE and not closed:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)


def outlives_reader(stream: TextIO | None) -> TextIO | None:
    """Wraps this process's own stdout or stderr as an `Output`. Returns None, and the streams of tests, unchanged."""
    if not isinstance(stream, io.TextIOWrapper) or stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    stream.flush()
    raw = Output(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        stream.encoding, stream.errors, line_buffering=stream.line_buffering, write_through=stream.write_through,
    )  # fmt: skip
