"""Reads YAML within bounds: no file takes minutes or gigabytes; one that would is refused in one sentence.

PyYAML's safe loader runs no code. But a few lines of aliases stand for billions of values, merged keys copy them, a
line of brackets is deeper than Python's stack, and a scalar with a wrong tag raises whatever its constructor raises.
"""

import os
import stat
from pathlib import Path
from typing import Any

import yaml

from flows.project.errors import InputError, sentence

MOST_BYTES = 1_000_000
MOST_VALUES = 100_000  # keys and values; an alias counts as all that it stands for
MOST_LEVELS = 30  # of nested lists and mappings

# PyYAML's C loader, which not every build has, is four times as fast as the one in Python.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What the constructors of scalars raise: int("x"), {}["maybe"], None.groupdict(), ""[0].
WRONG_VALUE = (ValueError, KeyError, AttributeError, IndexError, TypeError, OverflowError)


def read(path: Path) -> Any:
    """The content of a YAML file, as `load`. Also raises InputError where it does not exist or is no plain file."""
    try:
        # O_NONBLOCK: opening a named pipe would wait for a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{path} is no plain file")
            return load(file.read(MOST_BYTES + 1), str(path))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def load(content: bytes, source: str) -> Any:
    """The content of a YAML file.

    Args:
        source: the name of the file in an error message.

    Raises:
        InputError: it is no valid YAML, or exceeds a bound.
    """
    if len(content) > MOST_BYTES:
        raise InputError(f"{source} has more than {MOST_BYTES:,} bytes: so much is not read")
    try:
        text = content.decode("utf-8")
        refuse_growth(text, source)
        return yaml.load(text, LOADER)
    except InputError:
        raise
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{source} is no valid YAML: {sentence(error)}") from None
    except WRONG_VALUE as error:
        raise InputError(f"{source} holds a value that is not what its tag says: {sentence(error)}") from None


def refuse_growth(text: str, source: str) -> None:
    """Raises InputError for too many values or levels, which are counted before any value is built."""
    open_nodes: list[
        tuple[str | None, int]
    ] = []  # the anchor of each open list and mapping, and the count at its start
    sizes: dict[str, int] = {}
    count = 0
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = count - before
            continue
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise InputError(f"{source}: *{event.anchor} stands for something that it is a part of")
            count += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.NodeEvent):
            count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, count - 1))
            elif event.anchor:
                sizes[event.anchor] = 1
        if count > MOST_VALUES:
            raise InputError(f"{source} holds more than {MOST_VALUES:,} values")
        if len(open_nodes) > MOST_LEVELS:
            raise InputError(f"{source} is nested deeper than {MOST_LEVELS} levels")
