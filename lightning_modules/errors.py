"""The ways in which learning ends badly and says so in one sentence."""

from pathlib import Path


class InputError(ValueError):
    """What the user gave cannot be used. The message says what was wrong, what would be right, and where."""


class UnavailableError(InputError):
    """Something outside this machine did not answer: the same attempt may go well later."""


class DamagedError(InputError):
    """A file is not what was written to it. The message says which and how that is known, and what heals it.

    Args:
        file: the damaged one.
        reason: goes on after the file's name.
    """

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file} {reason}")
        self.file, self.reason = file, reason

    def __reduce__(self):
        return type(self), (self.file, self.reason)


class DivergedError(ArithmeticError):
    """A loss became NaN or infinite: the recipe, not the program, has to change.

    Args:
        reason: one sentence.
        replica: the number of the network among those that trained together.
    """

    def __init__(self, reason: str, replica: int = 0) -> None:
        super().__init__(reason)
        self.replica = replica


def sentence(error: Exception, most: int | None = 300) -> str:
    """What an error of another library says, in one line of at most so many characters; its kind where it says
    nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__
