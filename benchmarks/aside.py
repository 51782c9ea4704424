"""Each side of a comparison trains in a process of its own, when it is told to: neither inherits what the other one set
for its whole process, such as threads, determinism or thread pools, and a rival may have a Python of its own.

This file is imported by that Python too: it knows the standard library alone.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


class Aside:
    """A running process of `module`, which ends with `serve(prepare)`.

    Args:
        settings: plain JSON, given to `prepare`.
        cwd: its working folder.
        python: its interpreter.

    Raises:
        RuntimeError: it ended; the message holds the last lines that it wrote.
    """

    def __init__(self, module: str, settings: dict, cwd: Path, python: str = sys.executable) -> None:
        self.module = module
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [python, "-m", module, json.dumps(settings)], cwd=cwd, env={**os.environ, "PYTHONPATH": path}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip
        with ExitStack() as failed:
            failed.callback(self.close)
            failed.callback(self.process.kill)  # first: else `close` waits for what it prepares
            self.about = self.answer()
            failed.pop_all()

    def __call__(self, **request):
        """What the function that `prepare` returned makes of the request."""
        with suppress(BrokenPipeError):  # it has ended, which its missing answer tells
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            last = "".join(self.errors.readlines()[-30:])
            raise RuntimeError(f"{self.module} ended with {self.process.returncode}:\n{last}")
        return json.loads(line)

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # at which it ends
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()

    def __enter__(self) -> "Aside":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def serve(prepare: Callable[[dict], Callable]) -> None:
    """The life of such a process: a line of JSON in, the keyword arguments of one call; a line of JSON out.

    Args:
        prepare: takes the settings and returns the function to call.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    call = prepare(json.loads(sys.argv[1]))
    print(json.dumps(getattr(call, "about", None)), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(call(**json.loads(line))), file=answers, flush=True)
