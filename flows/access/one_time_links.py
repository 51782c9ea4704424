"""One-time links into this project's pages: each has a token, and a file that is deleted when the token is used.

So any process may make a link, and any process of a server may accept it.
"""

import contextlib
import hashlib
import os
import secrets
import time
from pathlib import Path

LIFETIME = 86_400  # seconds


class Links:
    """The one-time links of a server.

    Args:
        folder: keeps the tokens' files; made, private to this user, with the first link.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new(self) -> str:
        """A new token of letters and digits. Expired tokens are removed."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # used just now
                if not is_young(file):
                    file.unlink()
        token = secrets.token_hex(24)
        os.close(os.open(self.file(token), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return token

    def take(self, token: str) -> bool:
        """Whether the token is valid. It is used up by this call."""
        file = self.file(token)
        try:
            young = is_young(file)
            file.unlink()  # of several processes only one succeeds
        except FileNotFoundError:
            return False
        return young

    def file(self, token: str) -> Path:
        """The token's file. Its name is a digest, so the folder holds no valid token."""
        return self.folder / hashlib.sha256(token.encode()).hexdigest()


def is_young(file: Path) -> bool:
    return time.time() - file.stat().st_mtime < LIFETIME
