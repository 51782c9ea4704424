"""Random kills of `dvc repro`, the pipeline and a retrain: after each the same command has to come to the same end.

Reads   the code of this working tree, of which it makes a project of its own in a temporary folder
Writes  that folder, which goes at the end; of a kill that broke something the project is kept
Run     python -m tests.chaos --kills 20

The project has a poor champion on digits, and params of two members of two replicas that are better. Each command is
run undisturbed first: what it leaves is what has to be there after a kill, and when its processes lived is when they
are killed. It is no part of the tests: each kill takes a minute or two.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import psutil

from flows.machine.orphans import runs_dvc
from tests.conftest import ROOT, edit, environment, shrink

COMMANDS = {
    "dvc repro": ["-m", "dvc", "--wait-for-lock", "repro"],
    "pipeline": ["-m", "flows.pipeline"],
    "retrain": ["-m", "flows.retrain"],
}
TRACK = ["-m", "flows.commands.track"]
STAGES = ("check", "download", "settings", "train", "evaluate", "ensemble")
STOP_THEN_KILL = "STOP, KILL"
SIGNALS = ("KILL", "TERM", "INT", STOP_THEN_KILL)
GROUP = "group"  # of the command: what Ctrl-C and a closed terminal reach
MARK = "TRAINYARD_CHAOS"  # in the environment of all that a command starts, however it is related

LOOK = 0.1  # seconds between two looks at the processes
PATIENCE = 90  # seconds that a command has to end after a kill, beside twice those that it takes undisturbed
LINGER = 10  # seconds that its other processes have to be gone after it
WHOLE = 900  # seconds for a command that nobody disturbs

# Of a look: what has to be empty.
EMPTY = ("dvc status", "running in MLflow", "logged more than once")

# What is in a project and says nothing of how it got there: caches, notes and logs of the tools.
NOTES = {".git", "__pycache__", "mlartifacts", ".dvc/tmp", ".trainyard/prefect"}


@dataclass(frozen=True)
class Kill:
    """One of a seed: all that is decided before its command starts."""

    number: int
    command: str
    whom: str  # a kind of process, see `kind`
    number_of_signal: str
    moment: float  # 0 to 1, of the time in which there are such processes
    which: float  # 0 to 1, of those that there are then
    pause: float  # seconds between STOP and KILL


@dataclass
class Run:
    """How a command went."""

    code: int | None = None  # None: it did not end
    seconds: float = 0.0
    said: str = ""
    lived: dict[str, list[float]] = field(default_factory=dict)  # kind: the seconds at which there was one
    killed_at: float | None = None
    victim: str = ""
    ended_after: float = 0.0  # seconds since the kill
    left: list[str] = field(default_factory=list)  # processes that did not go


def draw(seed: int, number: int, lived: dict[str, dict[str, list[float]]]) -> Kill:
    """The same for the same seed and number.

    Args:
        lived: of each command, the kinds of processes that it has.
    """
    chance = random.Random(f"{seed}/{number}")
    command = chance.choice(list(COMMANDS))
    return Kill(
        number, command, chance.choice(sorted(lived[command])), chance.choice(SIGNALS), chance.random(),
        chance.random(), chance.uniform(0.5, 4),
    )  # fmt: skip


def kind(process: psutil.Process, root: int) -> str | None:
    """What a process is: command, dvc, stage, worker, server (Prefect's) or fork server; None for others."""
    try:
        words = process.cmdline()
        if "prefect.server.api.server:create_app" in words:
            return "server"
        if process.pid == root:
            return "command"
        if runs_dvc(process):
            return "dvc"
        module = words[2].removeprefix("flows.") if words[1:2] == ["-m"] and len(words) > 2 else ""
        # A fork has its parent's command line.
        depth = 0
        above = process.parent()
        while above is not None and above.cmdline() == words:
            depth, above = depth + 1, above.parent()
    except psutil.Error:
        return None
    if module == "preloaded":
        return ("fork server", "stage", "worker")[min(depth, 2)]
    return ("stage", "worker")[min(depth, 1)] if module in STAGES else None


class Marked:
    """The processes whose environment has this mark."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.known: dict[tuple[int, float], bool] = {}

    def alive(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                key = (process.pid, process.create_time())
                if key not in self.known:
                    self.known[key] = process.environ().get(MARK) == self.mark
                if self.known[key] and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def end(self) -> None:
        """All of them, for good."""
        while processes := self.alive():
            for process in processes:
                send(process.pid, signal.SIGKILL)
            time.sleep(LOOK)


def send(pid: int, number: int, group: bool = False) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone meanwhile
        (os.killpg if group else os.kill)(pid, number)


def run(folder: Path, command: Sequence[str], kill: Kill | None = None, moment: float = 0.0, patience: float = WHOLE):
    """Runs `python COMMAND` in the project, and kills one of its processes at that second, or as soon after it as
    there is one of the kind. Ends what is left of it."""
    mark = uuid.uuid4().hex
    marked, result = Marked(mark), Run()
    temporary = folder.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    env = environment(**{MARK: mark, "PYTHONPATH": "", "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"})
    with (folder.parent / "said").open("w+", encoding="utf-8", errors="replace") as said:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=said,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None:
                now = time.monotonic() - started
                if now - (result.killed_at or 0.0) > (WHOLE if result.killed_at is None else patience):
                    break
                by_kind: dict[str, list[int]] = {GROUP: [process.pid]}
                for other in marked.alive():
                    if (name := kind(other, process.pid)) is not None:
                        by_kind.setdefault(name, []).append(other.pid)
                for name in by_kind:
                    result.lived.setdefault(name, []).append(now)
                if kill and result.killed_at is None and now >= moment and kill.whom in by_kind:
                    victims = sorted(by_kind[kill.whom])
                    strike(victims[int(kill.which * len(victims))], kill, result)
                    result.killed_at = time.monotonic() - started
                time.sleep(LOOK)
            result.code = process.poll()
            result.seconds = time.monotonic() - started
            result.ended_after = result.seconds - (result.killed_at or 0.0)
            deadline = time.monotonic() + (LINGER if result.code is not None else 0)
            while (left := marked.alive()) and time.monotonic() < deadline:
                time.sleep(LOOK)
            result.left = [shown(other) for other in left]
        finally:
            marked.end()
            process.wait()
        said.seek(0)
        result.said = said.read()
    return result


def strike(pid: int, kill: Kill, result: Run) -> None:
    """Sends the signal, to a group where that is meant."""
    try:
        result.victim = shown(psutil.Process(pid))
    except psutil.Error:
        result.victim = str(pid)
    group = kill.whom == GROUP
    if kill.number_of_signal != STOP_THEN_KILL:
        send(pid, signal.Signals[f"SIG{kill.number_of_signal}"], group)
        return
    send(pid, signal.SIGSTOP, group)
    time.sleep(kill.pause)
    send(pid, signal.SIGKILL, group)


def shown(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.Error:
        words = ["gone meanwhile"]
    return f"{process.pid} {' '.join(word if len(word) < 60 else '…' for word in words[1:6])}"


def clone(folder: Path) -> None:
    """What a clone of this working tree has, and no more."""
    ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache", "site-cache", "config.local", "added", "*.npz")
    for name in (".dvc", "flows", "lightning_modules", "sources"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in (".dvcignore", ".gitignore", "dvc.yaml", "prefect.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / "tests" / "params.yaml", folder)
    git(folder, "init", "--quiet")


def git(folder: Path, *arguments: str) -> None:
    me = ("-c", "user.name=chaos", "-c", "user.email=chaos@example.org")
    subprocess.run(["git", *me, *arguments], cwd=folder, env=environment(), check=True, capture_output=True)


def poor(content: dict) -> None:
    """Params whose networks learn next to nothing, so that others are better for certain."""
    shrink(content)
    for member in content["members"].values():
        member["replicas"] = 2
        member["optimizer"]["lr"] = 1e-5
    content["data"]["digits"]["epochs"] = 1


def better(content: dict) -> None:
    for member, rate in zip(content["members"].values(), (0.01, 0.02)):
        member["optimizer"]["lr"] = rate
    content["data"]["digits"]["epochs"] = 120  # seconds of training, so that kills fall into it


def make_base(folder: Path) -> None:
    """A project in git with a poor champion, whose params were changed since."""
    clone(folder)
    edit(folder, poor)
    for command in (COMMANDS["dvc repro"], TRACK):
        done = run(folder, command)
        if done.code != 0:
            raise click.ClickException(f"python {' '.join(command)} fails before anything is killed:\n{done.said}")
    edit(folder, better)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "a poor champion, and better params")


def begin_anew(base: Path, folder: Path, command: str) -> None:
    """At the same place each time, which MLflow's store remembers. For a retrain some images have come in."""
    from PIL import Image

    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder.parent / "tmp", ignore_errors=True)
    shutil.copytree(base, folder, symlinks=True)
    for number in range(10) if command == "retrain" else ():
        file = folder / "data" / "incoming" / str(number) / "new.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", (8, 8), random.Random(number).randbytes(64)).save(file)
        os.utime(file, (time.time() - 60,) * 2)  # else it might still be copied


def files(folder: Path) -> Iterator[str]:
    """Names of all that lies in a project and does not change from run to run."""
    for place, folders, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        folders[:] = [name for name in folders if not {name, (inside / name).as_posix()} & NOTES]
        for name in names:
            path = (inside / name).as_posix()
            report = path.startswith("reports/") and "-retrain-" in name
            # DVC's cache of what comes from outside is compared by the weights, and by its status.
            if not (report or (path.startswith(".dvc/cache/") and len(name.removesuffix(".dir")) == 30)):
                yield path


def look(folder: Path) -> dict:
    """All of a project that has to be the same after a kill as without one."""
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], cwd=folder, env=environment(PYTHONPATH=""),
        capture_output=True, text=True,
    )  # fmt: skip
    digests = {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for name in ("models", "predictions")
        for file in sorted((folder / name).rglob("*"))
        if file.is_file()
    }
    metrics = {
        file.relative_to(folder).as_posix(): json.loads(file.read_text(encoding="utf-8"))
        for file in sorted((folder / "metrics").rglob("*.json"))
    }
    return {
        "models and predictions": digests,
        "metrics": metrics,
        "dvc.lock": (folder / "dvc.lock").read_text(encoding="utf-8"),
        "dvc status": json.loads(status.stdout) if status.returncode == 0 else status.stderr,
        "files": dict.fromkeys(files(folder), "there"),
        **look_at_mlflow(folder),
    }


def look_at_mlflow(folder: Path) -> dict:
    import mlflow

    # A copy, by a name of its own: MLflow would go on with a store that it has open.
    copy = folder.parent / f"look-{uuid.uuid4().hex}.db"
    shutil.copy(folder / "mlflow.db", copy)
    client = mlflow.MlflowClient(f"sqlite:///{copy}", f"sqlite:///{copy}")
    finished: Counter[str] = Counter()
    running, twice = [], Counter()
    for experiment in client.search_experiments():
        for found in client.search_runs([experiment.experiment_id], max_results=5000):
            kind_of_run = found.data.tags.get("trainyard.kind", "")
            name = f"{kind_of_run} {found.info.run_name}"
            if found.info.status == "RUNNING":
                running.append(name)
            if found.info.status != "FINISHED":
                continue
            weights = found.data.tags.get("trainyard.weights_sha256", "")
            finished[f"{name} {weights[:12]}".strip()] += 1
            for key in found.data.metrics:
                steps = Counter(entry.step for entry in client.get_metric_history(found.info.run_id, key))
                if max(steps.values(), default=1) > 1:
                    twice[f"{name} has several values of {key} at one step"] += 1
    model = client.get_registered_model("digits")
    versions = client.search_model_versions("name = 'digits'")
    copy.unlink()
    return {
        "finished runs in MLflow": dict(finished),
        "running in MLflow": running,
        "logged more than once": sorted(twice),
        "aliases": {alias: str(version) for alias, version in model.aliases.items()},
        "tags of the model": dict.fromkeys(model.tags, "there"),
        "versions": {str(version.version): sorted(version.tags) for version in versions},
    }


def differences(expected: dict, found: dict) -> list[str]:
    """What is not as it has to be, a sentence each."""
    problems = []
    for what, value in expected.items():
        other = found[what]
        if other == value or what in EMPTY:
            continue
        if not (isinstance(value, dict) and isinstance(other, dict)):
            problems.append(f"{what} is another one")
            continue
        for key in sorted(value.keys() | other.keys()):
            if value.get(key) != other.get(key):
                problems.append(f"{what}: {key} is {brief(other.get(key))} instead of {brief(value.get(key))}")
    return problems


def brief(value: object) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


class Chaos:
    """A base project, what each command makes of it, and kills."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.base, self.folder = place / "base", place / "project"
        self.lived: dict[str, dict[str, list[float]]] = {}
        self.took: dict[str, float] = {}
        self.expected: dict[str, dict] = {}
        self.undisturbed: dict[str, list[str]] = {}  # what is wrong without a kill

    def prepare(self, commands: Sequence[str]) -> None:
        """Makes the base, and runs each command undisturbed."""
        click.echo("making a project with a poor champion")
        self.folder.mkdir()
        make_base(self.folder)
        shutil.copytree(self.folder, self.base, symlinks=True)
        for command in commands:
            begin_anew(self.base, self.folder, command)
            done = run(self.folder, COMMANDS[command])
            if done.code != 0 or run(self.folder, TRACK).code != 0:
                raise click.ClickException(f"{command} fails undisturbed:\n{done.said}")
            self.lived[command], self.took[command] = done.lived, done.seconds
            self.expected[command] = look(self.folder)
            kinds = ", ".join(sorted(done.lived))
            click.echo(f"{command} undisturbed: {done.seconds:.0f} s; {kinds}")
            wrong = [f"still running after the command: {left}" for left in done.left]
            if wrong := wrong + wrong_always(self.expected[command]):
                self.undisturbed[f"{command} undisturbed"] = wrong

    def kill(self, kill: Kill, patience: float) -> tuple[Run, Run | None, list[str]]:
        """The killed run, the one after it, and what is wrong then."""
        begin_anew(self.base, self.folder, kill.command)
        times = self.lived[kill.command][kill.whom]
        patience += 2 * self.took[kill.command]
        first = run(self.folder, COMMANDS[kill.command], kill, times[int(kill.moment * len(times))], patience=patience)
        problems = [f"still running after the command: {left}" for left in first.left if first.code is not None]
        if first.code is None:
            problems.append(f"the command had not ended {patience:g} s after the kill; it was ended")
        again = run(self.folder, COMMANDS[kill.command])
        (self.place / "first").write_text(first.said, encoding="utf-8")
        (self.place / "again").write_text(again.said, encoding="utf-8")
        if again.code is None:
            problems.append(f"run again it had not ended after {WHOLE} s")
        elif again.code != 0:
            problems.append(f"run again it ended with exit code {again.code}: {last_line(again.said)}")
        problems += [f"still running after the second run: {left}" for left in again.left]
        # Only the second run: what a signal ends may have been in the midst of anything.
        if "Traceback (most recent call last)" in again.said:
            problems.append("run again it printed a traceback")
        tracked = run(self.folder, TRACK)  # ends the runs in MLflow whose process was killed, as the README says
        if tracked.code != 0:
            problems.append(f"trainyard track ended with exit code {tracked.code}: {last_line(tracked.said)}")
        try:
            found, expected = look(self.folder), self.expected[kill.command]
            problems += differences(expected, found)
            problems += [wrong for wrong in wrong_always(found) if wrong not in wrong_always(expected)]
        except Exception as error:  # whatever it stumbles over is what a user has then
            traceback.print_exc()
            problems.append(f"the project cannot be looked at: {error}")
        return first, again, problems


def wrong_always(found: dict) -> list[str]:
    """What there is that must not be, whatever was run."""
    problems = [] if found["dvc status"] == {} else [f"dvc status says {brief(found['dvc status'])}"]
    problems += [f"still running in MLflow: {name}" for name in found["running in MLflow"]]
    return problems + [f"in MLflow {what}" for what in found["logged more than once"]]


def last_line(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return brief(lines[-1].strip()) if lines else "it said nothing"


ROW = "{:>4}  {:<9}  {:<11}  {:<10}  {:>6}  {:>5}  {:>7}  {:>5}  {}"


def row(kill: Kill, first: Run, again: Run | None, problems: Sequence[str]) -> str:
    missed = "it ended before" if first.killed_at is None else ""
    return ROW.format(
        kill.number,
        kill.command,
        kill.whom,
        kill.number_of_signal,
        "" if first.killed_at is None else f"{first.killed_at:.1f}",
        "hung" if first.code is None else first.code,
        "" if first.killed_at is None else f"{first.ended_after:.1f}",
        "hung" if again is None or again.code is None else again.code,
        "BROKE" if problems else missed or "same bits",
    )


@click.command(epilog="Exit code 0: all came to the same end; 1: something broke, or nothing could be killed.")
@click.option("--kills", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@click.option("--seed", type=int, help="Draws commands, victims, signals and moments.  [default: another each time]")
@click.option(
    "--only",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="NUMBER",
    help="Of the seed's kills only this one; again and again for several.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=PATIENCE,
    show_default=True,
    metavar="SECONDS",
    help="For a command to end after a kill, beside twice those that it takes undisturbed.",
)
@click.option("--keep", is_flag=True, help="Keep the projects of all kills, not only of those that broke something.")
def command(kills: int, seed: int | None, only: tuple[int, ...], patience: float, keep: bool) -> int:  # fmt: skip
    """Kill dvc repro, the pipeline and a retrain at random, run them to their end, and compare with undisturbed runs.

    Killed are the command's group (as by Ctrl-C), the command alone, DVC, a stage, a replica's worker, Prefect's
    server, and the process that forks stages; with KILL, TERM, INT, or STOP and some seconds later KILL. Afterwards
    weights, predictions, metrics and dvc.lock have to be the same bits, dvc status clean, each run in MLflow there
    once and finished, the champion that of an undisturbed run, and no process or file left over. A kill takes about
    two minutes on two cores.
    """
    # What runs is ended by `finally`, which the default action of these would skip.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    place = Path(tempfile.mkdtemp(prefix="trainyard-chaos-"))
    click.echo(f"seed {seed}, in {place}")
    numbers = only or range(1, kills + 1)
    rows, struck, kept = [], 0, False
    chaos = Chaos(place)
    try:
        chaos.prepare(list(COMMANDS))
        broken = dict(chaos.undisturbed)
        for number in numbers:
            kill = draw(seed, number, chaos.lived)
            click.echo(f"kill {number}: {kill.command}, {kill.whom}, {kill.number_of_signal}")
            first, again, problems = chaos.kill(kill, patience)
            struck += first.killed_at is not None
            rows.append(row(kill, first, again, problems))
            click.echo(rows[-1])
            if first.victim:
                click.echo(f"      was {first.victim}")
            for problem in problems:
                click.echo(f"      {problem}")
            if problems or keep:
                to = place / f"kill-{number}"
                to.mkdir()
                for name in ("project", "first", "again"):
                    shutil.move(place / name, to)
                click.echo(f"      kept in {to}, with what the two runs said")
                kept = True
            if problems:
                broken[f"kill {number} (again: python -m tests.chaos --seed {seed} --only {number})"] = problems
    finally:
        shutil.rmtree(place / "project", ignore_errors=True)
        shutil.rmtree(place / "base", ignore_errors=True)
        shutil.rmtree(place / "tmp", ignore_errors=True)
        if not kept:
            shutil.rmtree(place, ignore_errors=True)
    click.echo("\n" + ROW.format("kill", "command", "whom", "signal", "at s", "code", "ended s", "again", ""))
    click.echo("\n".join(rows))
    click.echo(f"\n{struck} of {len(rows)} kills struck")
    for what, problems in broken.items():
        click.echo(f"\n{what}:")
        for problem in problems:
            click.echo(f"  {problem}")
    click.echo("" if broken else "all came to the same end")
    return 1 if broken or not struck else 0


if __name__ == "__main__":
    from flows.machine.console import run as run_command

    run_command(command)
