"""An ASGI application behind a login. It needs the standard library alone, like `flows.links`.

Programs log in by HTTP's basic authentication. So does a browser, which has user and password from a link that is good
once: the page /login#TOKEN asks for them in exchange for the token, and gives them to the browser's own store of basic
authentication. That is by origin, with its port, and ends with the browser. A cookie would not do: one of 127.0.0.1 is
sent to each of its ports, those too on which another user of the machine listens.

The browser adds what it has to whatever any page makes it ask for. So what a page of another origin asks for is
refused, though it come with the password; such a page may do no more than lead to the start page.
"""

import base64
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urlsplit

CLOSED = (
    "These pages are open to their owner. In the folder of the project `trainyard ui` prints a link that opens them. "
    "A program needs MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: `trainyard` and what is in "
    ".trainyard/login/password.\n"
)
FOREIGN = "Refused: a page of another address asks for this in your name.\n"
MOST = 1000  # bytes of a token
# By a script, since what follows # never reaches the server, nor any log.
LOGIN = """<!doctype html>
<meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>Trainyard</title>
<p id="says">Opening...</p><noscript>This needs JavaScript.</noscript>
<script>
const [, token, page] = location.hash.match(/^#([0-9a-f]*)(.*)$/s) ?? ["", "", ""];
const go = () => location.replace("/#" + (page.startsWith("/") ? page : START));
// Of a link that was used, the browser may have the password still, and will else ask for it.
fetch("/login", {method: "POST", body: token}).then(async (answer) => {
  if (!answer.ok) return go();
  const [user, password] = await answer.json();
  const request = new XMLHttpRequest();
  request.open("GET", "/version", true, user, password);
  request.onloadend = go;
  request.send();
}).catch((error) => { document.getElementById("says").textContent = "The server does not answer: " + error; });
</script>
"""
Headers = list[tuple[bytes, bytes]]


class Locked:
    """Args:
    app: what is behind the login.
    user, password: what they log in with.
    take: whether a link's token is good, which takes it; None where there are no links.
    start: the page that a link opens which names none: what follows # in its address.
    origins: other addresses of these same pages, such as https://trainyard.example behind a proxy.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], user: str, password: str, *,
        take: Callable[[str], bool] | None = None, start: str = "/", origins: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self.app, self.take, self.start, self.origins = app, take, start, frozenset(origins)
        self.login = (user, password)
        self.basic = b"Basic " + base64.b64encode(f"{user}:{password}".encode())

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        # Compared in a time that says nothing of how much of it is right.
        knows = hmac.compare_digest(headers.get(b"authorization", b""), self.basic)
        if scope["type"] != "http":
            if knows and not self.is_foreign(headers):
                return await self.app(scope, receive, send)
            return await send({"type": "websocket.close", "code": 1008})
        path, reads = scope["path"], scope["method"] in ("GET", "HEAD")
        if path == "/health" and reads:  # whether it is up is no secret
            return await self.app(scope, receive, send)
        if self.is_foreign(headers) and not (reads and path in ("/", "/login") and is_click(headers)):
            return await answer(send, 403, FOREIGN)
        if path == "/login" and self.take:
            if reads:
                page = LOGIN.replace("START", json.dumps(self.start).replace("<", "\\u003c"))
                return await answer(send, 200, page, [(b"content-type", b"text/html; charset=utf-8")])
            if scope["method"] == "POST" and self.take(await body(receive)):
                return await answer(send, 200, json.dumps(self.login), [(b"content-type", b"application/json")])
            return await answer(send, 403, CLOSED)
        if knows:
            return await self.app(scope, receive, send)
        return await answer(send, 401, CLOSED, [(b"www-authenticate", b'Basic realm="Trainyard", charset="UTF-8"')])

    def is_foreign(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a browser asks for a page of another origin: it says so in the one way or in the other."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin not in self.origins and address(origin) != headers.get(b"host", b"").decode("latin-1"):
            return True
        return headers.get(b"sec-fetch-site", b"none") not in (b"same-origin", b"none")


def address(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def is_click(headers: dict[bytes, bytes]) -> bool:
    """Whether it opens a page for the user to see, and not inside of another one."""
    return (headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")) == (b"navigate", b"document")


async def body(receive: Callable) -> str:
    """As much of it as a token may have."""
    read, more = b"", True
    while more and len(read) <= MOST:
        message = await receive()
        read += message.get("body", b"")
        more = message.get("more_body", False)
    return read[:MOST].decode("latin-1")


async def answer(send: Callable, status: int, text: str, headers: Headers | None = None) -> None:
    content = text.encode()
    own = [
        (b"content-length", str(len(content)).encode()), (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"),
    ]  # fmt: skip
    kind = [] if any(name == b"content-type" for name, _ in headers or ()) else [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *kind, *(headers or ())]})
    await send({"type": "http.response.body", "body": content})
