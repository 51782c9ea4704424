"""What a retrain did and why, as markdown: reports/<dataset>-retrain-<time>.md."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from flows.graph.repro import Outcome
from flows.orchestration import artifacts
from flows.params import params_file
from flows.project import file_io
from flows.untrusted.escaping import in_markdown

SIDES = ("challenger", "champion")


def write(
    root: Path,
    dataset: str,
    said: Sequence[str],
    batches: Sequence[dict],
    why: Mapping[str, str],
    outcomes: Mapping[str, Outcome],
    decision: dict | None,
    pages: Mapping,
) -> Path:
    """Writes the report of a run, with the results as the working folder has them; returns the file.

    Args:
        root: of the project, which keeps the reports.
        said: the sentences that sum it up.
        batches: as `incoming.take_in` gives them.
        why: the reason of each stage that had to run since the retrain was begun.
        outcomes: of the stages that ran in this run.
        decision: the gate's, where it was asked.
        pages: as `page_links.pages` gives them, or {}.
    """
    now = datetime.now().astimezone()
    lines = [f"# Retrain of {dataset}, {now.isoformat(timespec='seconds')}", ""]
    lines += [f"* {in_markdown(sentence)}" for sentence in said]
    lines += ["", *of_images(batches), *of_stages(why, outcomes), *artifacts.table(params_file.read(), pages)]
    lines += of_gate(decision["numbers"] if decision else {})
    file = root / "reports" / f"{dataset}-retrain-{now:%Y%m%dT%H%M%S}.md"
    with file_io.whole(file) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
    return file


def of_images(batches: Sequence[dict]) -> list[str]:
    """How many were taken in by class, and why each of the others was not."""
    accepted = Counter(entry["class"] for batch in batches for entry in batch["accepted"])
    refused = [entry for batch in batches for entry in batch["refused"]]
    lines = []
    if accepted:
        lines += ["## Images taken in", "", "| class | images |", "| --- | ---: |"]
        lines += [f"| {in_markdown(name)} | {count} |" for name, count in sorted(accepted.items())] + [""]
    if refused:
        lines += ["## Images refused", "", "| file | now, below data/rejected/ | why |", "| --- | --- | --- |"]
        for entry in refused:
            cells = (in_markdown(entry[key]) for key in ("file", "target", "reason"))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines


def of_stages(why: Mapping[str, str], outcomes: Mapping[str, Outcome]) -> list[str]:
    if not why:
        return []
    lines = ["## Stages", "", "| stage | why | seconds |", "| --- | --- | ---: |"]
    for stage, reason in why.items():
        outcome = outcomes.get(stage)
        # Without an outcome it ran before this run, or did not come to run: the sentences above tell which.
        took = (in_markdown(outcome.problem or "") or f"{outcome.seconds:.1f}") if outcome else ""
        lines.append(f"| {stage} | {in_markdown(reason)} | {took} |")
    return [*lines, ""]


def of_gate(numbers: Mapping) -> list[str]:
    """The two models on the test images; nothing where they were not compared."""
    if "accuracy" not in numbers:
        return []
    lines = [f"## Gate, on {numbers['test_images']:,} test images", ""]
    lines += ["| | challenger | champion |", "| --- | ---: | ---: |"]
    for name, form in (("accuracy", ".2%"), ("nll", ".4f"), ("ece", ".4f"), ("latency_ms", ".3g")):
        cells = [format(numbers[name][side], form) if side in numbers[name] else "" for side in SIDES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]
