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


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the `known` ones; it lists them and suggests the nearest."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    return InputError(f'unknown {kind} "{name}".{hint} Known: {", ".join(names)}')
