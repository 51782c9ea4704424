"""What Prefect's pages show of a pipeline beside its tasks: progress, results with links into MLflow, the model.

No artifact is worth a stage: where Prefect does not take one, that is said in the flow's log, and no more.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.graph.repro import Outcome
from flows.params.params_file import Params
from flows.project.errors import InputError, counted, our_mistake
from flows.reporting import by_task, results
from flows.servers.watch_server import away
from flows.untrusted.escaping import fenced, in_markdown
from flows.untrusted.masking import sentence

if TYPE_CHECKING:
    from uuid import UUID

MOST_ROWS = 100  # of stages in a table; the rest is counted


class Artifacts:
    """Those of one flow run; their keys begin with the dataset's name, so that Prefect shows each one's history."""

    def __init__(self, dataset: str, log: Callable[[str], None]) -> None:
        self.prefix = dataset.replace("_", "-")
        self.log = log
        self.bar: UUID | None = None
        self.lost = False

    def progress(self, done: int, total: int) -> None:
        """Draws the bar. Where that failed once it is not tried again: each try would hold up the next stage."""
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        percent = 100 * done / total
        text = f"{done} of {counted(total, 'stage')}"
        if self.lost or away.is_set():
            return
        if self.bar is None:
            self.bar = self.softly(create_progress_artifact, percent, f"{self.prefix}-progress", text)
            self.lost = self.bar is None
        else:
            self.lost = self.softly(update_progress_artifact, self.bar, percent, text) is None

    def results(self, markdown: str) -> None:
        from prefect.artifacts import create_markdown_artifact

        self.softly(create_markdown_artifact, markdown, f"{self.prefix}-results", "What ran, why, and what came out")

    def report(self, markdown: str, message: str) -> None:
        from prefect.artifacts import create_markdown_artifact

        self.softly(create_markdown_artifact, markdown, f"{self.prefix}-retrain", in_markdown(message))

    def model(self, link: str, text: str) -> None:
        from prefect.artifacts import create_link_artifact

        self.softly(create_link_artifact, link, text, f"{self.prefix}-model", "The registered model in MLflow")

    def softly(self, make: Callable, *arguments: object) -> Any:
        if away.is_set():
            self.log("Prefect's server is away: an artifact is left out")
            return None
        try:
            return make(*arguments)
        except Exception as error:  # Prefect's client raises what httpx does, and more
            if our_mistake(error):
                raise
            reason = sentence(error, 200)
            self.log(f"Prefect did not take an artifact: {reason}")
            return None


def account(
    name: str,
    params: Params,
    why: Mapping[str, str],
    up_to_date: Sequence[str],
    outcomes: Mapping[str, Outcome],
    pages: Mapping,
) -> str:
    """What happened, as markdown.

    Args:
        why: the reason of each stage that had to run, in their order.
        up_to_date: the stages that did not have to.
        outcomes: of the stages that ran.
        pages: as `page_links.pages` gives them, or {}.
    """
    lines = [f"# {name}", ""]
    for outcome in outcomes.values():
        if outcome.problem:
            lines += [f"**{outcome.stage} failed**: {in_markdown(outcome.problem)}", ""]
            lines += [*fenced(outcome.last_lines), ""]
    lines += table(params, pages)
    lines += ["## Stages", "", "| stage | | why | seconds |", "| --- | --- | --- | ---: |"]
    rows = [(stage, *row(outcomes.get(stage)), reason) for stage, reason in why.items()]
    rows += [(stage, "not run", "", "up to date") for stage in up_to_date]
    for stage, what, seconds, reason in rows[:MOST_ROWS]:
        lines.append(f"| {stage} | {what} | {in_markdown(reason)} | {seconds} |")
    if len(rows) > MOST_ROWS:
        lines.append(f"| and {len(rows) - MOST_ROWS} more | | | |")
    return "\n".join(lines)


def row(outcome: Outcome | None) -> tuple[str, str]:
    if outcome is None:
        return "**not run**, since what it needs failed", ""
    return ("**failed**" if outcome.problem else "done"), f"{outcome.seconds:.1f}"


def table(params: Params, pages: Mapping) -> list[str]:
    """The results, each row's name linked to its run; nothing where not all of them are measured."""
    try:
        rows = results.rows(params)
    except InputError:
        return []
    runs = pages.get("runs", {})
    lines = ["## Results", ""]
    headings = by_task.headings(params.feed.task)
    for line in (headings, ("---", *("---:" for _ in headings[1:]))):
        lines.append(f"| {' | '.join(line)} |")
    for name, *cells in rows:
        link = runs.get("ensemble") if name.endswith(" *") else runs.get(name)
        lines.append(f"| {' | '.join([f'[{name}]({link})' if link else name, *cells])} |")
    lines += ["", f"{by_task.legend(params.feed.task)} * was chosen on validation."]
    if "experiment" in pages:
        links = [f"[all runs]({pages['experiment']})"]
        links += [f"[the model]({pages['model']})"] if "model" in pages else []
        lines += ["", f"In MLflow: {', '.join(links)}"]
    return [*lines, ""]
