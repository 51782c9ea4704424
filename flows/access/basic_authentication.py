"""ASGI middleware that asks for user and password, by HTTP's basic authentication.

A one-time link logs a browser in: the entry page exchanges the token for user and password, and hands them to the
browser's own store for basic authentication. That store is per origin, port included, and ends with the browser.
"""

import base64
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from flows.access.door import answer

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

CLOSED = (
    "These pages are open to their owner. In the folder of the project `trainyard ui` prints a link that opens them. "
    "A program needs MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: `trainyard`, and what is in "
    ".trainyard/login/password.\n"
)
# The link may name a page after the token.
PAGE = """<!doctype html>
<meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>Trainyard</title>
<p id="said">One moment</p>
<script>
const [, token, page] = location.hash.match(/^#([0-9a-f]*)(.*)$/s) ?? ["", "", ""];
const go = () => location.replace("/#" + (page.startsWith("/") ? page : START));
fetch(location.pathname, {method: "POST", body: token}).then(async answer => {
  if (!answer.ok) return go();  // of a link that was used; the browser may know the password still, or asks for it
  const {user, password} = await answer.json();
  const request = new XMLHttpRequest();
  request.open("GET", "/version", true, user, password);
  request.onloadend = go;
  request.send();
}).catch(error => { document.getElementById("said").textContent = error.message; });
</script>
"""


def page(start: str) -> str:
    """The entry page, which goes on to a page of MLflow's. `start` is what follows # in that page's URL."""
    return PAGE.replace("START", json.dumps(start).replace("<", "\\u003c"))


class BasicAuthentication:
    """ASGI middleware for basic authentication. /health is open: whether the server is up is no secret."""

    def __init__(self, app: Callable[..., Awaitable[None]], user: str, password: str) -> None:
        self.app = app
        self.basic = b"Basic " + base64.b64encode(f"{user}:{password}".encode())

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        is_open = scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] == "/health")
        # Compared in constant time.
        if is_open or hmac.compare_digest(given, self.basic):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            challenge = (b"www-authenticate", b'Basic realm="Trainyard", charset="UTF-8"')
            await answer(send, 401, b"text/plain", CLOSED, [challenge])
