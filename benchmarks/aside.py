"""Runs each side of a comparison in a process of its own.

So neither side inherits what the other one set for its whole process, such as the number of threads or determinism, and
a rival may use another Python. That Python imports this file too: it uses the standard library only.
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
        RuntimeError: it ended; the message has its last lines of output.
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
            failed.callback(self.process.kill)  # first, or `close` would wait until it is prepared
            self.about = self.answer()
            failed.pop_all()

    def __call__(self, **request):
        """Calls the function that `prepare` returned with the request, and returns its result."""
        with suppress(BrokenPipeError):  # it has ended, and the missing answer shows that
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
            self.process.stdin.close()  # which ends it
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()

    def __enter__(self) -> "Aside":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def serve(prepare: Callable[[dict], Callable]) -> None:
    """The main function of such a process: reads a line of JSON, the keyword arguments of a call, and writes a line of
    JSON, its result, until the input ends.

    Args:
        prepare: takes the settings and returns the function to call.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stdout is for answers: what libraries print goes to stderr
    call = prepare(json.loads(sys.argv[1]))
    print(json.dumps(getattr(call, "about", None)), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(call(**json.loads(line))), file=answers, flush=True)
