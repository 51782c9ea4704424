"""What MLflow keeps of a study."""

import hashlib
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.findings.findings import Findings
from flows.project import paths
from flows.studies.log_process import LogProcess
from flows.studies.specification import Repeat, Study
from flows.studies.variants import Variant
from flows.tracking.study_runs import StudyLog

# Means over the seeds that did not diverge. The held-out accuracy is that of the findings, in which these guess.
METRICS = (
    "held_out_nll", "validation_accuracy", "validation_nll", "training_accuracy", "seconds",
)  # fmt: skip


def log(
    process: LogProcess,
    name: str,
    study: Study,
    variants: Sequence[Variant],
    rows: Sequence[dict],
    found: Findings,
    files: Mapping[str, str],
) -> None:
    """Begins to log the study, with its tables and figures, unless this result of it is logged already.

    Args:
        process: that logs it. It waits for the files until its `finish` is called.
        files: the SHA-256 of each file of the images.
    """
    data = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    content = [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]
    digest = hashlib.sha256(json.dumps([name, study.model_dump(), content], sort_keys=True).encode()).hexdigest()
    params = study.model_dump(exclude={"about", "variants", "vary"})
    stage = f"{'repeat' if isinstance(study, Repeat) else 'study'}@{name}"
    log = StudyLog(name, stage, study.about, study.dataset, data, digest)
    folders = [paths.study_folder(name), paths.study_figures(name)]
    process.log(log, params, list(entries(variants, rows, found)), folders)


def entries(variants: Sequence[Variant], rows: Sequence[dict], found: Findings) -> Iterator[dict[str, Any]]:
    """One for each variant and setting that has trainings on the fresh seeds."""
    for variant in variants:
        for setting in ("default", "tuned"):
            own = [row for row in rows if (row["variant"], row["setting"]) == (variant.name, setting)]
            if not own:
                continue
            recipe, settings = variant.at(own[0]["value"])
            finding = found[variant.name]
            score = finding.score if setting == found.setting else finding.default
            metrics = {key: [row[key] for row in own if math.isfinite(row[key])] for key in METRICS}
            yield {
                "name": variant.name,
                "setting": setting,
                "params": {**recipe, **settings},
                "metrics": {key: statistics.fmean(values) for key, values in metrics.items() if values}
                | ({"held_out_accuracy": score.mean} if score else {})
                | {"diverged": float(sum(row["diverged"] for row in own)), "seeds": float(len(own))},
                "word": finding.word if setting == found.setting else "",
            }
