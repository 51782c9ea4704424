"""`trainyard retrain`: takes in new images, runs what is stale, and lets the gate say whether the champion changes.

Reads   data/incoming/ (see `flows.incoming`), DVC's graph, MLflow's registry
Writes  what the stages write, sources/<dataset>/added.dvc, the registry's aliases, reports/<dataset>-retrain-<time>.md,
        and below .trainyard/retrain/ how far it got: the run after a kill or a failure goes on there
Run     python -m flows.retrain

`retrain` is the Prefect flow of this, for deployments (`flows.retrain.retrain`). It comes into being when it is asked
for: the command's help must not wait for Prefect.
"""

import contextlib
import functools
import os
import secrets
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import click

from flows import hardware, incoming, params, pipeline, project, results, workspace
from flows.console import run
from flows.params import Params
from flows.pipeline import Plan
from flows.processes import Processes, TimeLimitError
from flows.repro import Outcome
from lightning_modules.errors import InputError

PUSH_LIMIT = 3600.0  # seconds after which a push has hung
FAILED, BUSY, SKIPPED, COMPLETED = "failed", "busy", "skipped", "completed"

Runner = Callable[[Path, Plan], Mapping[str, Outcome]]


@dataclass(frozen=True)
class Options:
    """What a run is asked for; see the command's help."""

    dataset: str | None = None
    workers: int | None = None
    fresh_seed: bool = False
    promote: bool = True
    push: bool = True
    commit: bool = False
    time_limit: float | None = None


@dataclass(frozen=True)
class Ended:
    """How a run ended: `failed`, `busy`, `skipped` or `completed`, in a sentence, and its report."""

    kind: str
    message: str
    report: str | None = None


@dataclass
class Round:
    """One retraining, which may take several runs: it is kept in a file until it has ended well."""

    dataset: str
    seed: int
    fresh_seed: bool
    since: str
    why: dict[str, str] = field(default_factory=dict)  # stage: why it had to run
    decision: dict | None = None
    promoted: dict | None = None

    @staticmethod
    def file(dataset: str) -> Path:
        return project.home() / ".trainyard" / "retrain" / f"{dataset}.json"

    @classmethod
    def left(cls, dataset: str) -> "Round | None":
        """The round that has not ended."""
        file = cls.file(dataset)
        return cls(**project.read_json(file)) if file.is_file() else None

    def keep(self) -> None:
        project.write_json(self.file(self.dataset), vars(self))

    def forget(self) -> None:
        self.file(self.dataset).unlink(missing_ok=True)
        incoming.forget()


class Place:
    """Where the stages run: in the project itself, or in a working copy for another dataset or seed."""

    def __init__(self, root: Path, options: Options) -> None:
        self.root = root
        self.current = params.read(root / "params.yaml")
        self.dataset = options.dataset or self.current.dataset
        if self.dataset not in self.current.data:
            known = ", ".join(self.current.data)
            raise InputError(f"params.yaml has no block data.{self.dataset}: datasets to retrain are {known}")
        left = Round.left(self.dataset)
        # A round with a seed of its own goes on with it.
        self.left = left if left and left.fresh_seed == options.fresh_seed else None
        self.seed = self.current.seed
        if options.fresh_seed:
            self.seed = self.left.seed if self.left else secrets.randbelow(2**32)
        self.own = self.dataset == self.current.dataset and not options.fresh_seed
        # Images come in for the dataset that params.yaml names.
        self.takes_in = self.dataset == self.current.dataset

    def folder(self) -> Path:
        """Raises InputError where params.yaml cannot work with the dataset."""
        if self.own:
            return self.root
        return workspace.make(self.root, {"dataset": self.dataset, "seed": self.seed})

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no other retrain is at work on the dataset, or in the project itself where that is the place."""
        from filelock import FileLock, Timeout

        names = [self.dataset, *(["project"] if self.own or self.takes_in else [])]
        with contextlib.ExitStack() as stack:
            for name in names:
                file = self.root / ".trainyard" / "retrain" / f"{name}.lock"
                file.parent.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(FileLock(file, timeout=0))
                except Timeout:
                    yield False
                    return
            yield True


def busy(place: Place) -> Ended:
    return Ended(BUSY, f"another retrain of {place.dataset} is at work in this project: this one ends")


def skipped(place: Place) -> Ended:
    return Ended(SKIPPED, f"skipped: nothing is stale for {place.dataset}, and no image has come in")


def work(options: Options, say: Callable[[str], None], run_stages: Runner) -> Ended:
    """A whole retrain. Never raises for what can be said in a sentence.

    Args:
        say: told each step.
        run_stages: runs a plan in a folder, which is the working folder then.
    """
    try:
        place = Place(project.root(), options)
        with place.alone() as alone:
            return steps(place, options, say, run_stages) if alone else busy(place)
    except (InputError, ConnectionError) as error:
        return Ended(FAILED, str(error))


def steps(place: Place, options: Options, say: Callable[[str], None], run_stages: Runner) -> Ended:
    if options.commit:
        refuse_commit(place)
    batches = incoming.take_in(place.current) if place.takes_in else []
    for batch in batches:
        say(f"{len(batch['accepted'])} images taken in, {len(batch['refused'])} refused (data/rejected/reasons.csv)")
    if place.takes_in:
        version_added(place.root, place.dataset, batches)
    folder = place.folder()
    with contextlib.chdir(folder):
        settings = params.read()
        plan = pipeline.plan(folder)
        now = place.left
        if not plan.stages and not now:
            report = None
            if any(batch["refused"] for batch in batches):
                report = write_report(place, None, batches, {}, ["nothing was stale: no stage ran"])
            incoming.forget()
            said = skipped(place).message
            count = sum(len(batch["refused"]) for batch in batches)
            return Ended(SKIPPED, f"{said.split(', and')[0]}; {count} images were refused" if count else said, report)
        if not now:
            now = Round(place.dataset, place.seed, options.fresh_seed, time_now())
        now.why |= {stage: plan.reason(stage) for stage in plan.stages}
        now.decision = None if plan.stages else now.decision
        now.keep()
        outcomes = run_stages(folder, plan) if plan.stages else {}
        failed = [outcome for outcome in outcomes.values() if outcome.problem]
        if failed or len(outcomes) < len(plan.stages):
            names = ", ".join(f"{outcome.stage} ({outcome.problem})" for outcome in failed) or "before all stages ran"
            ended = Ended(FAILED, f"failed: {names}; the next run goes on from there")
            return report_and_end(place, now, batches, outcomes, ended, [ended.message])
        troubles: list[str] = []
        said = judged(now, settings, options, troubles)
        said += [f"pushed to the DVC remote {name}" for name in pushed(place, folder, options, troubles)]
        said += committed(place, now, batches, options, troubles)
        if troubles:
            # Data and models are safe here, but somebody who relies on the copy elsewhere has to hear of it, night
            # after night if need be: a run that is green over a failed push is found out when the copy is needed.
            ended = Ended(FAILED, f"{'; '.join(troubles)}; nothing is lost, and the next run tries that again")
        else:
            ended = Ended(COMPLETED, "; ".join([f"{place.dataset}: {len(now.why)} stages ran", *said]))
        return report_and_end(place, now, batches, outcomes, ended, [*said, *troubles])


def time_now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def version_added(root: Path, dataset: str, batches: list[dict]) -> None:
    """`dvc add` of the images that were taken in, if there are any that DVC does not know."""
    from flows import added

    if not added.folder(dataset).is_dir():
        return
    if added.dvc_file(dataset).is_file() and not any(batch["accepted"] for batch in batches):
        return
    place = added.folder(dataset).relative_to(root).as_posix()
    code, lines = dvc(root, "add", "--quiet", place)
    if code:
        raise InputError(f"DVC cannot version {place}: {' '.join(lines)}")


def dvc(folder: Path, *arguments: str, time_limit: float | None = None) -> tuple[int, list[str]]:
    """DVC's exit code and last lines."""
    lines: deque[str] = deque(maxlen=5)
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    with Processes() as processes:
        try:
            code = processes.run(command, lines.append, cwd=folder, time_limit=time_limit)
        except TimeLimitError as error:
            return 1, [str(error)]
    return code, [line for line in lines if line.strip()]


def judged(now: Round, settings: Params, options: Options, troubles: list[str]) -> list[str]:
    """Asks the gate, and promotes where it says so; what was decided, as sentences."""
    from flows import gate, promotion

    try:
        if now.decision is None:
            now.decision, now.promoted = gate.decide(now.dataset, settings), None
            now.keep()
        if now.decision["promote"] and options.promote and now.promoted is None:
            now.promoted = promotion.promote(now.dataset, now.decision)
            now.keep()
    except (InputError, ConnectionError) as error:
        troubles.append(f"not decided whether the champion changes: {error}")
        return []
    reasons = "; ".join(now.decision["reasons"])
    challenger = now.decision["challenger"]
    if now.promoted is not None:
        return [f"version {challenger} is champion now: {reasons}"]
    if now.decision["promote"]:
        return [f"version {challenger} may be promoted, and was not asked to be: {reasons}"]
    return [f"the champion stays: {reasons}"]


def pushed(place: Place, folder: Path, options: Options, troubles: list[str]) -> list[str]:
    """The names of the remotes that were pushed to: the default one, if there is one."""
    if not options.push:
        return []
    code, lines = dvc(folder, "config", "core.remote")
    if code or not lines:
        return []
    [name] = lines[-1:]
    targets = [(folder, [])]
    from flows import added

    if not place.own and place.takes_in and added.dvc_file(place.dataset).is_file():
        targets.append((place.root, [added.dvc_file(place.dataset).relative_to(place.root).as_posix()]))
    for where, what in targets:
        code, lines = dvc(where, "push", "--quiet", *what, time_limit=PUSH_LIMIT)
        if code:
            troubles.append(f"not pushed to the DVC remote {name}: {' '.join(lines)}")
            return []
    return [name]


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except OSError:
        raise InputError("--commit needs git, which is not installed") from None


def to_commit(place: Place) -> list[str]:
    from flows import added

    found = [place.root / "dvc.lock", added.dvc_file(place.dataset), place.root / "metrics" / place.dataset]
    return [file.relative_to(place.root).as_posix() for file in found if file.exists()]


def refuse_commit(place: Place) -> None:
    """Raises InputError where a commit would hold what it should not, or nothing."""
    if not place.own:
        raise InputError(
            "--commit is for the dataset and seed that params.yaml names: others leave dvc.lock as it is, and nothing "
            "to commit"
        )
    staged = git(place.root, "diff", "--cached", "--name-only", "--relative")
    if staged.returncode:
        raise InputError("--commit needs a git repository, and this project is in none")
    allowed = (*to_commit(place), "dvc.lock", f"sources/{place.dataset}/added.dvc", f"metrics/{place.dataset}/")
    others = [name for name in staged.stdout.splitlines() if not name.startswith(allowed)]
    if others:
        raise InputError(f"--commit finds other files staged ({', '.join(others[:5])}): commit or unstage them first")


def committed(place: Place, now: Round, batches: list[dict], options: Options, troubles: list[str]) -> list[str]:
    if not options.commit:
        return []
    try:
        refuse_commit(place)  # somebody may have staged something meanwhile
        files = to_commit(place)
        git(place.root, "add", "--", *files)
        if git(place.root, "diff", "--cached", "--quiet", "--", *files).returncode == 0:
            return ["nothing to commit"]
        done = git(place.root, "commit", "--quiet", "-m", commit_message(now, batches), "--", *files)
        if done.returncode:
            git(place.root, "reset", "--quiet", "--", *files)
            raise InputError(" ".join((done.stderr or done.stdout).split())[:500])
    except InputError as error:
        troubles.append(f"not committed: {error}")
        return []
    return [f"committed {pipeline.commit(place.root)}: {', '.join(files)}"]


def commit_message(now: Round, batches: list[dict]) -> str:
    count = sum(len(batch["accepted"]) for batch in batches)
    title = f"Retrain {now.dataset}" + (f" with {count} more images" if count else "")
    decision = now.decision or {}
    verdict = f"Version {decision.get('challenger')} " + ("is champion now" if now.promoted else "is not promoted")
    stages = "\n".join(f"* {stage}: {why}" for stage, why in now.why.items())
    return f"{title}\n\n{verdict}: {'; '.join(decision.get('reasons', []))}\n\n{stages}\n"


def report_and_end(
    place: Place, now: Round, batches: list[dict], outcomes: Mapping[str, Outcome], ended: Ended, said: list[str]
) -> Ended:
    report = write_report(place, now, batches, outcomes, said)
    if ended.kind == COMPLETED:
        now.forget()
    return Ended(ended.kind, ended.message, report)


def write_report(
    place: Place, now: Round | None, batches: list[dict], outcomes: Mapping[str, Outcome], said: list[str]
) -> str:
    """Writes the report of a run; returns its text."""
    lines = [f"# Retrain of {place.dataset}, {time_now()}", "", *(f"* {sentence}" for sentence in said), ""]
    if now and now.fresh_seed:
        lines += [
            f"Trained with seed {now.seed}, in a working copy: params.yaml, dvc.lock and models/ of this project are "
            f"as they were, so there is nothing to undo. To make it the project's own: `seed: {now.seed}` in "
            "params.yaml and `make repro`, which brings it from DVC's cache. A promotion is taken back with "
            "`trainyard rollback`.",
            "",
        ]
    accepted = [(batch, entry) for batch in batches for entry in batch["accepted"]]
    refused = [(batch, entry) for batch in batches for entry in batch["refused"]]
    lines += ["## Images", "", f"{len(accepted):,} taken in, {len(refused):,} refused.", ""]
    if accepted:
        counts: dict[str, int] = {}
        for _, entry in accepted:
            counts[entry["class"]] = counts.get(entry["class"], 0) + 1
        lines += ["| class | taken in |", "| --- | ---: |", *(f"| {c} | {n} |" for c, n in sorted(counts.items())), ""]
    if refused:
        lines += ["| refused | why |", "| --- | --- |"]
        lines += [f"| {cell(entry['file'])} | {cell(entry['reason'])} |" for _, entry in refused] + [""]
    if now:
        lines += ["## Stages", "", "| stage | why | seconds |", "| --- | --- | ---: |"]
        for stage, why in now.why.items():
            outcome = outcomes.get(stage)
            took = "earlier" if outcome is None else f"{outcome.seconds:.1f}"
            lines.append(f"| {stage} | {cell(why)} | {outcome.problem if outcome and outcome.problem else took} |")
        lines.append("")
        with contextlib.suppress(InputError):
            lines += ["## Results", "", results.as_markdown(params.read()), ""]
        if now.decision:
            lines += ["## Gate", "", *(f"* {reason}" for reason in now.decision["reasons"]), ""]
    text = "\n".join(lines)
    stamp = datetime.now().strftime("%Y%m%dT%H%M%S")
    file = place.root / "reports" / f"{place.dataset}-retrain-{stamp}.md"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return text


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- Prefect -------------------------------------------------------------------------------------------------------


@functools.cache
def prefect_flow():
    """The Prefect flow `retrain`. Its states: Completed; Completed and named Skipped, where there was nothing to do;
    Cancelled, where another retrain is at work; Failed."""
    from prefect import flow
    from prefect.artifacts import create_markdown_artifact
    from prefect.logging import get_run_logger
    from prefect.states import Cancelled, Completed, Failed

    # Parameters are plain JSON, for deployments.
    @flow(name="retrain", flow_run_name=run_name, persist_result=False)
    def retrain(
        dataset: str | None = None,
        workers: int | None = None,
        fresh_seed: bool = False,
        promote: bool = True,
        push: bool = True,
        commit: bool = False,
        time_limit: float | None = None,
    ):
        """Takes in new images, runs what is stale in parallel, asks the gate, promotes, reports, pushes, commits."""
        options = Options(dataset, workers, fresh_seed, promote, push, commit, time_limit)
        log = get_run_logger()

        def say(sentence: str) -> None:
            click.echo(sentence)
            log.info(sentence)

        ended = work(options, say, functools.partial(run_as_tasks, options))
        if ended.report:
            key = f"retrain-{dataset or params.read().dataset}".replace("_", "-")
            create_markdown_artifact(ended.report, key=key, description=ended.message)
        if ended.kind == FAILED:
            return Failed(message=ended.message)
        if ended.kind == BUSY:
            return Cancelled(message=ended.message)
        return Completed(message=ended.message, name="Skipped" if ended.kind == SKIPPED else "Completed")

    return retrain


def __getattr__(name: str):
    if name == "retrain":
        return prefect_flow()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def run_name() -> str:
    """Dataset and commit."""
    from prefect.runtime import flow_run

    with contextlib.suppress(InputError):
        dataset = flow_run.parameters.get("dataset") or params.read().dataset
        return f"{dataset} {pipeline.commit(project.root())}".strip()
    return "retrain"


def run_as_tasks(options: Options, folder: Path, plan: Plan) -> Mapping[str, Outcome]:
    """The stages as tasks of the flow that is running."""
    workers = min(options.workers or hardware.cores(), max(plan.widths().values()))
    outcomes: dict[str, Outcome] = {}
    with Processes() as processes:
        tracking = threading.Thread(target=pipeline.prepare_tracking, args=(folder, processes))
        tracking.start()
        repro = pipeline.repro_of(folder, plan, processes, workers, time_limit=options.time_limit)
        tracking.join()
        pipeline.run_stages(plan, repro, outcomes, workers)
    pipeline.report(plan, outcomes)
    return outcomes


# --- The command ---------------------------------------------------------------------------------------------------


def ahead(options: Options, say: Callable[[str], None]) -> Ended | None:
    """What can be said without Prefect, whose server takes seconds to start: that another one is at work, or that
    nothing is to be done.

    Raises:
        InputError: what is asked for cannot be done.
    """
    place = Place(project.root(), options)
    with place.alone() as alone:
        if not alone:
            return busy(place)
        if options.commit:
            refuse_commit(place)
        if place.left or options.fresh_seed or (place.takes_in and (incoming.waiting() or incoming.noted())):
            return None
        return None if pipeline.plan(place.folder()).stages else skipped(place)


def tell_ahead(options: Options) -> None:
    """`--dry`: what a run would do."""
    place = Place(project.root(), options)
    files = incoming.waiting() if place.takes_in else []
    if files:
        click.echo(
            f"would look at {len(files):,} files in data/incoming/, and run download and what follows for new ones"
        )
    if place.left:
        click.echo(f"would go on with the retrain of {place.left.since}")
    plan = pipeline.plan(place.folder())
    for stage in plan.stages:
        click.echo(f"would run {stage}: {plan.reason(stage)}")
    if not (plan.stages or files or place.left):
        click.echo(skipped(place).message)


@click.command()
@click.option("--dataset", metavar="NAME", help="Retrain this dataset.  [default: that of params.yaml]")
@click.option("--workers", type=click.IntRange(min=1), help="Stages at the same time.  [default: CPU cores]")
@click.option("--fresh-seed", is_flag=True, help="Train all anew with another seed, leaving params.yaml as it is.")
@click.option("--promote/--no-promote", default=True, help="Make the challenger champion if the gate lets it pass.")
@click.option("--push/--no-push", default=True, help="Push to DVC's default remote, if there is one.")
@click.option("--commit", is_flag=True, help="Commit dvc.lock, metrics and the version of added images to git.")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For each stage.")
@click.option("--dry", is_flag=True, help="Only say what would be done.")
def command(dry: bool, **given) -> int | None:
    """Take in the images in data/incoming/<class>/, run what is stale, and promote the result if it is truly better.

    Refused images go to data/rejected/, with the reasons in reasons.csv there. Another dataset or seed is run in a
    working copy below .dvc/tmp/exps: params.yaml, dvc.lock and models/ stay as they are. Killed or failed, the next
    run goes on. Exit code 0: done, or nothing to do; 1: something failed, or another retrain is at work.
    """
    options = Options(**given)
    if dry:
        return tell_ahead(options)
    ended = ahead(options, click.echo)
    if ended:
        click.echo(ended.message, err=ended.kind == BUSY)
        return 1 if ended.kind == BUSY else 0
    with pipeline.exit_on_sigterm():
        server = pipeline.server_if_none()
        if server:
            server.start()
        flow = prefect_flow()
        if server:
            server.wait()
        state = flow(**given, return_state=True)
    click.echo(state.message, err=not state.is_completed())
    if state.is_completed() and state.name != "Skipped":
        click.echo(f"report: {newest_report()}")
    return 0 if state.is_completed() else 1


def newest_report() -> str:
    found = sorted((project.root() / "reports").glob("*-retrain-*.md"), key=os.path.getmtime)
    return found[-1].relative_to(project.root()).as_posix() if found else "none"


if __name__ == "__main__":
    run(command)
