"""Ports of this machine: which are free, and what answers on them."""

import http.client
import socket
import ssl
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from flows.console import LOOPBACK


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
        return why_no_answer(url, timeout) is None
    except ValueError:
        return False


def wants_password(url: str, authorization: str | None = None, timeout: float = 5) -> bool:
    """Whether a server refuses who asks so."""
    proxies = [urllib.request.ProxyHandler({})] if urlsplit(url).hostname in LOOPBACK else []
    request = urllib.request.Request(url)
    if authorization:  # not for where it may be sent on to
        request.add_unredirected_header("Authorization", authorization)
    try:
        with urllib.request.build_opener(*proxies).open(request, timeout=timeout):
            return False
    except urllib.error.HTTPError as error:
        return error.code == 401
    except (OSError, http.client.HTTPException):
        return False


def why_no_answer(url: str, timeout: float = 5) -> str | None:
    """The reason; None where a server answers.

    Raises:
        ValueError: it is no URL.
    """
    proxies = [urllib.request.ProxyHandler({})] if urlsplit(url).hostname in LOOPBACK else []
    try:
        with urllib.request.build_opener(*proxies).open(url, timeout=timeout):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code < 500 else f"{error.code} {error.reason}"
    except urllib.error.URLError as error:
        # Whom to trust is the client's business, which may have been told of other certificates.
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
