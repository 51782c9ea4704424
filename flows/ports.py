"""Ports of this machine: which are free, and what answers on them."""

import socket
import urllib.error
import urllib.request


def why_not(host: str, port: int) -> str | None:
    """Why no server can be started there; None where one can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror
    return None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(url: str, timeout: float = 5) -> bool:
    """Whether a server is there: one that asks for a password, or does not know the page, is."""
    try:
        with urllib.request.urlopen(url, timeout=timeout):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (urllib.error.URLError, OSError, ValueError):
        return False
