"""The errors by which a stage or a command fails, each with a message of one sentence; those of learning among them."""

import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning_modules.errors import DamagedError, DivergedError, InputError, UnavailableError, sentence

__all__ = [
    "MISTAKES", "DamagedError", "DivergedError", "ExhaustedError", "InputError", "UnavailableError",
    "WorkerError", "causes", "counted", "disk_is_full", "exhausted", "foreign", "free", "our_mistake", "quoted",
    "sentence", "shown", "unknown",
]  # fmt: skip

OURS = ("flows", "lightning_modules")  # packages
# What Python raises where code is wrong, and seldom where what it was given is.
MISTAKES = (AssertionError, AttributeError, LookupError, NameError, TypeError)


class ExhaustedError(RuntimeError):
    """This machine has no disk space, no memory or no process left for the work."""


class WorkerError(RuntimeError):
    """A process that trained a replica ended before it had finished."""


def shown(value: object, most: int = 80) -> str:
    """A value from somebody's file as text for a message: control characters escaped, cut after `most` characters."""
    if isinstance(value, str):
        text = value
    else:
        try:
            text = repr(value)
        except ValueError:  # Python refuses to print integers of more than 4,300 digits
            text = "a number of thousands of digits"
    text = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text[: most + 1])
    return text if len(text) <= most else f"{text[:most]}…"


def quoted(value: object, most: int = 80) -> str:
    """Like `shown`, with quotes round a string."""
    return f"'{shown(value, most)}'" if isinstance(value, str) else shown(value, most)


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun: 1 image, 1,797 images. `many` is the plural, by default `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the `known` ones. Its message lists them and suggests the nearest."""
    names, given = sorted(known), shown(name)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    return InputError(f'unknown {kind} "{given}".{hint} Known: {", ".join(names)}')


# Words of libraries that hide the system's own error, in lower case.
NO_SPACE = ("no space left on device", "database or disk is full", "disk quota exceeded", "file write failed")
NO_MEMORY = (
    "can't allocate memory", "cannot allocate memory", "out of memory", "not enough memory", "failed to map segment",
    "unable to allocate", "bad_alloc",
)  # fmt: skip
NO_THREAD = ("can't start new thread", "thread creation failed", "resource temporarily unavailable")


def exhausted(error: BaseException) -> str | None:
    """A sentence if the error or one of its causes says that disk, memory or processes are used up, else None.

    Libraries wrap the system's error or put it in their own words: torch's allocator raises a RuntimeError, SQLite an
    OperationalError when the disk is full.
    """
    for cause in causes(error):
        code = cause.errno if isinstance(cause, OSError) else None
        # The message of a loader may contain any words, in the names of files. So the words count only for the classes
        # of errors that libraries raise when something is used up.
        wordy = isinstance(cause, (RuntimeError, ImportError, MemoryError)) or foreign(cause)
        said = str(cause).lower() if wordy or (isinstance(cause, OSError) and code is None) else ""
        if code in (errno.ENOSPC, errno.EDQUOT) or any(words in said for words in NO_SPACE):
            return disk_is_full(cause)
        if isinstance(cause, MemoryError) or code == errno.ENOMEM or any(words in said for words in NO_MEMORY):
            about = sentence(cause) if str(cause).strip() else "an allocation failed"
            return (
                f"there is not enough memory ({about}): give this machine or container more (ulimit -v says whether "
                "it is limited), or train fewer side by side with TRAINYARD_JOBS=1"
            )
        # A full pipe has the same code, but another text.
        no_more = isinstance(cause, OSError) and code == errno.EAGAIN and cause.strerror == os.strerror(code)
        if no_more or any(words in said for words in NO_THREAD):
            return (
                f"no process or thread can be started ({sentence(cause)}): this user or container may have no more of "
                "them (ulimit -u); end some, or raise the limit"
            )
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, then the errors that it was raised from or while handling."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def foreign(error: BaseException) -> bool:
    """Whether the error's class belongs to another library, not to Python or this project."""
    return type(error).__module__.partition(".")[0] not in ("builtins", *OURS)


def our_mistake(error: BaseException) -> bool:
    """Whether an error is a mistake in this project's code, which nobody else is to blame for: of a kind that wrong
    code raises, by a line of ours and not of a library that we called."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    # Of a module that was started by `python -m` the name is __main__; its package is the same.
    line = (trace.tb_frame.f_globals.get("__package__") or "") if trace else ""
    return isinstance(error, MISTAKES) and line.partition(".")[0] in OURS


def disk_is_full(found: BaseException | Path) -> str:
    """The sentence that names the full disk: the disk of a path, or of the file that an error names, else the fuller
    one of the current and the temporary folder's disks."""
    import tempfile

    name = found if isinstance(found, Path) else getattr(found, "filename", None)
    if isinstance(name, (str, os.PathLike)):
        place, about = Path(name).absolute(), f" while {name} was written"
    else:
        place, about = min((Path.cwd(), Path(tempfile.gettempdir())), key=free), ""
    while not place.exists():
        place = place.parent
    disk = place
    while not disk.is_mount():
        disk = disk.parent
    room = f"{free(disk) / 2**20:,.0f} MiB are free"
    return f"the disk at {disk} is full ({room}){about}: make room there and run it again"


def free(place: Path) -> int:
    """Free bytes on the place's disk; a huge number where they cannot be read, so that this disk is not blamed."""
    import shutil

    try:
        return shutil.disk_usage(place).free
    except OSError:
        return 2**62
