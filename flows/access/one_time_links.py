"""Links into this project's pages that are good once: a token each, by a file that whoever uses it deletes.

So it does not matter which of a server's processes is asked, nor which process made it.
"""

import contextlib
import hashlib
import os
import secrets
import time
from pathlib import Path

LIFETIME = 86_400  # seconds


class Links:
    """Args:
    folder: for the eyes of this user alone; it is made with the first link.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new(self) -> str:
        """A token, in letters and digits."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # used at this moment
                if not is_young(file):
                    file.unlink()
        token = secrets.token_hex(24)
        os.close(os.open(self.file(token), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return token

    def take(self, token: str) -> bool:
        """Whether it is good; then never again."""
        file = self.file(token)
        try:
            young = is_young(file)
            file.unlink()  # of many at once, one does
        except FileNotFoundError:
            return False
        return young

    def file(self, token: str) -> Path:
        """By a digest: what lies in the folder opens nothing."""
        return self.folder / hashlib.sha256(token.encode()).hexdigest()


def is_young(file: Path) -> bool:
    return time.time() - file.stat().st_mtime < LIFETIME
