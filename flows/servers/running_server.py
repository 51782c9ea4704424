"""Prefect's server while a flow runs: a temporary one if there is no other, and an error if it goes away."""

import contextlib
import os
from collections.abc import Callable, Iterator

import click

from flows.project.errors import UnavailableError
from flows.servers import prefect_server, temporary_server, watch_server
from flows.untrusted.masking import sentence


def server_if_none() -> temporary_server.TemporaryServer | None:
    """Configures Prefect. Returns a temporary server, not yet started, if there is no other server; else None.

    Raises:
        UnavailableError: there is a server, and it does not answer.
    """
    named = bool(os.environ.get("PREFECT_API_URL"))
    prefect_server.configure()
    if named:
        prefect_server.check("PREFECT_API_URL names it: start it, or unset that, and a temporary server is used")
    elif "PREFECT_API_URL" in os.environ:
        prefect_server.check("trainyard serve has brought it up here: end that, or wait until it is up again")
    else:
        click.echo("starting Prefect's temporary server; set PREFECT_API_URL to use a running one", err=True)
        return temporary_server.TemporaryServer()
    return None


@contextlib.contextmanager
def watched_server(last_words: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Watches Prefect's server while a flow runs.

    Args:
        last_words: see `watch_server.Watch`.

    Raises:
        UnavailableError: the server has not answered for a minute, or has refused a request.
    """
    import httpx  # Prefect's client, loaded by now

    watch = watch_server.Watch(watch_server.GONE_AFTER, last_words)
    watch.start()
    try:
        yield
    except (httpx.TransportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
            raise
        watch.told = True
        raise UnavailableError(watch_server.gone()) from None
    except httpx.HTTPStatusError as error:
        raise UnavailableError(
            f"Prefect's server at {prefect_server.shown()} refused what it was asked for: {sentence(error)}"
        ) from None
    except SystemExit:
        if not watch.lost:
            raise
        watch.told = True
        raise UnavailableError(watch_server.gone()) from None
    finally:
        watch.stop()
