"""ASGI middleware before a server with pages: checks host and origin of a request, and logs in by one-time links.

Run     uvicorn --factory flows.access.door:prefect    Prefect's server behind it, see `prefect_server.command`

Any web page can have its browser send requests to servers of the browser's machine: to their address, or to a name of
its own that resolves to it (DNS rebinding). So a request for a host that is not the server's is refused, and so is one
from a page of another origin. Another port of this machine is another origin too: other users' servers may be there.
"""

import base64
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from flows.access.one_time_links import Links

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

HOSTS = "localhost:*,127.0.0.1:*"  # as MLflow writes them
ENTRY = "/enter"
LONGEST_TOKEN = 200  # bytes of a token

# The token is in the fragment, which browsers do not send: it is in no log, and in no Referer of another page.
PAGE = """<!doctype html>
<meta charset="utf-8"><title>Trainyard</title>
<p id="said">One moment</p>
<script>
const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
fetch(location.pathname, {method: "POST", body: token}).then(async answer => {
  const said = await answer.text();
  if (!answer.ok) throw new Error(said);
  for (const [name, value] of Object.entries(JSON.parse(said))) localStorage.setItem(name, value);
  location.replace("/");
}).catch(error => { document.getElementById("said").textContent = error.message; });
</script>
"""
USED = "This link was used, or is more than a day old: `trainyard serve --links`, in the project, prints another one"


class Door:
    """ASGI middleware.

    Args:
        hosts: patterns of the hosts that requests may name, with ports: `localhost:*`.
        links: the one-time links that log in; None for none.
        given: returns what the entry page's script gets in exchange for a token, and the headers of that answer. PAGE
            keeps it in localStorage, which pages of other origins cannot read. A cookie would go to all ports of a
            machine.
        page: the entry page, whose script sends the token.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        hosts: Sequence[str] = tuple(HOSTS.split(",")),
        links: Links | None = None,
        given: Callable[[], tuple[dict[str, str], list[tuple[bytes, bytes]]]] = lambda: ({}, []),
        page: str = PAGE,
    ) -> None:
        self.app, self.hosts, self.links, self.given, self.page = app, hosts, links, given, page

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif reason := self.refuses(scope["headers"], scope.get("method")):
            await refuse(scope, send, reason)
        elif self.links and scope["type"] == "http" and scope["path"] == ENTRY:
            await self.enter(self.links, scope, receive, send)
        else:
            await self.app(scope, receive, forbid_framing(send))

    def refuses(self, headers: Sequence[tuple[bytes, bytes]], method: str | None) -> str | None:
        """Why a request with these headers is refused; None where it may pass."""
        hosts = values(headers, b"host")
        if len(hosts) != 1 or not any(matches(hosts[0], pattern) for pattern in self.hosts):
            return f"this server is asked for by the names {', '.join(self.hosts)} alone"
        # Schemes are not compared: behind a proxy that terminates TLS the server does not see https.
        if any(origin.rpartition("//")[2] != hosts[0] for origin in values(headers, b"origin")):
            return "this server takes nothing from pages of another origin"
        site, mode, kind = (values(headers, b"sec-fetch-" + name) for name in (b"site", b"mode", b"dest"))
        # Pages of other sites may link to this server, which the user sees; forms and frames are refused.
        leads = method in ("GET", "HEAD") and (mode, kind) == (["navigate"], ["document"])
        if site and site[0] in ("cross-site", "same-site") and not leads:
            return "this server takes nothing from pages of another origin"
        return None

    async def enter(self, links: Links, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["method"] in ("GET", "HEAD"):
            await answer(send, 200, b"text/html; charset=utf-8", self.page)
            return
        token, more = b"", scope["method"] == "POST"
        while more and len(token) <= LONGEST_TOKEN:
            message = await receive()
            token += message.get("body", b"")
            more = message.get("more_body", False)
        if not links.take(token[: LONGEST_TOKEN + 1].decode("ascii", "replace")):
            await answer(send, 403, b"text/plain", USED)
            return
        kept, headers = self.given()
        await answer(send, 200, b"application/json", json.dumps(kept), headers)


def values(headers: Sequence[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    return [value.decode("latin-1").lower() for name, value in headers if name.lower() == wanted]


def matches(host: str, pattern: str) -> bool:
    """Whether a Host header matches a pattern: `localhost:*` is localhost with any port, or with none."""
    pattern = pattern.strip().lower()
    _, colon, port = host.rpartition(":")
    if colon and not port.isdecimal():
        return False
    return fnmatchcase(host, pattern) or fnmatchcase(host, pattern.removesuffix(":*"))


async def refuse(scope: "Scope", send: "Send", reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
    else:
        await answer(send, 403, b"text/plain", reason)


async def answer(
    send: "Send", status: int, kind: bytes, body: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    own = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"x-frame-options", b"DENY")]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body.encode()})


def forbid_framing(send: "Send") -> "Send":
    """A `send` that forbids other pages to show ours in a frame (clickjacking)."""

    async def sender(message: "Message") -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"x-frame-options", b"DENY")]}
        await send(message)

    return sender


def prefect() -> Door:
    """Prefect's server behind the door. It checks the password of each request itself, and does not start without one.

    TRAINYARD_LINKS is the folder of one-time links; without it there are none.
    """
    secret = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if not secret:
        raise SystemExit("PREFECT_SERVER_API_AUTH_STRING is not set: without it anybody could run commands here")
    from prefect.server.api.server import create_app

    hosts = (os.environ.get("TRAINYARD_ALLOWED_HOSTS") or HOSTS).split(",")
    # The key and the encoding with which Prefect's own login page keeps the password.
    kept = {"prefect-password": base64.b64encode(secret.encode()).decode()}
    folder = os.environ.get("TRAINYARD_LINKS")
    return Door(create_app(), hosts, Links(Path(folder)) if folder else None, lambda: (kept, []))
