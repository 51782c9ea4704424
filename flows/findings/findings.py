"""What a study found, in one object: its words, its table and its figures come from here, and so agree."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flows.findings.budget import Trials
from flows.statistics.comparisons import FEWEST_SEEDS, Comparison
from flows.statistics.paired import confidence_text
from flows.statistics.student import MOST_SEEDS, Interval
from flows.untrusted.escaping import in_markdown


@dataclass(frozen=True)
class Reach:
    """When the trainings of a variant reach the target.

    Attributes:
        median: over the seeds; a miss is infinite.
        reached: the number of seeds that reach it.
        amounts: one a seed.
    """

    median: float
    reached: int
    amounts: tuple[float, ...]


@dataclass(frozen=True)
class Finding:
    """What was found of one variant.

    Attributes:
        value: the one of the tuned hyper-parameter that was reported; None where nothing is tuned.
        scores: held-out, one a seed; see `Findings.seeds`.
        score: their mean and its t interval, not corrected for other variants.
        diverged: the seeds whose training diverged.
        diverged_tuning: of how many trainings of the tuning, out of `trials`, that is so.
        default: the score at the default value, where a tuned one is reported.
        comparison: with the baseline; None for the baseline itself.
        bracketed: whether smaller and larger values than the chosen one were tried; None where nothing was tuned.
        budget: the score after some trials of tuning.
        steps, time: until the target is reached, in steps and seconds; None where there is no target.
        seconds: of a training, median.
        training: the mean score on the training images.
        fit: see `verdicts.fit`; None for another measure than accuracy.
    """

    variant: str
    value: float | None
    scores: tuple[float, ...]
    score: Interval
    diverged: tuple[int, ...]
    diverged_tuning: int
    trials: int
    default: Interval | None
    default_value: float | None
    comparison: Comparison | None
    bracketed: bool | None
    budget: tuple[Trials, ...]
    steps: Reach | None
    time: Reach | None
    seconds: float
    training: float
    fit: str | None

    @property
    def word(self) -> str:
        return self.comparison.word if self.comparison else "baseline"


@dataclass(frozen=True)
class Findings:
    """What was found of all variants, in the order of the study.

    Attributes:
        measure: what is compared, such as accuracy.
        margin: see `comparisons.compare`; alpha too.
        tuned: the name of the hyper-parameter that is tuned.
        seeds: of the reported trainings.
        setting: tuned, or default where nothing is tuned.
    """

    baseline: str
    measure: str
    margin: float
    alpha: float
    tuned: str
    seeds: tuple[int, ...]
    setting: str
    findings: tuple[Finding, ...]

    def __getitem__(self, variant: str) -> Finding:
        return {finding.variant: finding for finding in self.findings}[variant]

    def ranked(self) -> list[Finding]:
        """The best mean score first."""
        return sorted(self.findings, key=lambda one: one.score.mean, reverse=self.measure == "accuracy")

    def words(self) -> list[str]:
        """A sentence a variant, in the order of the study."""
        return [self.sentence(finding) for finding in self.findings]

    def sentence(self, finding: Finding) -> str:
        said = f"{self.label(finding)}: {self.said(finding)}"
        if finding.diverged:
            said += f"; {len(finding.diverged)} of {len(self.seeds)} trainings diverged, and count as guessing"
        if finding.bracketed is False:
            said += f"; not bracketed: its best {self.tuned} is at the edge of what was tried"
        return said + "."

    def label(self, finding: Finding) -> str:
        """A variant with its value, where one was tuned: adam (lr 0.001)."""
        if finding.value is None or self.setting != "tuned":
            return finding.variant
        return f"{finding.variant} ({self.tuned} {finding.value:.3g})"

    def said(self, finding: Finding) -> str:
        seeds, compared = len(self.seeds), finding.comparison
        mean = self.text(finding.score.mean)
        if not compared:
            score = finding.score
            between = f", {confidence_text(self.alpha)} interval {self.text(score.low)} to {self.text(score.high)}"
            return f"the baseline, {mean} over {self.number_of_seeds()}{between if seeds > 1 else ''}"
        if seeds < FEWEST_SEEDS:
            difference = self.difference(compared.interval.mean)
            return (
                f"cannot tell from {self.baseline} with {self.number_of_seeds()}: {difference}, {mean} on average; "
                f"{self.would_decide(compared, FEWEST_SEEDS)}"
            )
        between = (
            f"{confidence_text(1 - compared.interval.level)} interval {self.amount(compared.interval.low)} to "
            f"{self.difference(compared.interval.high)}"
        )
        about = f"{self.difference(compared.interval.mean)} ({between}), {mean} over {self.number_of_seeds()}"
        match compared.word:
            case "better" | "worse":
                return f"{compared.word} than {self.baseline}, {about}"
            case "equivalent":
                return f"equivalent to {self.baseline} within {self.difference(self.margin, sign=False)}, {about}"
            case _:
                return f"cannot tell from {self.baseline}, {about}; {self.would_decide(compared)}"

    def would_decide(self, compared: Comparison, fewest: int = 0) -> str:
        if compared.seeds:
            return f"about {compared.seeds:,} seeds would"
        return f"at least {fewest} seeds would be needed" if fewest else f"not even {MOST_SEEDS:,} seeds would"

    def number_of_seeds(self) -> str:
        return f"{len(self.seeds)} seed{'s' if len(self.seeds) != 1 else ''}"

    def text(self, score: float) -> str:
        """A score: 97.50%, or 0.1234. An interval's end beyond what an accuracy can be is cut off."""
        return f"{min(max(score, 0.0), 1.0):.2%}" if self.measure == "accuracy" else f"{score:.4f}"

    def amount(self, difference: float, sign: bool = True) -> str:
        """A difference without its unit: +0.25, or +0.0123. With digits enough for the margin to be seen."""
        number, digits = (100 * difference, 2) if self.measure == "accuracy" else (difference, 4)
        return f"{number:{'+' if sign else ''}.{digits}f}"

    def difference(self, difference: float, sign: bool = True) -> str:
        """A difference: +0.25 points of accuracy, or +0.0123."""
        return f"{self.amount(difference, sign)}{' points' if self.measure == 'accuracy' else ''}"

    def table(self) -> list[dict[str, Any]]:
        """The numbers, a row a variant, for a CSV file: the same keys in each, None for what there is not."""
        budgets = self.budgets()
        return [self.row(finding, budgets) for finding in self.findings]

    def budgets(self) -> list[int]:
        """The numbers of trials that any variant has a score for."""
        return sorted({spent.trials for finding in self.findings for spent in finding.budget})

    def row(self, finding: Finding, budgets: Sequence[int]) -> dict[str, Any]:
        compared, spent = finding.comparison, {one.trials: one.mean for one in finding.budget}
        interval = compared.interval if compared and math.isfinite(compared.interval.low) else None
        return {
            "variant": finding.variant,
            self.tuned: finding.value,
            "word": finding.word,
            "seeds": len(self.seeds),
            "diverged": len(finding.diverged),
            self.measure: finding.score.mean,
            "low": finite(finding.score.low),
            "high": finite(finding.score.high),
            f"default_{self.tuned}": finding.default_value,
            "default": finding.default.mean if finding.default else None,
            "default_low": finite(finding.default.low) if finding.default else None,
            "default_high": finite(finding.default.high) if finding.default else None,
            "difference": compared.interval.mean if compared else None,
            "difference_low": interval.low if interval else None,
            "difference_high": interval.high if interval else None,
            "level": interval.level if interval else None,
            "p": compared.p if compared else None,
            "seeds_would": compared.seeds if compared else None,
            "bracketed": finding.bracketed,
            "trials": finding.trials,
            "trials_diverged": finding.diverged_tuning,
            **{f"after_{trials}_trials": spent.get(trials) for trials in budgets},
            "steps_to_target": finding.steps.median if finding.steps else None,
            "seconds_to_target": finding.time.median if finding.time else None,
            "reached": finding.steps.reached if finding.steps else None,
            "seconds": finding.seconds,
            "training": finding.training,
            "fit": finding.fit,
        }

    def markdown(self) -> str:
        """The table for a page: the best first, rounded; what no variant has is left out."""
        budgets = self.budgets()
        lines = [self.cells(finding, budgets) for finding in self.ranked()]
        headings = [name for name in lines[0] if any(line[name] for line in lines)]
        rows = [
            headings,
            ["---", *("---:" for _ in headings[1:])],
            *([line[name] for name in headings] for line in lines),
        ]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def cells(self, finding: Finding, budgets: Sequence[int]) -> dict[str, str]:
        compared, score, count = finding.comparison, finding.score, len(self.seeds)
        spent = {one.trials: self.text(one.mean) for one in finding.budget}
        difference = ""
        if compared:
            difference = self.amount(compared.interval.mean)
            if math.isfinite(compared.interval.low):
                difference += f" ({self.amount(compared.interval.low)} to {self.amount(compared.interval.high)})"
        unit = " (points)" if self.measure == "accuracy" else ""
        needed = f", {compared.seeds:,} seeds would" if compared and compared.seeds else ""
        edge = " (not bracketed)" if finding.bracketed is False else ""
        tuned = self.setting == "tuned" and finding.value is not None
        return {
            "": in_markdown(finding.variant),
            self.tuned: f"{finding.value:.3g}{edge}" if tuned else "",
            self.measure: self.text(score.mean)
            + (f" ({self.text(score.low)} to {self.text(score.high)})" if count > 1 else ""),
            "at default": self.text(finding.default.mean) if finding.default else "",
            f"against {in_markdown(self.baseline)}{unit}": difference,
            "verdict": finding.word + needed,
            "diverged": f"{len(finding.diverged)} of {count}" if finding.diverged else "",
            **{f"{trials} trial{'s' if trials > 1 else ''}": spent.get(trials, "") for trials in budgets},
            "steps to target": reach_text(finding.steps, count),
            "seconds to target": reach_text(finding.time, count),
            "training": self.text(finding.training),
            "fit": finding.fit or "",
        }


def finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def reach_text(reach: Reach | None, seeds: int) -> str:
    """The median and, where some seeds miss the target, how many reach it."""
    if reach is None:
        return ""
    missed = "" if reach.reached == seeds else f" ({reach.reached} of {seeds})"
    return (f"{reach.median:,.4g}" if math.isfinite(reach.median) else "never") + missed
