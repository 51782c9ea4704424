"""The errors by which a stage fails, each with a message of one sentence."""

import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


class InputError(ValueError):
    """The user's input cannot be used. The message says what is wrong, what would be right, and where."""


class UnavailableError(InputError):
    """Something outside this machine did not answer. The same attempt may succeed later."""


class DamagedError(InputError):
    """A file's content is not what was written. The message says which file, how that is known, and what repairs it.

    Args:
        file: the damaged file.
        reason: the rest of the sentence, after the file's name.
    """

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file} {reason}")
        self.file, self.reason = file, reason

    def __reduce__(self):
        return type(self), (self.file, self.reason)


class ExhaustedError(RuntimeError):
    """This machine has no disk space, no memory or no process left for the work."""


class DivergedError(ArithmeticError):
    """A loss became NaN or infinite: the recipe has to change, not the program.

    Args:
        reason: one sentence.
        replica: index of the network among those that trained together.
    """

    def __init__(self, reason: str, replica: int = 0) -> None:
        super().__init__(reason)
        self.replica = replica


class WorkerError(RuntimeError):
    """A process that trained a replica ended before it had finished."""


def sentence(error: Exception, most: int | None = 300) -> str:
    """An error's message in one line of at most `most` characters, or its class's name where the message is empty."""
    return " ".join(str(error).split())[:most] or type(error).__name__


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
        if (code == errno.EAGAIN and cause.strerror == os.strerror(code)) or any(words in said for words in NO_THREAD):
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
    return type(error).__module__.partition(".")[0] not in ("builtins", "flows", "lightning_modules")


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
