"""Stage check: validates params.yaml.

Reads   params.yaml
Writes  settings/checked, always the same line; only if DVC runs it and params.yaml is valid
Run     python -m flows.check

This stage depends on the whole file, every other stage only on its own part, so a misspelt key is found wherever it is.
All other stages depend on this one, directly or not. Before any code of ours runs, DVC deletes a stage's outs, whose
paths contain the dataset's name, and passes a member's name to a shell: both names have to be checked first.
"""

import os

import click

from flows.graph import site_cache
from flows.machine.console import run
from flows.params.params_file import Params, parse, read
from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.untrusted import bounded_yaml, special_files


def changed(changes: tuple[str, ...]) -> Params:
    """The params of params.yaml with the changes applied; the file stays as it is.

    Args:
        changes: each is key=value, with a dotted key and a value in YAML, or ~key, which removes the key.

    Raises:
        InputError: a change is malformed, or params.yaml would be invalid with it.
    """
    content = bounded_yaml.read(paths.root() / "params.yaml")
    if not isinstance(content, dict):
        return parse(content)  # raises the error that says what is wrong
    for change in changes:
        key, equals, value = change.removeprefix("~").partition("=")
        goes = change.startswith("~")
        if goes == bool(equals):
            raise InputError(
                f"{change} is no change: say key=value, as in members.mlp.dropout=0.2, or ~key, as in ~members.mlp"
            )
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise InputError(f"{change}: {name} in params.yaml is {section!r}, which has no keys of its own")
        if goes:
            if last not in section:
                raise InputError(f"{change}: params.yaml has no {key}")
            del section[last]
            continue
        section[last] = bounded_yaml.load(os.fsencode(value), f"the value in {change}")
    return parse(content)


def note() -> None:
    """Writes settings/checked."""
    file_io.write_if_changed(paths.checked_file(), "params.yaml holds what can work\n")


@click.command()
@click.option(
    "-S", "changes", multiple=True, metavar="KEY=VALUE", help="Check with this change, or ~KEY, which is not made."
)
def command(changes: tuple[str, ...]) -> None:
    """Check params.yaml: every key, name and range."""
    # These two protect the DVC command that follows, or the later stages of the one that runs this.
    root = paths.root()
    site_cache.keep_private(root)
    special_files.refuse(root)
    if changes:
        params = changed(changes)
    else:
        params = read()
        if "DVC_STAGE" in os.environ:  # run by a person, the command writes nothing
            note()
    click.echo(f"params.yaml: dataset {params.dataset}, members {', '.join(params.members)}")


if __name__ == "__main__":
    run(command)
