"""Files of the project: written whole or not at all, and read with one sentence where they are damaged."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows.project import messages, paths
from flows.project.errors import DamagedError, InputError, sentence


@contextlib.contextmanager
def whole(path: Path, unfinished: Path | None = None, *, synced: bool = False) -> Iterator[Path]:
    """A temporary name to write under, renamed at the end: a file that exists is whole. Where writing fails, because
    the disk is full, say, nothing stays.

    Args:
        unfinished: the name, on the same disk; by default one beside `path` that no other process has.
        synced: whether that holds after a power failure, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished or path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        if synced:
            sync(temporary)
        os.replace(temporary, path)
    except BaseException:  # an interrupt as well
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_folder(target: Path, unfinished: Path | None = None) -> Iterator[Path]:
    """Makes an empty folder to write into, which takes the place of `target` at the end: that is there whole, or as it
    was. Where writing fails nothing stays.

    Args:
        unfinished: the folder, on the same disk; by default beside `target`.
    """
    unfinished = unfinished or target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if target.exists():  # DVC removes it before it runs a stage; by hand it is still there
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished, target)
    except BaseException:  # an interrupt as well
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def write_json(path: Path, content: object) -> None:
    """Whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with whole(path) as temporary:
        # Bytes of a file's name that are no UTF-8 are lone surrogates to Python, which become JSON's own escapes here.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_if_changed(path: Path, text: str) -> None:
    """A file that is written anew is hashed anew by DVC. Whole or not at all."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def write_private(path: Path, text: str) -> None:
    """A file that this user alone can read, whole or not at all, also after a power failure; so is the folder that it
    makes for it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (
        whole(path, synced=True) as temporary,
        open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file,
    ):
        file.write(f"{text}\n")


def sync(path: Path) -> None:
    """Returns when a file, and its name in its folder, would be there after a power failure."""
    for place in (path, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_yaml(path: Path) -> Any:
    """Raises InputError where it is no YAML, and what reading a file raises."""
    import yaml

    try:
        # PyYAML's loader in Python takes four times as long as that in C, which not every build of it has.
        return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid YAML: {sentence(error, None)}") from None


def read_json(path: Path, *keys: str, heal: str = "") -> dict:
    """A JSON file with these keys.

    Args:
        heal: what to do about a damaged one; goes on after a colon.

    Raises:
        DamagedError: it is none, because it was emptied or cut off, say.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        said = "it is empty" if not path.stat().st_size else sentence(error)
        raise damaged(path, f"is damaged ({said})", heal) from None
    if not isinstance(content, dict):
        raise damaged(path, f"is damaged (it holds {type(content).__name__} where names and values belong)", heal)
    if missing := [key for key in keys if key not in content]:
        raise damaged(path, f"is damaged (it has no {', '.join(missing)})", heal)
    return content


def damaged(path: Path, reason: str, heal: str = "") -> DamagedError:
    return DamagedError(paths.shown(path), f"{reason}: {heal}" if heal else reason)


def read_or_anew(path: Path, check: Callable[[Any], Any], anew: Any, *, say: bool = True) -> Any:
    """What `check` makes of a JSON file's content; `anew` where there is none, or what is there is damaged, which is
    said: for notes that can be made again."""
    try:
        return check(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return anew
    except (ValueError, TypeError, KeyError, AttributeError):
        if say:
            messages.warn(f"{paths.shown(path)} is damaged, and made anew")
        return anew
