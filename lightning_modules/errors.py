"""The errors by which learning fails, each with a message of one sentence."""

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

    def __reduce__(self) -> tuple[type["DamagedError"], tuple[Path, str]]:
        return type(self), (self.file, self.reason)


class DivergedError(ArithmeticError):
    """A loss became NaN or infinite: the recipe has to change, not the program.

    Args:
        reason: one sentence.
        replica: index of the network among those that trained together.
    """

    def __init__(self, reason: str, replica: int = 0) -> None:
        super().__init__(reason)
        self.replica = replica


def sentence(error: BaseException, most: int | None = 300) -> str:
    """An error's message in one line of at most `most` characters, or its class's name where the message is empty."""
    return " ".join(str(error).split())[:most] or type(error).__name__
