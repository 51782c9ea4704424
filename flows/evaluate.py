"""Stage evaluate: scores every member and replica on validation and test.

Reads   data/<dataset>/, models/<dataset>/<member>/ of the members in params.yaml
Writes  predictions/<dataset>/: <member>.<split>.npy (predictions, see `tasks.interface`: of classes log-probabilities,
        replicas × images × classes), files.json (the SHA-256 of each), scores.json of each replica, and of classes
        classes.json (precision, recall, F1 and confusion matrix);
        metrics/<dataset>/members/<member>.json;
        plots/<dataset>/members/: curves.csv, and of classes classes.csv, confusion.csv, reliability.csv, of numbers
        predicted.csv
Run     python -m flows.evaluate

Each trained network is scored once on the test images. Every choice is made on validation.
"""

import click
import numpy as np

from flows.machine import hardware
from flows.machine.console import run
from flows.models import measurements, trained_members
from flows.params.params_file import Params, read
from flows.project import file_io, paths
from flows.reporting import by_task, dvc_plots
from flows.statistics.replicates import summarize
from lightning_modules import names, sealed


def evaluate(params: Params) -> dict:
    """Predicts with every replica of every member, writes predictions, metrics and plots, and logs the metrics.

    Returns:
        By member: the number of parameters, the number of replicas, and for validation and test each score's mean and
        standard deviation over the replicas, and of other tasks than classification, for test, the ends of its 95 %
        interval, <score>_low and <score>_high. The same is in metrics/<dataset>/members/.

    Raises:
        InputError: a member is not trained, or the data was changed.
    """
    import torch

    from flows.data import dataset, plain_arrays
    from flows.tracking.member_runs import Scores
    from lightning_modules import scores, tasks, weights

    name = params.dataset
    data = dataset.load(name)
    kind, task = names.task_of(data.card), tasks.of(data.card)
    accelerator = hardware.accelerator(params.training.accelerator, params.training.devices)
    device = "cuda" if accelerator == "gpu" else "cpu"
    paths.refuse_links(*(f"{folder}/{name}" for folder in ("predictions", "plots", "metrics")))
    trained_members.check(name, params.members)
    trained_members.drop_all_but(name, params.members)
    splits = {split: (*data.split_view(split), torch.from_numpy(data.labels(split))) for split in paths.SPLITS}
    folder = paths.predictions_file(name, "", "").parent
    pictures = paths.plots_folder(name) / "members"
    numbers_of = paths.member_metrics_file(name, "").parent
    cards, metrics, files = {}, {}, {}
    each_replica: dict[str, list[dict]] = {}
    each_class: dict[str, list[dict]] = {}
    with (
        file_io.whole_folder(folder) as unfinished,
        file_io.whole_folder(pictures) as unfinished_pictures,
        file_io.whole_folder(numbers_of) as unfinished_numbers,
        dvc_plots.Tables(unfinished_pictures) as tables,
    ):
        for member in params.members:
            # One member at a time: the networks of a thousand members may not fit into memory.
            card, predictors = trained_members.load(name, member)
            cards[member] = card
            class_names = card["class_names"]
            each_replica[member] = [{} for _ in predictors]
            each_class[member] = [{} for _ in predictors]
            metrics[member] = {"parameters": card["parameters"], "replicas": len(predictors)}
            tables.add("curves", dvc_plots.curves(member, trained_members.history(name, member)))
            for split, (images, _, rows, labels) in splits.items():
                predicted = torch.stack([weights.predict(one, images, device, rows=rows) for one in predictors])
                file = unfinished / f"{member}.{split}.npy"
                np.save(file, predicted.numpy(), allow_pickle=False)
                files[file.name] = plain_arrays.file_sha256(file)
                measured = [task.score(one, labels) for one in predicted]
                for number, one in enumerate(predicted):
                    each_replica[member][number][split] = measured[number]
                    if kind == "classification":
                        each_class[member][number][split] = {
                            "classes": scores.per_class(one, labels, class_names),
                            "confusion": scores.confusion(one, labels),
                        }
                metrics[member][split] = summarize(measured)
            test = metrics[member]["test"]
            test |= by_task.intervals(kind, task, predicted, labels)
            # The first replica's plots stand for the member: those of several would be drawn over each other.
            for table, rows_of in by_task.plots(kind, member, predicted[0], labels, class_names).items():
                tables.add(table, rows_of)
            print(f"{member}: {by_task.line(kind, test)}", flush=True)
        file_io.write_json(unfinished / "scores.json", each_replica)
        if kind == "classification":
            file_io.write_json(unfinished / "classes.json", each_class)
        file_io.write_json(unfinished / "files.json", sealed.sealed({"files": files}))
        for member, numbers in metrics.items():
            file_io.write_json(unfinished_numbers / f"{member}.json", numbers)
    runs = Scores(name)
    for member, card in cards.items():
        runs.log(member, card, [measurements.mlflow_names(replica) for replica in each_replica[member]])
    return metrics


@click.command()
def command() -> None:
    """Score every member and replica of params.yaml on validation and test."""
    evaluate(read())


if __name__ == "__main__":
    run(command, libraries=True)
