"""The steps of a retrain: take in, run what is stale, judge, promote, report, push, commit."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from flows.data import added
from flows.graph import planning, versioning
from flows.graph.planning import Plan
from flows.graph.repro import Outcome
from flows.orchestration import dask_options
from flows.params import params_file
from flows.project import paths
from flows.project.errors import InputError, counted, exhausted, our_mistake
from flows.retraining import committing, incoming
from flows.retraining.place import Place, Round
from flows.untrusted.escaping import printable

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
    dask: str | None = None
    remote: bool = False

    def place(self) -> Place:
        """Raises InputError and UnavailableError where what is asked for cannot be done."""
        dask_options.check_dask(self.dask, self.remote)
        place = Place(paths.root(), self.dataset, self.fresh_seed)
        if self.commit and not place.is_project:
            raise InputError(
                "--commit is for the dataset and seed that params.yaml names: with others dvc.lock stays as it is"
            )
        if self.commit:
            committing.refuse_impossible(place.root)
        return place


@dataclass(frozen=True)
class Ended:
    """How a run ended: `failed`, `busy`, `skipped` or `completed`, in a sentence, and its report if it did anything."""

    kind: str
    message: str
    report: Path | None = None


def work(options: Options, say: Callable[[str], None], run_stages: Runner) -> Ended:
    """A whole retrain. Does not raise for what can be said in a sentence.

    Args:
        say: told each step.
        run_stages: runs a plan in a folder, which is the working folder then.
    """
    try:
        place = options.place()
        with place.alone() as alone:
            if not alone:
                return busy(place)
            try:
                return steps(place, options, say, run_stages)
            except (InputError, OSError) as error:
                return failed(place, sentence(error))
    except (InputError, OSError) as error:
        return Ended(FAILED, sentence(error))


def sentence(error: Exception) -> str:
    """Of the system's own errors, such as a full disk, what they are and where."""
    if said := exhausted(error):
        return said
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    where = f"{printable(os.fspath(error.filename))}: " if isinstance(error.filename, (str, Path)) else ""
    return f"{where}{error.strerror}"


def failed(place: Place, message: str) -> Ended:
    """Before the stages were run, or because of what nobody foresaw. The report is written if it can be."""
    message = f"{message}; nothing is lost, and the next run goes on from there"
    file = None
    with contextlib.suppress(InputError, OSError):
        file = write_report(place, [message], incoming.noted() if place.takes_in else [])
    return Ended(FAILED, message, file)


def busy(place: Place) -> Ended:
    return Ended(BUSY, f"another retrain of {place.dataset} is at work in this project: this one ends")


def steps(place: Place, options: Options, say: Callable[[str], None], run_stages: Runner) -> Ended:
    batches = take_in(place, say)
    folder = place.folder()
    with contextlib.chdir(folder):
        plan = planning.plan(folder)
        if not (plan.stages or place.left):
            return nothing_stale(place, options, batches)
        now = place.left or Round(place.seed)
        now.why |= {stage: plan.reason(stage) for stage in plan.stages}
        place.keep(now)
        outcomes = run_stages(folder, plan) if plan.stages else {}
        if len(outcomes) < len(plan.stages) or any(outcome.problem for outcome in outcomes.values()):
            troubles = [
                f"{outcome.stage} failed: {outcome.problem}" for outcome in outcomes.values() if outcome.problem
            ]
            troubles += [f"{stage} did not run" for stage in plan.stages if stage not in outcomes]
            return report(place, now, batches, outcomes, [], troubles)
        said, troubles, decision = judge(place, options)
        # Data and models are safe here, but somebody who relies on the copy elsewhere has to hear of it, night after
        # night if need be: a run that is green over a failed push is found out when the copy is needed.
        with telling(troubles):
            said += push(place, options)
        with telling(troubles):
            said += keep_in_git(place, options, commit_message(place, now, batches, said))
        return report(place, now, batches, outcomes, said, troubles, decision)


@contextlib.contextmanager
def telling(troubles: list[str]) -> Iterator[None]:
    """Adds what goes wrong in a sentence, and lets the rest go on."""
    try:
        yield
    except InputError as error:
        troubles.append(str(error))


def take_in(place: Place, say: Callable[[str], None]) -> list[dict]:
    """What `incoming.take_in` did, versioned with DVC."""
    batches = incoming.take_in(place.settings) if place.takes_in else []
    for batch in batches:
        say(came_in([batch]))
    folder = added.folder(place.dataset)
    is_new = any(batch["accepted"] for batch in batches) or incoming.lost_count()
    if place.takes_in and folder.is_dir() and (is_new or not added.dvc_file(place.dataset).is_file()):
        versioning.add(place.root, folder)
    return batches


def came_in(batches: Sequence[dict]) -> str:
    accepted, refused = (sum(len(batch[which]) for batch in batches) for which in ("accepted", "refused"))
    where = " (data/rejected/reasons.csv)" if refused else ""
    return f"{counted(accepted, 'image')} taken in, {refused:,} refused{where}"


def nothing_stale(place: Place, options: Options, batches: list[dict]) -> Ended:
    waiting = still_waiting(place)
    said = [f"skipped: nothing is stale for {place.dataset}, and no image has come in"]
    if waiting:
        said = [f"skipped: nothing is stale for {place.dataset}", *waiting]
    file = None
    if batches:  # without one that was taken in, else `download` were stale
        count = sum(len(batch["refused"]) for batch in batches)
        said = [
            f"skipped: nothing is stale for {place.dataset}; {counted(count, 'image')} refused of what came in",
            *waiting,
        ]
        file = write_report(place, said, batches)
        incoming.forget()
    elif place.takes_in and incoming.lost_count():
        incoming.forget()
    if place.takes_in:
        added.make_folders(place.dataset)
    try:
        said += keep_in_git(place, options, f"Retrain {place.dataset}")
    except InputError as error:
        return Ended(FAILED, str(error), file)
    return Ended(SKIPPED, "; ".join(said), file)


def judge(place: Place, options: Options) -> tuple[list[str], list[str], dict | None]:
    """Asks the gate, and promotes where it says so: what was decided, what went wrong, and the decision.

    It is asked again after an interrupted promotion, which is finished, or undone, by the next one.
    """
    from flows.promotion import gate, promoting

    try:
        if trouble := register(place):
            return [], [trouble], None
        if place.settings.feed.task != "classification":
            return (
                ["the champion stays: the gate compares classifiers alone, and promote --force takes this one"],
                [],
                None,
            )
        decision = gate.decide(place.dataset, place.settings)
        if options.promote or not decision["promote"]:
            promoting.promote(place.dataset, decision)  # records a refusal too
    except (InputError, ConnectionError) as error:
        return [], [f"the champion could not be compared or changed: {error}"], None
    reasons, challenger = "; ".join(decision["reasons"]), decision["challenger"]
    if decision["verdict"] == "nothing":
        return [reasons], [], decision
    if not decision["promote"]:
        return [f"the champion stays: {reasons}"], [], decision
    verdict = "is champion now" if options.promote else "would be promoted (--no-promote)"
    return [f"version {challenger} {verdict}: {reasons}"], [], decision


def register(place: Place) -> str | None:
    """Makes the ensemble that lies here the challenger where another one is: MLflow may have been away when it was
    made, or DVC brought it back from its cache. Returns why that cannot be done.

    Raises:
        InputError: MLflow cannot be used, or the ensemble is not there.
    """
    from flows.ensembles import late_registration, record
    from flows.tracking.mlflow_runs import ENSEMBLE
    from flows.tracking.registry import CHALLENGER, Registry

    settings, registry = params_file.read(), Registry(place.dataset)  # the working copy's seed, for one, is another

    def is_challenger() -> bool:
        version = registry.aliases().get(CHALLENGER)
        here = record.read(place.dataset).digest
        return version is not None and registry.version(version)["tags"].get(ENSEMBLE) == here

    if is_challenger():
        return None
    late_registration.track(settings)
    if is_challenger():
        return None
    return (
        f"the new ensemble of {place.dataset} could not be registered in MLflow, so the gate was not asked: "
        "the log says why"
    )


def push(place: Place, options: Options) -> list[str]:
    """Pushes to DVC's default remote, if there is one. Raises InputError where that fails."""
    remote = versioning.remote(place.root) if options.push else None
    if remote is None:
        return []
    versioning.push(Path.cwd())
    if place.takes_in and not place.is_project and added.dvc_file(place.dataset).is_file():
        versioning.push(place.root, added.dvc_file(place.dataset).relative_to(place.root).as_posix())
    return [f"pushed to the DVC remote {remote}"]


def keep_in_git(place: Place, options: Options, message: str) -> list[str]:
    """Commits where that is asked for, and else says what is not committed. Raises InputError where git refuses."""
    names = committing.uncommitted(place.root, place.dataset) if place.is_project else []
    if not names:
        return []
    if options.commit:
        return [f"committed {', '.join(names)} as {committing.commit(place.root, names, message)}"]
    differ = "differs" if len(names) == 1 else "differ"
    return [f"{', '.join(names)} {differ} from the last commit (--commit commits that)"]


def commit_message(place: Place, now: Round, batches: Sequence[dict], said: Sequence[str]) -> str:
    count = sum(len(batch["accepted"]) for batch in batches)
    title = f"Retrain {place.dataset}" + (f" with {counted(count, 'more image')}" if count else "")
    stages = [f"* {stage}: {why}" for stage, why in now.why.items()]
    return "\n".join([title, "", *said, "", *stages, ""])


def report(
    place: Place,
    now: Round,
    batches: list[dict],
    outcomes: Mapping[str, Outcome],
    said: list[str],
    troubles: list[str],
    decision: dict | None = None,
) -> Ended:
    """Writes the report. The round has ended where there was no trouble; else the next run goes on."""
    if now.seed != place.settings.seed:
        said = [
            *said,
            f"trained with seed {now.seed} in a working copy: params.yaml, dvc.lock and models/ are as they were",
        ]
    if troubles:
        troubles = [*troubles, "nothing is lost, and the next run goes on from there"]
    else:
        ran = f"{place.dataset}: {counted(len(now.why), 'stage')} ran"
        said = [ran, *([came_in(batches)] if batches else []), *said]
    said = [*said, *still_waiting(place)]
    file = write_report(place, [*troubles, *said], batches, now, outcomes, decision, pages())
    if troubles:
        return Ended(FAILED, "; ".join([*troubles, *said]), file)
    place.forget()
    if place.takes_in:
        incoming.forget()
        added.make_folders(place.dataset)
    return Ended(COMPLETED, "; ".join(said), file)


def write_report(
    place: Place,
    said: Sequence[str],
    batches: Sequence[dict],
    now: Round | None = None,
    outcomes: Mapping[str, Outcome] | None = None,
    decision: dict | None = None,
    pages: Mapping | None = None,
) -> Path:
    from flows.retraining import retrain_report

    why = now.why if now else {}
    return retrain_report.write(place.root, place.dataset, said, batches, why, outcomes or {}, decision, pages or {})


def pages() -> Mapping:
    """The links of a report into MLflow; a report without them is better than none."""
    from flows.tracking import page_links

    try:
        return page_links.pages()
    except Exception as error:  # each kind of store, and each plugin, fails in a way of its own
        if our_mistake(error):
            raise
        return {}


def still_waiting(place: Place) -> list[str]:
    """A sentence about images that the run has left for the next one."""
    files = incoming.waiting() if place.takes_in else []
    if not files:
        return []
    return [
        f"left in data/incoming/ for the next run: {counted(len(files), 'file')} that came meanwhile, or may still be "
        f"copied, being younger than {incoming.SETTLING:g} s"
    ]


def ahead(options: Options) -> Ended | None:
    """What can be said without Prefect, whose server takes seconds to start: that another one is at work, or that
    nothing is to be done. Raises InputError where what is asked for cannot be done."""
    try:
        place = options.place()
        with place.alone() as alone:
            if not alone:
                return busy(place)
            if place.left or options.fresh_seed or (place.takes_in and incoming.is_something_to_do()):
                return None
            return None if planning.plan(place.folder()).stages else nothing_stale(place, options, [])
    except OSError as error:
        return Ended(FAILED, sentence(error))


def tell_ahead(options: Options) -> None:
    """`--dry`: what a run would do. Nothing is written, since a run may be at work."""
    place = options.place()
    files = incoming.settled(incoming.waiting()) if place.takes_in else []
    folder = place.folder_as_it_is()
    plan = planning.plan(folder) if folder else Plan()
    if files:
        click.echo(
            f"would look at {counted(len(files), 'file')} in data/incoming/; for images taken in, all stages would run"
        )
    if place.left:
        click.echo(f"would go on with the retrain of {place.left.since}")
    if folder is None and options.fresh_seed and not place.left:
        click.echo(f"would run all stages of {place.dataset} with another seed, in a working copy")
    elif folder is None:
        click.echo(f"would bring the working copy for {place.name} up to date, and run what is stale there then")
    for stage in plan.stages:
        click.echo(f"would run {stage}: {plan.reason(stage)}")
    if folder and not (plan.stages or files or place.left):
        waiting = still_waiting(place) or ["no image has come in"]
        click.echo("; ".join([f"would skip: nothing is stale for {place.dataset}", *waiting]))
    if place.takes_in and not files:
        click.echo("images to be taken in go into data/incoming/<class>/")
