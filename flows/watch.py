"""The flow behind the deployment `incoming`: retrains as soon as labelled images lie in data/incoming/.

Reads   data/incoming/
Writes  what `flows.retrain` writes, and nothing where no images wait

It is a flow on a short schedule, not a process that watches the folder: it finds what arrived while everything was
down, needs nothing to be started beside the worker, and its last look can be seen on Prefect's page. A look at
an empty folder takes a second or two.
"""

from collections.abc import Iterator
from pathlib import Path

from prefect import flow
from prefect.states import Completed

from flows import project


def waiting(folder: Path) -> Iterator[Path]:
    """The files below the folder but hidden ones, such as .gitkeep or what a copy is still being written to."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


@flow(name="watch", persist_result=False)
def watch(
    dataset: str | None = None,
    workers: int | None = None,
    promote: bool = True,
    push: bool = True,
    commit: bool = False,
    time_limit: float | None = None,
):
    """Retrains where images wait in data/incoming/; else it ends at once, and says so."""
    folder = project.root() / "data" / "incoming"
    if next(waiting(folder), None) is None:
        return Completed(name="Skipped", message="data/incoming/ is empty")
    from flows.retrain_flow import retrain

    return retrain(
        dataset=dataset, workers=workers, fresh_seed=False, promote=promote, push=push, commit=commit,
        time_limit=time_limit, return_state=True,
    )  # fmt: skip
