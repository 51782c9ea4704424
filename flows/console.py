"""How every command ends: bad input as one sentence and exit code 2, any other failure foreseen as one and code 1."""

import atexit
import gc
import os
import sys

import click

from lightning_modules.errors import (
    DivergedError,
    ExhaustedError,
    InputError,
    UnavailableError,
    WorkerError,
    exhausted,
)

# Tools that phone home are told not to, before any of them is imported; a user's own setting wins.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "true",
}

# New objects between two garbage collections. torch, Lightning and MLflow make half a million of them as they load,
# few of which are garbage: looked through after every 700, Python's default, that takes a fifth longer.
YOUNG = 10_000


def run(command: click.Command, libraries: bool = False) -> None:
    """Runs a command with the arguments of this process and exits.

    Args:
        libraries: whether it needs those which a pipeline may have loaded for its stages.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    gc.set_threshold(YOUNG)
    # Else Python looks through all of these once more as it ends, which takes up to two seconds.
    atexit.register(gc.freeze)
    if "DVC_STAGE" in os.environ:
        from flows.orphan import die_with_dvc

        die_with_dvc()
    if libraries:
        from flows.hand_over import hand_over

        code = hand_over()
        if code is not None:
            sys.exit(code)
    try:
        code = command(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (InputError, DivergedError, WorkerError, ExhaustedError) as error:
        click.echo(f"trainyard: {error}", err=True)
        sys.exit(2 if isinstance(error, InputError) and not isinstance(error, UnavailableError) else 1)
    except Exception as error:  # of any library: a full disk is said by each in a way of its own
        said = exhausted(error)
        if said is None:
            raise
        click.echo(f"trainyard: {said}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
