"""The secret by which this project's own servers know its owner: Prefect's server and MLflow's pages.

It is made once, at random, and kept in .trainyard/login, which the owner alone can read.
"""

import secrets

from filelock import FileLock

from flows import project
from flows.private_file import write_private

USER = "trainyard"


def password() -> str:
    """Letters and digits alone, so that it can stand in an address and in a variable as it is."""
    file = project.state_folder() / "login" / "password"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(f"{file}.lock"):
            if not file.exists():
                write_private(file, secrets.token_hex(24))
    return file.read_text(encoding="utf-8").strip()


def basic() -> str:
    """User and password, as HTTP's basic authentication joins them."""
    return f"{USER}:{password()}"
