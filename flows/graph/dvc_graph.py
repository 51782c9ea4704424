"""What DVC knows: which stages there are, which of them are stale and why, and which have to run.

The order of work is written in dvc.yaml alone. Only the graph is read through DVC's Python API, in one function;
everything else uses its command line.
"""

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flows.graph import dvc_command, site_cache
from flows.project import file_io
from flows.project.errors import InputError, unknown
from flows.untrusted import special_files
from flows.untrusted.masking import sentence

# What `dvc repro` runs without arguments. Studies have a dvc.yaml of their own, and run when named.
MAIN = "dvc.yaml"

# A stage that writes the same whatever it reads: later stages wait for it, but it makes none of them stale.
CHECK = "check"


def stages(root: Path) -> dict[str, list[str]]:
    """Every stage of the repository, with the stages that it needs directly.

    Raises:
        InputError: there is no DVC repository, or DVC cannot read dvc.yaml.
    """
    with place_to_ask(root) as place:
        graph = read(place)
        names = {stage: name(stage, place) for stage in graph}
    return {names[stage]: sorted(names[needed] for needed in graph.successors(stage)) for stage in names}


def uncached(root: Path) -> dict[str, list[str]]:
    """The paths, relative to the root, of each stage's outs with `cache: false`, such as metrics.

    Raises InputError like `stages`.
    """
    with place_to_ask(root) as place:
        return {
            name(stage, place): [os.path.relpath(out.fs_path, place) for out in stage.outs if not out.use_cache]
            for stage in read(place)
        }


def read(root: Path) -> Any:
    """DVC's graph: a networkx DiGraph of DVC's stage objects."""
    # Takes 0.3 s, and is not needed where nothing is stale.
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    site_cache.keep_private(root)
    try:
        return Repo(os.fspath(root)).index.graph
    except DvcException as error:
        raise InputError(f"DVC cannot read the stages: {with_advice(sentence(error, None))}") from None


def with_advice(said: str) -> str:
    """What DVC says of a mistake. It reads every dvc.yaml before it does anything, also those of other pipelines."""
    if "studies/" not in said:
        return said
    return f"{said}; a mistake in studies/studies.yaml stops the main pipeline too, and `trainyard study` names it"


def name(stage: Any, root: Path) -> str:
    """The stage's name on DVC's command line at the root. DVC's own `addressing` depends on the current folder."""
    file = os.path.relpath(stage.path, root)
    own = getattr(stage, "name", None)
    if own is None:
        return file
    return own if file == MAIN else f"{file}:{own}"


def stale(root: Path) -> dict[str, list[str]]:
    """The stages whose files, params or command differ from dvc.lock, with the reasons.

    Later stages are not included, though they may have to run. A reason says so where `dvc checkout` restores an out
    from DVC's cache, for example after `git stash`: then nothing has to run.

    Raises:
        InputError: DVC cannot tell, because there is no repository or no valid dvc.yaml.
    """
    special_files.refuse(root)
    # The whole repository: 3 s for a thousand stages, and several times as much with --with-deps.
    try:
        with place_to_ask(root) as place:
            answer = json.loads(dvc_command.ask(place, "status", "--json"))
    except InputError as error:
        raise InputError(f"DVC cannot tell what is stale: {with_advice(str(error))}") from None
    stages_of = functools.cache(described)  # one file may describe a thousand stages
    # Metrics are not in DVC's cache, but in git. Look them up only where an out has changed.
    not_kept = uncached(root) if any(map(changed_outs, answer.values())) else {}
    found = {}
    for stage, changes in answer.items():
        file, _, own = stage.rpartition(":")
        source = root / (file or MAIN)
        locked = stages_of(source.with_name("dvc.lock")).get(own)
        if locked is None and not stage.endswith(".dvc"):  # a .dvc file is no stage that can run
            found[stage] = ["never run"]
        else:
            changed = command_or_params(own, (locked or {}).get("cmd", ""), stages_of(source))
            found[stage] = reasons(changes, changed, not_kept.get(stage, []))
    return found


def changed_outs(changes: list) -> set[str]:
    """The outs of a stage that DVC reports as modified or deleted; none where the stage has to run for another reason.

    "modified" and "deleted" also mean that DVC's cache has what dvc.lock names: DVC checks that first.
    """
    files = [entry for change in changes if isinstance(change, dict) for entry in change.values()]
    if len(files) < len(changes) or any(isinstance(what, dict) for entry in files for what in entry.values()):
        return set()
    outs = [change.get("changed outs", {}) for change in changes]
    return {file for entry in outs for file, what in entry.items() if what in ("modified", "deleted")}


@contextlib.contextmanager
def place_to_ask(root: Path) -> Iterator[Path]:
    """Yields the folder in which to run DVC's queries: the project, or a temporary folder of links to its files.

    DVC writes a lock even for queries, and in a read-only project it cannot.
    """
    folder = root / ".dvc"
    locks = [folder, folder / "tmp", folder / "tmp" / "lock", folder / "tmp" / "rwlock"]
    if not folder.is_dir() or all(os.access(place, os.W_OK) for place in locks if place.exists()):
        yield root
        return
    from flows.graph import working_copy

    with tempfile.TemporaryDirectory(prefix="trainyard-") as temporary:
        place = Path(temporary).resolve()
        link(root, place)
        (place / ".dvc").mkdir()
        (place / ".dvc" / "config").write_text(working_copy.config(folder), encoding="utf-8")
        yield place


def link(folder: Path, place: Path) -> None:
    """Links the content of `folder` into `place`. Folders with DVC's files become real ones: DVC searches no links."""
    for entry in folder.iterdir():
        target = place / entry.name
        if entry.name in (".dvc", ".git", ".trainyard"):
            continue
        plain = entry.is_dir() and not entry.is_symlink() and not entry.name.startswith(".")
        if plain and any(path.name == MAIN or path.suffix == ".dvc" for path in entry.rglob("*")):
            target.mkdir()
            link(entry, target)
        else:
            target.symlink_to(entry)


def described(file: Path) -> dict[str, dict]:
    """The entries of the stages in a dvc.yaml or dvc.lock, by name."""
    content = file_io.read_yaml(file) if file.is_file() else None
    return (content.get("stages") if isinstance(content, dict) else None) or {}


def command_or_params(stage: str, locked: str, descriptions: dict[str, dict]) -> str:
    """What to name as changed where a stage's command differs from the `locked` one: "cmd", or a key of params.yaml.

    The command of a member's stage has the member's block of params.yaml after a #.
    """
    group, _, key = stage.partition("@")
    description = descriptions.get(group, {})
    program, item, _ = str(description.get("do", description).get("cmd", "")).partition("  # ${item}")
    if item and locked.partition("  # ")[0] == program.replace("${key}", key):
        return f"params.yaml {str(description['foreach']).strip('${}')}.{key}"
    return "cmd"


def reasons(changes: list, command: str, not_kept: Sequence[str] = ()) -> list[str]:
    """DVC's reasons why one stage is stale, as phrases.

    Args:
        changes: the stage's entry in `dvc status --json`.
        command: what to name where the command changed, see `command_or_params`.
        not_kept: the stage's outs that are not in DVC's cache.
    """
    back = changed_outs(changes).difference(not_kept)
    found = []
    for change in changes:
        if isinstance(change, str):  # "changed command", "changed checksum", "always changed"
            said = {"changed command": f"{command}: modified", "always changed": "runs always"}
            found.append(said.get(change, change))
            continue
        for kind, files in change.items():
            for file, what in files.items():
                if isinstance(what, dict):  # a params file: its keys
                    found.extend(f"{file} {key}: {state}" for key, state in what.items())
                else:
                    remedy = " (`dvc checkout` brings it back)" if kind == "changed outs" and file in back else ""
                    found.append(f"{file}: {what}{remedy}")
    return found


def select(needs: dict[str, list[str]], targets: Iterable[str] = (MAIN,)) -> list[str]:
    """The targets and all stages that they need, in an order in which they can run.

    A target is a stage, a group (`train` for train@mlp, train@cnn, ...), or a dvc.yaml file.

    Raises:
        InputError: there is no such target.
    """
    chosen: dict[str, None] = {}

    def add(stage: str) -> None:
        # Not recursive: a chain of a thousand stages is deeper than Python's stack.
        stack = [(stage, False)]
        while stack:
            current, ready = stack.pop()
            if ready:
                chosen[current] = None
            elif current not in chosen:
                stack.append((current, True))
                stack.extend((needed, False) for needed in reversed(needs[current]) if needed not in chosen)

    for target in targets:
        found = [stage for stage in needs if belongs(stage, target)]
        if not found:
            raise unknown("stage", target, needs)
        for stage in found:
            add(stage)
    return list(chosen)


def belongs(stage: str, target: str) -> bool:
    if stage == target or stage.startswith(f"{target}@"):
        return True
    if target == MAIN:
        return ":" not in stage and not stage.endswith(".dvc")
    return stage.startswith(f"{target}:")


def must_run(needs: dict[str, list[str]], selected: Sequence[str], stale: Iterable[str]) -> list[str]:
    """The `selected` stages that have to run, in their order: the stale ones, and all after one, CHECK excepted."""
    stale = set(stale)
    running: set[str] = set()
    for stage in selected:
        if stage in stale or not (running - {CHECK}).isdisjoint(needs[stage]):
            running.add(stage)
    return [stage for stage in selected if stage in running]


def levels(needs: dict[str, list[str]], running: Sequence[str]) -> dict[str, int]:
    """The level of each stage that runs: 0, or one more than the highest level of the stages that it needs."""
    found: dict[str, int] = {}
    for stage in running:
        found[stage] = max((found[needed] + 1 for needed in needs[stage] if needed in found), default=0)
    return found
