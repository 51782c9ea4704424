"""What is told of a flow over a plan: its name, its end on the terminal, its artifacts on Prefect's pages."""

import json
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence

import click

from flows.graph.planning import Plan
from flows.graph.repro import Outcome, Repro
from flows.machine.processes import ClosedError, TimeLimitError
from flows.orchestration.artifacts import Artifacts, account
from flows.params import params_file
from flows.params.params_file import Params
from flows.project import git, paths
from flows.project.errors import InputError, counted


def run_name(dataset: str | None = None) -> str:
    """The name of a flow run: the dataset, by default that of params.yaml, and the commit."""
    try:
        return f"{dataset or params_file.read().dataset} {git.commit(paths.root(), short=True) or ''}".strip()
    except InputError:
        return dataset or "trainyard"  # the run itself says what is wrong


def not_run(plan: Plan, outcomes: Mapping[str, Outcome], failed: Sequence[str]) -> list[str]:
    """The stages that did not run because others failed."""
    return [stage for stage in plan.stages if stage not in outcomes and stage not in failed]


def summary(plan: Plan, outcomes: Mapping[str, Outcome], failed: Sequence[str]) -> str:
    """One sentence: what ran, or what failed and what therefore did not run."""
    if not failed:
        return f"{counted(len(plan.stages), 'stage')} ran, {len(plan.up_to_date):,} up to date"
    left = not_run(plan, outcomes, failed)
    return f"failed: {', '.join(failed)}" + (f"; not run because of it: {', '.join(left)}" if left else "")


def print_failures(plan: Plan, outcomes: Mapping[str, Outcome]) -> None:
    """Prints what failed, with its last lines, and what therefore did not run."""
    failed = [outcome for outcome in outcomes.values() if outcome.problem]
    for outcome in failed:
        click.echo(f"\n{outcome.stage} failed: {outcome.problem}. Its last lines:", err=True)
        for line in outcome.last_lines:
            click.echo(f"    {line}", err=True)
    left = not_run(plan, outcomes, ())
    if failed and left:
        click.echo(f"\nnot run because of it: {', '.join(left)}", err=True)


def show(artifacts: Artifacts, plan: Plan, params: Params, name: str, outcomes: Mapping, repro: Repro) -> None:
    """Writes the artifacts at a flow's end: what ran and why, what came out, and where MLflow has it."""
    pages = mlflow_pages(repro)
    why = {stage: plan.reason(stage) for stage in plan.stages}
    artifacts.results(account(name, params, why, plan.up_to_date, outcomes, pages))
    if "model" in pages:
        artifacts.model(pages["model"], f"{params.dataset} in MLflow's registry")


def mlflow_pages(repro: Repro) -> dict:
    """As `page_links.pages`; empty where MLflow cannot be asked. In a process of its own: MLflow takes seconds to
    import."""
    lines: deque[str] = deque(maxlen=1)
    command, env = [sys.executable, "-m", "flows.tracking.page_links"], {**os.environ, **repro.variables}
    try:
        code = repro.processes.run(command, lines.append, cwd=repro.root, env=env, time_limit=60)
        return json.loads(lines[0]) if code == 0 else {}
    except (ClosedError, TimeLimitError, IndexError, ValueError):
        return {}
