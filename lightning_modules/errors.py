"""The ways in which a stage ends badly and says so in one sentence."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What the user gave cannot be used. The message says what was wrong, what would be right, and where."""


class UnavailableError(InputError):
    """Something outside this machine did not answer: the same attempt may go well later."""


class DivergedError(ArithmeticError):
    """A loss became NaN or infinite: the recipe, not the program, has to change.

    Args:
        reason: one sentence.
        replica: the number of the network among those that trained together.
    """

    def __init__(self, reason: str, replica: int = 0) -> None:
        super().__init__(reason)
        self.replica = replica


class WorkerError(RuntimeError):
    """A process that trained a replica ended before it had finished."""


def sentence(error: Exception, most: int | None = 300) -> str:
    """What an error of another library says, in one line of at most so many characters; its kind where it says
    nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def shown(value: object, most: int = 80) -> str:
    """A value of somebody's file, to be read in a message: what a terminal would obey as escapes, a long one cut."""
    if isinstance(value, str):
        text = value
    else:
        try:
            text = repr(value)
        except ValueError:  # Python writes out no number of more than 4,300 digits
            text = "a number of thousands of digits"
    text = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text[: most + 1])
    return text if len(text) <= most else f"{text[:most]}…"


def quoted(value: object, most: int = 80) -> str:
    """As `shown`, with quotes round a string."""
    return f"'{shown(value, most)}'" if isinstance(value, str) else shown(value, most)


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun: 1 image, 1,797 images. `many` is the plural where that is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the `known` ones; it lists them and suggests the nearest."""
    names, given = sorted(known), shown(name)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    return InputError(f'unknown {kind} "{given}".{hint} Known: {", ".join(names)}')
