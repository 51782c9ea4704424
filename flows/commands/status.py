"""`trainyard status`: what is stale and why, what would run, what is unfinished, who is champion and challenger.

Reads   DVC's status and graph, the unfinished trainings below .trainyard/, and MLflow's registry if there is one
Writes  nothing
Run     python -m flows.commands.status
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from flows.graph import dvc_graph, site_cache
from flows.machine.console import run
from flows.params import params_file
from flows.project import paths
from flows.project.errors import UnavailableError, counted, our_mistake
from flows.untrusted.masking import sentence


def status(root: Path) -> dict:
    """What the command shows, in plain JSON types. Raises InputError if DVC or params.yaml cannot be read."""
    params = params_file.read()
    dataset = params.dataset
    # DVC runs in a process of its own while MLflow is imported here.
    with ThreadPoolExecutor(max_workers=1) as pool:
        asked = pool.submit(dvc_graph.stale, root)
        best = champion(dataset)
        readable = not (best and "problem" in best)
        next_one = challenger(dataset) if best and readable else None
        unregistered = not_registered(params) if readable else None
    stale = asked.result()
    needs = dvc_graph.stages(root) if stale else {}
    selected = dvc_graph.select(needs) if stale else []
    return {
        "dataset": dataset,
        "stale": {stage: stale[stage] for stage in selected if stage in stale},
        "would_run": dvc_graph.must_run(needs, selected, stale),
        "unfinished": unfinished(root / ".trainyard" / "unfinished"),
        "champion": best,
        "challenger": next_one,
        "not_registered": None if stale else unregistered,  # stale stages make a new ensemble and register that
        "site_cache": site_cache.problem(root),
    }


def not_registered(params: params_file.Params) -> str | None:
    """Like `late_registration.not_registered`, or the reason why MLflow cannot be asked."""
    from flows.ensembles import late_registration

    try:
        return late_registration.not_registered(params)
    except UnavailableError as error:
        return str(error)


def unfinished(folder: Path) -> list[dict]:
    """Interrupted trainings that the next run resumes, the most recent first: dataset, member and seconds_ago."""
    found = []
    for member in folder.glob("*/*/"):
        written = max((file.stat().st_mtime for file in member.rglob("*") if file.is_file()), default=0.0)
        if written:
            found.append({"dataset": member.parent.name, "member": member.name, "seconds_ago": time.time() - written})
    return sorted(found, key=lambda training: training["seconds_ago"])


def champion(dataset: str) -> dict | None:
    """The registered champion; None if there is none; {"problem": why} if the registry cannot be asked."""
    if not ("MLFLOW_TRACKING_URI" in os.environ or (paths.home() / "mlflow.db").is_file()):
        return None  # a request would create the store
    try:
        from flows.tracking import loading

        return loading.champion(dataset)
    except Exception as error:  # there are a dozen classes for an unreachable server; the rest of the status stands
        if our_mistake(error):
            raise
        return {"problem": sentence(error, None)}


def challenger(dataset: str) -> dict | None:
    """The challenger, if it is not the champion or a promotion was interrupted; else None.

    Its keys are version, waiting and taken_back, see `promoting.standing`, and interrupted, a sentence or None; or
    only problem, if MLflow cannot be asked.
    """
    from flows.commands.champion import interruption
    from flows.promotion import promoting

    try:
        found = promoting.standing(dataset)
    except UnavailableError as error:
        return {"problem": str(error)}
    said = interruption(found["interrupted"]) if found["interrupted"] else None
    if not said and found["challenger"] in (None, found["champion"]):
        return None
    so_far = {name: found[name] for name in ("waiting", "taken_back")}
    return {"version": found["challenger"], **so_far, "interrupted": said}


def ago(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{counted(round(max(seconds, 0)), 'second')} ago"


def show(found: dict) -> None:
    click.echo(f"dataset     {found['dataset']}")
    if not found["would_run"]:
        click.echo("stages      everything is up to date")
    for index, stage in enumerate(found["would_run"]):
        why = ", ".join(found["stale"].get(stage, ["comes after a stale one"]))
        click.echo(f"{'would run' if index == 0 else '':<12}{stage}: {why}")
    for index, training in enumerate(found["unfinished"]):
        name = f"{training['member']} on {training['dataset']}, last written {ago(training['seconds_ago'])}"
        click.echo(f"{'unfinished' if index == 0 else '':<12}{name}")
    best = found["champion"]
    if best is None:
        click.echo("champion    none yet")
    elif "problem" in best:
        click.echo(f"champion    cannot be read: {best['problem']}")
    else:
        click.echo(f"champion    {best['name']} version {best['version']} (run {best['run_id']})")
    if next_one := found["challenger"]:
        click.echo(f"challenger  {describe(next_one)}")
    if found["not_registered"]:
        click.echo(f"ensemble    {found['not_registered']}")
    if found["site_cache"]:
        click.echo(f"warning     {found['site_cache']}")


def describe(challenger: dict) -> str:
    from flows.commands.champion import challenger_state

    if "problem" in challenger:
        return f"cannot be read: {challenger['problem']}"
    if challenger["interrupted"]:
        return challenger["interrupted"]
    return f"version {challenger['version']}, {challenger_state(challenger)}"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def command(as_json: bool) -> None:
    """What is stale and why, what is unfinished, what is champion."""
    found = status(paths.root())
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    run(command)
