"""Descriptions of a dataset's experiment and models for MLflow's pages, and the columns of the list of runs.

MLflow shows the first line of an experiment's description above its runs, so the verdict is that line.
"""

import json
import math

from flows.params.params_file import Params
from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.statistics.replicates import wilson_interval
from lightning_modules import names

MOST = 5000  # characters of a description that MLflow keeps
VIEW = "trainyard"  # the name of the view in links
COLUMNS = (
    "metrics.`test_accuracy`", "metrics.`test_nll`", "metrics.`test_ece`", "attributes.`Dataset`",
)  # fmt: skip
# The columns of `trainyard results` that a description does not have.
NOT_SHOWN = ("parameters", "seconds")


def columns_tag() -> dict[str, str]:
    """The tag of an experiment that gives links with viewStateShareKey=trainyard these columns.

    MLflow itself shows no metric until somebody chooses some.
    """
    return {f"mlflow.sharedViewState.{VIEW}": json.dumps({"selectedColumns": COLUMNS, "columnOrder": COLUMNS})}


def verdict(dataset: str, card: dict) -> str:
    """One line that says how good the ensemble is. For `card` see `registration.Registrar.register`."""
    who = f"{card['method']} of {card['networks']} networks ({card['members']})"
    if names.task_of(card) == "regression":
        return f"{of_numbers(dataset, card)}: {who}"
    accuracy, gain = card["metrics"].get("test_accuracy"), card["metrics"].get("gain_accuracy")
    if accuracy is None or accuracy != accuracy:  # NaN
        return f"{dataset}: not measured on test images. {who}"
    counts = data_card(dataset).get("counts")
    interval = ""
    if counts:
        low, high = wilson_interval(accuracy, counts["test"])
        interval = f" of {counts['test']:,} test images (95% interval {low:.1%} to {high:.1%})"
    over = f", {gain * 100:+.2f} points over the best member" if gain is not None else ""
    return f"**{accuracy:.2%}**{interval} of {dataset} are right{over}: {who}"


def of_numbers(dataset: str, card: dict) -> str:
    """How good an ensemble predicts a number."""
    mse, mae, explained = (card["metrics"].get(f"test_{score}", math.nan) for score in ("mse", "mae", "r2"))
    if math.isnan(mse):
        return f"{dataset}: not measured on test rows"
    return (
        f"**{card['target']['name']}** of {dataset} is predicted with a mean absolute error of {mae:.4g} on test "
        f"(mse {mse:.4g}, R² {explained:.3f})"
    )


def table(params: Params) -> str:
    """The results as a markdown table; empty where there are none."""
    from flows.reporting import by_task, results  # rich

    try:
        lines = results.rows(params)
    except InputError:
        return ""
    task = params.feed.task
    headings, beside = by_task.headings(task), f"validation {by_task.CHOSEN_BY[task]}"
    chosen = [number for number, heading in enumerate(headings) if heading not in (*NOT_SHOWN, beside)]
    head, *body = (" | ".join(line[number] for number in chosen) for line in (headings, *lines))
    rows = [f"| {head} |", f"|---{'|---:' * (len(chosen) - 1)}|", *(f"| {line} |" for line in body)]
    return "\n".join([*rows, "", f"{by_task.legend(task)} The way to vote (*) was chosen on validation images."])


def provenance_sentence(tags: dict[str, str]) -> str:
    """A sentence on the code, data and machine of a run, from its tags."""
    changed = ", with changes that are not committed" if tags["trainyard.git_dirty"] == "true" else ""
    return (
        f"Made from commit `{tags['mlflow.source.git.commit'][:12]}`{changed} and data `{tags['trainyard.data_hash']}` "
        f"by `{tags['mlflow.source.name']}` on {tags['trainyard.host']}, Python {tags['trainyard.python']}, torch "
        f"{tags['trainyard.torch']}."
    )


def answers(card: dict) -> str:
    """What a row that a model gives back holds."""
    task = names.task_of(card)
    if task == "regression":
        return f"has the number that is predicted, {card['target']['name']}"
    if task == "sequence":
        return "has a label, its classes one after another, and the probability of the alignment that it was read from"
    return "has a label and the probability of each class"


def usage(dataset: str, which: str, card: dict, store: str) -> str:
    """How to load and serve a model. `which` is a version, such as "/3", or an alias, such as "@champion"."""
    given, kind = f"N×{'×'.join(map(str, card['shape']))}", card.get("dtype", "uint8")
    first = f"numpy.load('data/{dataset}/test_images.npy')[:1].tolist()"
    one = f"import json, numpy; print(json.dumps({{'inputs': {first}}}))"
    return f"""Load it, in the project's folder; `images` are {kind}, {given}, and each row that comes back
{answers(card)}:

```python
mlflow.set_tracking_uri("{store}")
mlflow.pyfunc.load_model("models:/{dataset}{which}").predict(images)
```

Serve it, and ask it for the first test image:

```sh
MLFLOW_TRACKING_URI={store} mlflow models serve -m models:/{dataset}{which} --env-manager local --port 5001
python -c "{one}" \\
  | curl -s http://127.0.0.1:5001/invocations -H "Content-Type: application/json" --data @-
```"""


def joined(*parts: str) -> str:
    """The parts, separated by blank lines. Where they are too long, the last rows of the table are left out."""
    text = "\n\n".join(part for part in parts if part)
    while len(text) > MOST:
        lines = text.split("\n")
        rows = [number for number, line in enumerate(lines) if line.startswith("| ")]
        if len(rows) < 2:
            return text[:MOST]
        too_many = max(1, min(len(rows) - 1, (len(text) - MOST) // (len(lines[rows[-1]]) + 1) + 1))
        lines = [line for number, line in enumerate(lines) if number not in rows[-too_many:]]
        text = "\n".join(lines)
    return text


def data_card(dataset: str) -> dict:
    """The content of data/<dataset>/dataset.json; empty where there is none, as for a model made elsewhere."""
    try:
        return file_io.read_json(paths.data_folder(dataset) / "dataset.json")
    except FileNotFoundError:
        return {}
