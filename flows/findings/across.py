"""What studies of the same variants found on several datasets: their table and their figures come from one object."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.findings.findings import Findings
from flows.untrusted.escaping import in_markdown


@dataclass(frozen=True)
class Outcome:
    """What a study found of one variant.

    Attributes:
        word: its verdict.
        difference: to the baseline, in accuracy; None for the baseline itself.
        steps: until the target is reached, a median over seeds; infinite for a miss, None where there is no target.
    """

    variant: str
    word: str
    difference: float | None
    steps: float | None

    @property
    def points(self) -> float:
        """The difference in points of accuracy; 0 for the baseline."""
        return 100 * (self.difference or 0.0)


@dataclass(frozen=True)
class Across:
    """The outcomes on several datasets.

    Attributes:
        by_dataset: in the order of the studies.
    """

    baseline: str
    by_dataset: Mapping[str, Sequence[Outcome]]

    @property
    def datasets(self) -> list[str]:
        return list(self.by_dataset)

    @property
    def rows(self) -> dict[str, list[Outcome]]:
        """The outcomes of each variant that all studies have, one a dataset; the best on average first."""
        named = [{one.variant: one for one in found} for found in self.by_dataset.values()]
        shared = {name: [one[name] for one in named] for name in named[0] if all(name in one for one in named)}
        return dict(sorted(shared.items(), key=lambda row: -statistics.fmean(one.points for one in row[1])))

    def markdown(self) -> str:
        """A table: a row a variant, a column a dataset, each cell the difference in points and the verdict."""
        lines = [
            ["", *(f"{dataset} (points)" for dataset in self.datasets)],
            ["---", *("---:" for _ in self.datasets)],
            *([in_markdown(name), *map(cell, row)] for name, row in self.rows.items()),
        ]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(one: Outcome) -> str:
    return one.word if one.difference is None else f"{one.points:+.2f}, {one.word}"


def outcomes(findings: Findings) -> list[Outcome]:
    """What a study of this process found."""
    return [
        Outcome(
            one.variant,
            one.word,
            one.comparison.interval.mean if one.comparison else None,
            one.steps.median if one.steps else None,
        )
        for one in findings.findings
    ]
