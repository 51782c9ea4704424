"""Ports of this machine: which are free, and what answers on them."""

import http.client
import os
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from flows.machine.environment_variables import LOOPBACK


def why_not_free(host: str, port: int) -> str | None:
    """Why no server can listen on the port; None where one can."""
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
    """Whether a server answers at the URL; a 401 or 404 is an answer too."""
    try:
        return why_no_answer(url, timeout) is None
    except ValueError:
        return False


def is_ours(url: str) -> bool:
    """Whether the process that listens at a local URL belongs to this user; True where the system does not tell.

    Any user of a machine may take a free port, and would be sent what is meant for our server.
    """
    parts = urlsplit(url)
    try:
        rows = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return True
    places = [f"{address}:{parts.port or 80:04X}" for address in ("0100007F", "00000000")]  # 127.0.0.1 and 0.0.0.0
    listening = [row.split() for row in rows]
    users = {int(row[7]) for row in listening if row[3] == "0A" and row[1] in places}
    return users == {os.geteuid()}


def wants_password(url: str, authorization: str | None = None, timeout: float = 5) -> bool:
    """Whether a server answers 401 to a request with this Authorization header."""
    proxies = [urllib.request.ProxyHandler({})] if urlsplit(url).hostname in LOOPBACK else []
    request = urllib.request.Request(url)
    if authorization:  # not sent on when the server redirects
        request.add_unredirected_header("Authorization", authorization)
    try:
        with urllib.request.build_opener(*proxies).open(request, timeout=timeout):
            return False
    except urllib.error.HTTPError as error:
        return error.code == 401
    except (OSError, http.client.HTTPException):
        return False


def why_no_answer(url: str, timeout: float = 5) -> str | None:
    """Why no server answers at the URL; None where one does.

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
        # A server is there. Its certificate is the client's business, which may trust others.
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
