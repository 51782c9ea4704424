"""The plan of a run: which stages have to run, in which order, and why."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.graph import dvc_graph


@dataclass(frozen=True)
class Plan:
    """Which stages have to run, and why.

    needs: the stages that each stage of the repository needs directly.
    stages: those that have to run, in an order in which they can.
    why: the reasons of each that has to run; empty for one that only follows another.
    up_to_date: the selected stages that need not run.
    """

    needs: dict[str, list[str]] = field(default_factory=dict)
    stages: list[str] = field(default_factory=list)
    why: dict[str, list[str]] = field(default_factory=dict)
    up_to_date: list[str] = field(default_factory=list)

    def needed(self, stage: str) -> list[str]:
        """The stages of this plan that the stage has to wait for."""
        return [name for name in self.needs[stage] if name in self.why]

    def reason(self, stage: str) -> str:
        return ", ".join(self.why[stage]) or f"after {', '.join(self.needed(stage))}"

    def widths(self) -> dict[str, int]:
        """How many stages may run at the same time as each stage, itself included.

        It is one more than the most stages on one level that neither need it nor are needed by it.
        """
        level = dvc_graph.levels(self.needs, self.stages)
        # A set of stages is the bits of an integer, so that comparing a thousand stages takes no time.
        bit = {stage: 1 << index for index, stage in enumerate(self.stages)}
        related = dict.fromkeys(self.stages, 0)
        for stage in self.stages:
            for needed in self.needed(stage):
                related[stage] |= related[needed] | bit[needed]
        after = dict.fromkeys(self.stages, 0)
        for stage in reversed(self.stages):
            for needed in self.needed(stage):
                after[needed] |= after[stage] | bit[stage]
        levels: Counter[int] = Counter()
        for stage in self.stages:
            levels[level[stage]] |= bit[stage]
        return {
            stage: 1 + max((one & ~(related[stage] | after[stage] | bit[stage])).bit_count() for one in levels.values())
            for stage in self.stages
        }


def plan(root: Path, targets: Sequence[str] = (), force: bool = False) -> Plan:
    """The plan for the targets, by default for all of dvc.yaml.

    Args:
        force: plans to run all of them, stale or not.

    Raises:
        InputError: a target is unknown, or DVC cannot read the project.
    """
    stale = dvc_graph.stale(root)
    main = any(dvc_graph.belongs(stage, dvc_graph.MAIN) or stage.endswith(".dvc") for stage in stale)
    if not (targets or force or main):
        return Plan()  # reading the graph takes as long as asking what is stale
    needs = dvc_graph.stages(root)
    selected = dvc_graph.select(needs, targets or (dvc_graph.MAIN,))
    stages = selected if force else dvc_graph.must_run(needs, selected, stale)
    why = {stage: stale.get(stage, ["forced"] if force else []) for stage in stages}
    return Plan(needs, stages, why, [stage for stage in selected if stage not in why and not stage.endswith(".dvc")])
