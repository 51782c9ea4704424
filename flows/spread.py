"""Means and standard deviations over replicas."""

import statistics


def spread(replicas: list[dict[str, float]]) -> dict[str, float]:
    """Each number's mean over the replicas and, where there are several, its standard deviation as `<name>_std`."""
    result = {}
    for name in replicas[0]:
        values = [replica[name] for replica in replicas]
        result[name] = statistics.fmean(values)
        if len(values) > 1:
            result[f"{name}_std"] = statistics.stdev(values)
    return result


def mean_and_std(numbers: dict[str, float]) -> str:
    """The accuracy for a person; that of a single replica has no deviation."""
    deviation = f" ± {numbers['accuracy_std']:.2%}" if "accuracy_std" in numbers else ""
    return f"{numbers['accuracy']:.2%}{deviation}"
