"""MLflow's server with a login: `mlflow server`, with the same options and variables.

Run     TRAINYARD_PASSWORD=... python -m flows.tracking.mlflow_server

Its own variables: TRAINYARD_PASSWORD is the password of the user `trainyard`, TRAINYARD_LINKS the folder of one-time
links (without it there are none), and TRAINYARD_START the page that they open.
"""

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from flows.access.login import LINKS, PASSWORD, USER

if TYPE_CHECKING:
    from flows.access.door import Door

START = "TRAINYARD_START"
# MLflow has two sets of pages. Its default is the other one, for traces of chat models.
TRAINING = "workflowType=machine_learning"
EXPERIMENTS = f"/experiments?{TRAINING}"


def create() -> "Door":
    """The ASGI application of each process of the server."""
    from mlflow.server.fastapi_app import app

    from flows.access.basic_authentication import BasicAuthentication, page
    from flows.access.door import HOSTS, Door
    from flows.access.one_time_links import Links

    password, folder = os.environ[PASSWORD], os.environ.get(LINKS)
    return Door(
        BasicAuthentication(app, USER, password),
        (os.environ.get("MLFLOW_SERVER_ALLOWED_HOSTS") or HOSTS).split(","),
        Links(Path(folder)) if folder else None,
        lambda: ({"user": USER, "password": password}, []),
        page(os.environ.get(START) or EXPERIMENTS),
    )


class Plugin(metadata.Distribution):
    """A fake package: MLflow looks for apps in the entry points of installed packages, and ours may not be one."""

    def read_text(self, filename: str) -> str | None:
        return {
            "METADATA": "Metadata-Version: 2.1\nName: trainyard-login\nVersion: 1\n",
            "entry_points.txt": "[mlflow.app]\ntrainyard = flows.tracking.mlflow_server:create\n",
        }.get(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        return Path(path)


EVERYTHING = metadata.DistributionFinder.Context()


class Finder(metadata.DistributionFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Finds no modules."""

    def find_distributions(
        self, context: metadata.DistributionFinder.Context = EVERYTHING
    ) -> list[metadata.Distribution]:
        return [Plugin()] if context.name in (None, "trainyard-login") else []


def main() -> None:
    if not os.environ.get(PASSWORD):
        sys.exit(f"{PASSWORD} is not set: it is the password of the user {USER}")
    sys.meta_path.append(Finder())
    from mlflow.cli import server

    server(["--app-name", "trainyard", *sys.argv[1:]])


if __name__ == "__main__":
    main()
