"""Where a retrain runs, that it is alone there, and what an earlier one that did not end has left to do.

Writes  .trainyard/retrain/: a lock per dataset, and a note per retrain that was begun and has not ended
"""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flows.graph import working_copy
from flows.params import params_file
from flows.project import file_io, paths
from flows.project.errors import InputError


@dataclass
class Round:
    """A retrain from the first stage to the report. It may take several runs, and is noted until it has ended well."""

    seed: int
    since: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))
    why: dict[str, str] = field(default_factory=dict)  # the stages that had to run, with the reason of each


def round_of(content: dict) -> Round:
    """Raises TypeError where the note is none."""
    found = Round(**content)
    if not (isinstance(found.seed, int) and isinstance(found.since, str) and isinstance(found.why, dict)):
        raise TypeError
    return found


class Place:
    """Of a dataset: the project itself, or a working copy for another dataset or seed than that of params.yaml.

    Args:
        fresh_seed: train with another seed than that of params.yaml. What was left goes on with its own.

    Raises:
        InputError: params.yaml does not know the dataset.
    """

    def __init__(self, root: Path, dataset: str | None, fresh_seed: bool) -> None:
        self.root = root
        self.settings = params_file.read(root / "params.yaml")
        self.dataset = dataset or self.settings.dataset
        if self.dataset not in self.settings.data:
            known = ", ".join(self.settings.data)
            raise InputError(f"params.yaml has no block data.{self.dataset}: datasets to retrain are {known}")
        self.fresh_seed = fresh_seed
        # Images come in for the dataset that params.yaml names.
        self.takes_in = self.dataset == self.settings.dataset
        self.is_project = self.takes_in and not fresh_seed
        self.name = f"{self.dataset}-fresh" if fresh_seed else self.dataset
        self.notes = paths.home() / ".trainyard" / "retrain"
        self.new_seed = secrets.randbelow(2**32) if fresh_seed else self.settings.seed
        self.look()

    @property
    def note(self) -> Path:
        return self.notes / f"{self.name}.json"

    def look(self) -> None:
        """Reads what an earlier run has left: `left`, None if nothing, and the seed to go on with."""
        begun = self.note.exists()
        self.left = file_io.read_or_anew(self.note, round_of, None)
        if begun and self.left is None:
            # Of a damaged note nothing is missed but why stages ran: DVC knows what is done.
            self.left = Round(self.seed_of_copy() if self.fresh_seed else self.new_seed)
        self.seed = self.left.seed if self.left and self.fresh_seed else self.new_seed

    def seed_of_copy(self) -> int:
        """With which the working copy is trained; a new one where there is none."""
        try:
            return int(file_io.read_yaml(working_copy.folder(self.root, self.name) / "params.yaml")["seed"])
        except (OSError, ValueError, KeyError, TypeError):
            return self.new_seed

    def keep(self, now: Round) -> None:
        file_io.write_json(self.note, vars(now))

    def forget(self) -> None:
        self.note.unlink(missing_ok=True)

    def folder(self) -> Path:
        """Raises InputError where params.yaml cannot work with the dataset."""
        if self.is_project:
            return self.root
        return working_copy.make(self.root, self.name, self.changes)

    @property
    def changes(self) -> dict:
        """Of params.yaml, in the working copy."""
        return {"dataset": self.dataset, "seed": self.seed}

    def folder_as_it_is(self) -> Path | None:
        """The folder, if nothing has to be written before it can be looked at. Raises like `folder`."""
        if self.is_project:
            return self.root
        if working_copy.is_current(self.root, self.name, self.changes):
            return working_copy.folder(self.root, self.name)
        return None

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no other retrain is at work on the dataset, or on data/incoming/ where that is looked at.

        Looks again, for the other one may have ended since.
        """
        from filelock import FileLock, Timeout

        self.notes.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                for name in (self.dataset, *(["incoming"] if self.takes_in else [])):
                    stack.enter_context(FileLock(self.notes / f"{name}.lock", timeout=0))
            except Timeout:
                yield False
                return
            self.look()
            yield True
