"""`trainyard COMMAND`. A command's code is imported only when it is called, so that `--help` stays instant."""

import importlib

import click

from flows.machine.console import run

COMMANDS = {
    "check": ("flows.check", "Check params.yaml (a DVC stage)."),
    "download": ("flows.download", "Fetch, verify and decode the dataset (a DVC stage)."),
    "settings": ("flows.settings", "Write down what all trainings depend on (a DVC stage)."),
    "train": ("flows.train", "Train one member's replicas (a DVC stage)."),
    "evaluate": ("flows.evaluate", "Score every member on validation and test (a DVC stage)."),
    "ensemble": ("flows.ensemble", "Combine the members, choose on validation, score once, register (a DVC stage)."),
    "pipeline": ("flows.pipeline", "Run the stale stages in parallel with Prefect."),
    "retrain": ("flows.retrain", "Take in new images, run what is stale, promote what is better."),
    "study": ("flows.commands.study", "Compare optimizers, dropout, networks, ... fairly, and say what is better."),
    "results": ("flows.commands.results", "Print the table of members and ensembles."),
    "status": ("flows.commands.status", "What is stale and why, what is unfinished, what is champion."),
    "champion": ("flows.commands.champion", "Who is champion, since when and why."),
    "promote": ("flows.commands.promote", "Judge the challenger, and make it champion where it is truly better."),
    "rollback": ("flows.commands.rollback", "Take the champion back: the previous one becomes champion again."),
    "trust": ("flows.commands.trust", "Load a registered model that another project, or machine, registered."),
    "predict": ("flows.commands.predict", "Classify image files with the champion."),
    "export": ("flows.commands.export", "Write a member's weights and the dataset as .npz files."),
    "drift": ("flows.commands.drift", "Say whether incoming images differ from those the champion knows."),
    "race": ("flows.commands.race", "Let optimizers race down surfaces that one can look at, and draw it."),
    "track": ("flows.commands.track", "Log to MLflow what could not be logged, and end runs whose process is gone."),
    "serve": (
        "flows.operations.serve",
        "Retrain on a schedule: Prefect's server, deployments, a worker and MLflow's pages.",
    ),
    "worker": ("flows.operations.worker", "Run stages for a Dask scheduler, in this working copy."),
    "serve-postgres": ("flows.operations.serve_postgres", "The same as serve, on PostgreSQL and an S3 store."),
    "ui": ("flows.operations.ui", "Open MLflow's UI on this project's store."),
}


class Commands(click.Group):
    """Knows its commands' names and one-line helps without importing them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return importlib.import_module(COMMANDS[name][0]).command if name in COMMANDS else None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands)
@click.version_option(package_name="trainyard")
def trainyard() -> None:
    """Train image classifiers, compare them honestly, combine them and keep the best one in service.

    The order of work is in dvc.yaml, every number to turn in params.yaml. `dvc repro` runs what is stale, one
    stage after another; `trainyard pipeline` runs the same graph in parallel.
    """


def main() -> None:
    run(trainyard)


if __name__ == "__main__":
    main()
