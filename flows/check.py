"""Stage check: reads params.yaml and refuses what cannot work.

Reads   params.yaml
Writes  settings/checked, as a stage and where nothing is wrong: always the same line
Run     python -m flows.check

It depends on the whole file, while every other stage depends on its own part of it: a misspelt key is found even
where no other stage would look. And every other stage needs it, directly or not: DVC deletes the outs of a stage, in
whose paths the dataset's name is, and hands a member's name to a shell, before any code of ours runs.
"""

import os

import click

from flows.commands.console import run
from flows.graph import site_cache
from flows.params.params_file import Params, parse, read
from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.untrusted import bounded_yaml, special_files


def changed(changes: tuple[str, ...]) -> Params:
    """What params.yaml would be with the changes, each a dotted key, "=" and a value in YAML, or "~" and a key that
    goes.

    Raises:
        InputError: a change is none, or leads to what cannot work.
    """
    content = bounded_yaml.read(paths.root() / "params.yaml")
    if not isinstance(content, dict):
        return parse(content)  # which says what is wrong
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
    """Writes what the stage writes."""
    file_io.write_if_changed(paths.checked_file(), "params.yaml holds what can work\n")


@click.command()
@click.option(
    "-S", "changes", multiple=True, metavar="KEY=VALUE", help="Check with this change, or ~KEY, which is not made."
)
def command(changes: tuple[str, ...]) -> None:
    """Check params.yaml: every key, name and range."""
    # DVC is what comes next, by hand or by make; where it runs this, the stages after it are meant.
    root = paths.root()
    site_cache.keep_private(root)
    special_files.refuse(root)
    if changes:
        params = changed(changes)
    else:
        params = read()
        if "DVC_STAGE" in os.environ:  # a person who asks changes nothing
            note()
    click.echo(f"params.yaml: dataset {params.dataset}, members {', '.join(params.members)}")


if __name__ == "__main__":
    run(command)
