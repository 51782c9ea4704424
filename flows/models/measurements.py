"""What evaluate and ensemble measured, read back from metrics/<dataset>/."""

from flows.project import file_io, paths


def flat(replica: dict[str, dict[str, float]]) -> dict[str, float]:
    """{"test": {"nll": 1.0}} as MLflow names it: {"test_nll": 1.0}. The validation scores are those of the best
    epoch's weights, while `validation_nll` without a prefix is the curve over the epochs."""
    names = {"validation": "best_validation", "test": "test"}
    return {f"{names[split]}_{score}": value for split, numbers in replica.items() for score, value in numbers.items()}


def member_metrics(dataset: str, member: str) -> dict:
    """What evaluate measured. Raises like `read_json`."""
    keys = ("parameters", "replicas", "validation", "test")
    # DVC does not keep metrics in its cache, and so sees by itself that a file changed.
    return file_io.read_json(paths.member_metrics_file(dataset, member), *keys, heal="run dvc repro evaluate")


def ensemble_metrics(dataset: str) -> dict:
    """What ensemble measured. Raises like `read_json`."""
    keys = ("method", "test", "networks", "parameters")
    return file_io.read_json(paths.ensemble_metrics_file(dataset), *keys, heal="run dvc repro ensemble")
