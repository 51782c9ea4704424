"""Writes files atomically, and reads JSON and YAML; one sentence says what is wrong with a damaged file."""

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
    """Yields a temporary path to write to, which is renamed to `path` at the end.

    So a file that exists is complete. Where writing fails, on a full disk for example, nothing is left behind.

    Args:
        unfinished: the temporary path, on the same disk; by default one beside `path` that no other process has.
        synced: whether this holds after a power failure, too.
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
    """Yields an empty folder to write into, which replaces `target` at the end.

    So `target` is complete, or as it was before. Where writing fails, nothing is left behind.

    Args:
        unfinished: the path of the folder to write into, on the same disk; by default beside `target`.
    """
    unfinished = unfinished or target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if target.exists():  # DVC removes it before it runs a stage; where the stage is run by hand it still exists
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished, target)
    except BaseException:  # an interrupt as well
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def write_json(path: Path, content: object) -> None:
    """Writes a JSON file atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with whole(path) as temporary:
        # Python reads bytes of a file's name that are not UTF-8 as lone surrogates, which JSON escapes here.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_if_changed(path: Path, text: str) -> None:
    """Writes a file atomically where its content differs. DVC would hash a rewritten file again."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def write_private(path: Path, text: str) -> None:
    """Writes, atomically, a file that this user alone can read; a folder that it makes for the file is private too."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (
        whole(path, synced=True) as temporary,
        open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file,
    ):
        file.write(f"{text}\n")


def sync(path: Path) -> None:
    """Returns when a file, and its name in its folder, would survive a power failure."""
    for place in (path, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises InputError for invalid YAML, OSError where it cannot be read."""
    import yaml

    try:
        # PyYAML's C loader, which not every build has, is four times as fast as the one in Python.
        return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid YAML: {sentence(error, None)}") from None


def read_json(path: Path, *keys: str, heal: str = "") -> dict:
    """The content of a JSON file, which has to be an object with these keys.

    Args:
        heal: what to do about a damaged file; ends the message, after a colon.

    Raises:
        DamagedError: it is not such a file, because it was emptied or cut off for example.
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
    """What `check` returns for the content of a JSON file; `anew` where the file does not exist or is damaged.

    For notes that can be made again.

    Args:
        check: may raise ValueError, TypeError, KeyError or AttributeError for damaged content.
        say: whether to warn of a damaged file.
    """
    try:
        return check(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return anew
    except (ValueError, TypeError, KeyError, AttributeError):
        if say:
            messages.warn(f"{paths.shown(path)} is damaged, and made anew")
        return anew
