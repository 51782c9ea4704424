"""Stage ensemble: combines all replicas of all members, chooses the method on validation, scores it once on test.

Reads   data/<dataset>/ (labels), models/<dataset>/, predictions/<dataset>/, metrics/<dataset>/members/
Writes  metrics/<dataset>/ensemble.json; ensembles/<dataset>.json, the record of what the ensemble is made of;
        plots/<dataset>/ensemble/: methods.csv, weights.csv, classes.csv, confusion.csv, reliability.csv;
        registers the ensemble in MLflow as challenger, and as champion if there is none
Run     python -m flows.ensemble
"""

import click

from flows.ensembles import record
from flows.ensembles.combining import Combined, combine
from flows.ensembles.registering import register
from flows.machine.console import run
from flows.params.params_file import Params, read
from flows.project import file_io, paths
from flows.project.errors import counted
from flows.reporting import by_task, dvc_plots
from lightning_modules import names


def ensemble(params: Params) -> dict:
    """Combines, writes, registers.

    Returns:
        The content of metrics/<dataset>/ensemble.json: `Combined.result`.

    Raises:
        InputError: a member is not trained, or a file was changed.
    """
    paths.refuse_links("ensembles")
    combined = combine(params)
    write(params.dataset, combined)
    of_task = names.ENSEMBLES_OF[params.feed.task]
    if left := [name for name in map(names.name_of, params.ensemble.methods) if name not in of_task]:
        print(f"left out: {', '.join(left)}, which the task of {params.dataset}, {params.feed.task}, does not have")
    say(combined.result, params.feed.task)
    register(params.dataset)
    return combined.result


def write(name: str, combined: Combined) -> None:
    file_io.write_json(paths.ensemble_metrics_file(name), combined.result)
    record.write(combined.record)
    with (
        file_io.whole_folder(paths.plots_folder(name) / "ensemble") as unfinished,
        dvc_plots.Tables(unfinished) as files,
    ):
        for table, rows in combined.tables.items():
            files.add(table, rows)


def say(result: dict, task: str) -> None:
    test, gain = result["test"], result["gain"]
    if task != "classification":
        over = by_task.gain_text(gain)
        print(
            f"{result['method']} of {counted(result['networks'], 'network')}: {by_task.line(task, test)} "
            f"({over} over {result['best_member']})"
        )
        return
    apart = f"; two networks disagree on {result['disagreement']:.2%}" if result["networks"] > 1 else ""
    print(
        f"{result['method']} of {counted(result['networks'], 'network')}: test accuracy {test['accuracy']:.2%} "
        f"({gain['accuracy'] * 100:+.2f} points over {result['best_member']}), nll {test['nll']:.4f} "
        f"({-gain['nll']:+.4f}), ece {test['ece']:.4f}{apart}"
    )


@click.command()
def command() -> None:
    """Combine all replicas of all members, choose the method on validation, score it once on test, register it."""
    ensemble(read())


if __name__ == "__main__":
    run(command, libraries=True)
