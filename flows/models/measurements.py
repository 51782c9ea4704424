"""Reads the metrics of stages evaluate and ensemble from metrics/<dataset>/."""

from flows.project import file_io, paths


def mlflow_names(replica: dict[str, dict[str, float]]) -> dict[str, float]:
    """Scores by split under the names that they have in MLflow: {"test": {"nll": 1.0}} becomes {"test_nll": 1.0}.

    Validation scores are those of the best epoch, `best_validation_nll`; `validation_nll` is the curve over epochs.
    """
    names = {"validation": "best_validation", "test": "test"}
    return {f"{names[split]}_{score}": value for split, numbers in replica.items() for score, value in numbers.items()}


def member_metrics(dataset: str, member: str) -> dict:
    """The metrics of a member. Raises like `read_json`."""
    keys = ("parameters", "replicas", "validation", "test")
    # Metrics are not in DVC's cache, so `dvc repro` notices a changed file.
    return file_io.read_json(paths.member_metrics_file(dataset, member), *keys, heal="run dvc repro evaluate")


def ensemble_metrics(dataset: str) -> dict:
    """The metrics of the ensemble. Raises like `read_json`."""
    keys = ("method", "test", "networks", "parameters")
    return file_io.read_json(paths.ensemble_metrics_file(dataset), *keys, heal="run dvc repro ensemble")
