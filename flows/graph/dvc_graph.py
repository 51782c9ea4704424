"""What DVC knows: which stages there are, which of them are stale and why, and which must run.

The order of work is written in dvc.yaml alone. The graph is the one thing that is read through DVC's Python
API, in one function; all else goes through its command line.
"""

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from flows.graph import dvc_command, site_cache
from flows.project import file_io
from flows.project.errors import InputError, unknown
from flows.untrusted import special_files
from flows.untrusted.masking import sentence

# What `dvc repro` takes when nothing is named: studies have a dvc.yaml of their own and run when asked for.
MAIN = "dvc.yaml"

# Writes the same whatever it reads: the stages after it wait for it, and it makes none of them stale.
CHECK = "check"


def stages(root: Path) -> dict[str, list[str]]:
    """Every stage of the repository with the stages that it needs directly.

    Raises:
        InputError: there is no DVC repository, or dvc.yaml is none that DVC can read.
    """
    with place_to_ask(root) as place:
        graph = read(place)
        names = {stage: name(stage, place) for stage in graph}
    return {names[stage]: sorted(names[needed] for needed in graph.successors(stage)) for stage in names}


def uncached(root: Path) -> dict[str, list[str]]:
    """By stage, the paths of what it writes and DVC does not keep, such as metrics: relative to the root. Raises
    InputError like `stages`."""
    with place_to_ask(root) as place:
        return {
            name(stage, place): [os.path.relpath(out.fs_path, place) for out in stage.outs if not out.use_cache]
            for stage in read(place)
        }


def read(root: Path):
    """DVC's own graph of its own stages, a networkx DiGraph."""
    # 0.3 s, and not needed where nothing is stale.
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    site_cache.keep_private(root)
    try:
        return Repo(os.fspath(root)).index.graph
    except DvcException as error:
        raise InputError(f"DVC cannot read the stages: {sentence(error, None)}") from None


def name(stage, root: Path) -> str:
    """As DVC's command line wants it at the root; its own `addressing` depends on the current folder."""
    file = os.path.relpath(stage.path, root)
    own = getattr(stage, "name", None)
    if own is None:
        return file
    return own if file == MAIN else f"{file}:{own}"


def stale(root: Path) -> dict[str, list[str]]:
    """The stages whose files, params or command are not those of dvc.lock, with the reasons. What comes after
    them in the graph is not in it, though it may have to run. Of what a stage has written the reason says where
    `dvc checkout` brings back what dvc.lock names, as after `git stash`: nothing has to be made for that.

    Raises:
        InputError: DVC cannot say, because there is no repository or no valid dvc.yaml.
    """
    special_files.refuse(root)
    # Of the whole repository: at a thousand stages this takes 3 s, and a multiple of it with --with-deps.
    try:
        with place_to_ask(root) as place:
            answer = json.loads(dvc_command.ask(place, "status", "--json"))
    except InputError as error:
        raise InputError(f"DVC cannot tell what is stale: {error}") from None
    stages_of = functools.cache(described)  # a thousand stages are described in one file
    # Metrics are not in DVC's cache: git has them. Looked up only where something that was written is another one now.
    not_kept = uncached(root) if any(map(written, answer.values())) else {}
    found = {}
    for stage, changes in answer.items():
        file, _, own = stage.rpartition(":")
        source = root / (file or MAIN)
        locked = stages_of(source.with_name("dvc.lock")).get(own)
        if locked is None and not stage.endswith(".dvc"):  # a tracked file, which cannot run
            found[stage] = ["never run"]
        else:
            command = command_or_params(own, (locked or {}).get("cmd", ""), stages_of(source))
            found[stage] = reasons(changes, command, not_kept.get(stage, []))
    return found


def written(changes: list) -> set[str]:
    """What a stage wrote and is another or no more, by DVC's account of it; nothing where it has to run for another
    reason. DVC looks into its cache first: "modified" and "deleted" mean that the cache has what dvc.lock names."""
    files = [entry for change in changes if isinstance(change, dict) for entry in change.values()]
    if len(files) < len(changes) or any(isinstance(what, dict) for entry in files for what in entry.values()):
        return set()
    outs = [change.get("changed outs", {}) for change in changes]
    return {file for entry in outs for file, what in entry.items() if what in ("modified", "deleted")}


@contextlib.contextmanager
def place_to_ask(root: Path) -> Iterator[Path]:
    """Where DVC can be asked about the project: there, or where DVC may write no lock into it, as in a read-only copy,
    in a folder of links to what the project has."""
    folder = root / ".dvc"
    written = [folder, folder / "tmp", folder / "tmp" / "lock", folder / "tmp" / "rwlock"]
    if not folder.is_dir() or all(os.access(place, os.W_OK) for place in written if place.exists()):
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
    """Links to what is in a folder. One in which DVC's descriptions lie is made anew: it looks for them in no link."""
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
    """The stages of a dvc.yaml or dvc.lock by name, as they are written there."""
    content = file_io.read_yaml(file) if file.is_file() else None
    return (content.get("stages") if isinstance(content, dict) else None) or {}


def command_or_params(stage: str, locked: str, descriptions: dict[str, dict]) -> str:
    """Where to look for what changed of a stage whose command is not the `locked` one any more: a member's stage has
    its part of params.yaml behind a # there."""
    group, _, key = stage.partition("@")
    description = descriptions.get(group, {})
    program, item, _ = str(description.get("do", description).get("cmd", "")).partition("  # ${item}")
    if item and locked.partition("  # ")[0] == program.replace("${key}", key):
        return f"params.yaml {str(description['foreach']).strip('${}')}.{key}"
    return "cmd"


def reasons(changes: list, command: str, not_kept: Sequence[str] = ()) -> list[str]:
    """DVC's account of one stage as plain phrases.

    Args:
        command: where the stage's command is written.
        not_kept: what the stage writes and DVC does not keep.
    """
    back = written(changes).difference(not_kept)
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
    """The targets and all that they need, in an order in which they can run. A target is a stage, a group
    (`train` for train@mlp, train@cnn, ...), or a dvc.yaml file.

    Raises:
        InputError: a target is none of these.
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
    """Of the `selected` stages, in their order, the stale ones and those that come after a stale one other than
    CHECK."""
    stale = set(stale)
    running: set[str] = set()
    for stage in selected:
        if stage in stale or not (running - {CHECK}).isdisjoint(needs[stage]):
            running.add(stage)
    return [stage for stage in selected if stage in running]


def levels(needs: dict[str, list[str]], running: Sequence[str]) -> dict[str, int]:
    """How many of the stages that run come one after another before each of them."""
    found: dict[str, int] = {}
    for stage in running:
        found[stage] = max((found[needed] + 1 for needed in needs[stage] if needed in found), default=0)
    return found
