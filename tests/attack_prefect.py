"""What a test does to a Prefect server that lets in its owner alone: as its owner, and as everybody else."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from base64 import b64encode
from urllib.parse import urlsplit

import pytest
from conftest import LIMIT


class Api:
    """Prefect's API as its owner asks it: with the secret, and a token by which the server knows its own clients."""

    def __init__(self, address: str, secret: str) -> None:
        self.address, self.client = address, str(uuid.uuid4())
        self.headers = {"Authorization": f"Basic {b64encode(secret.encode()).decode()}"}
        self.token = ""  # a temporary server does without
        if status(f"{address}/csrf-token?client={self.client}", **self.headers)[0] != 422:
            self.token = self.send("GET", f"/csrf-token?client={self.client}")["token"]

    def send(self, method: str, path: str, body: dict | None = None) -> object:
        headers = {**self.headers, "Content-Type": "application/json"}
        if method != "GET":
            headers |= {"Prefect-Csrf-Client": self.client, "Prefect-Csrf-Token": self.token}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}{path}", data, headers, method=method)
        for more in range(5, -1, -1):
            try:
                with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:
                # Two writers at once in SQLite: Prefect's own client tries again, too.
                if error.code != 503 or not more:
                    raise
                time.sleep(1)

    def ask(self, path: str, **body) -> object:
        return self.send("POST", path, body)


def status(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, given, method=method)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            return answer.status, dict(answer.headers.items())
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers.items())


# With the standard library alone, in the Python of the system: the one of the tests may be closed to other users.
SECOND_USER = """
import json, os, sys, urllib.error, urllib.request
api = sys.argv[1]

def post(path, **body):
    request = urllib.request.Request(api + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or "null")
    except urllib.error.HTTPError as error:
        return error.code, {}

said = {"user": os.getuid(), "codes": []}
code, flow = post("/flows/", name="attack")
said["codes"].append(code)
command = {"command": f"touch {sys.argv[2]}"}
nobody = "00000000-0000-0000-0000-000000000000"
code, made = post("/deployments/", name="attack", flow_id=flow.get("id", nobody), entrypoint="a.py:a",
                  work_pool_name="trainyard", job_variables=command)
said["codes"].append(code)
code, _ = post(f"/deployments/{made.get('id', nobody)}/create_flow_run", job_variables=command)
said["codes"].append(code)
for path in ("/deployments/filter", "/flow_runs/filter", "/variables/filter", "/block_documents/filter"):
    said["codes"].append(post(path)[0])
said["lines"] = []
for number in filter(str.isdigit, os.listdir("/proc")):
    for name in ("cmdline", "environ"):
        try:
            with open(f"/proc/{number}/{name}", "rb") as file:
                said["lines"].append(file.read().decode(errors="replace"))
        except OSError:
            pass
print(json.dumps(said))
"""


def second_user(api: str, target: str) -> dict:
    """Tries to have the file `target` made, as another user of this machine. Returns the statuses of the answers, and
    what that user sees of everybody's processes. Skips where this user may not become another one."""
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv, to be another user")
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    python = shutil.which("python3", path="/usr/bin:/bin") or os.path.realpath(sys.executable)
    done = subprocess.run(
        [*nobody, python, "-I", "-c", SECOND_USER, api, target], cwd="/", env={}, capture_output=True, text=True,
        timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["user"] == 65534
    return said


FOREIGN = "http://evil.example"


def strangers_are_refused(api: str, secret: str, csrf: bool = True) -> None:
    """Over HTTP and websockets: without the secret, from the page of another origin, by another name, and, of a server
    with pages, without the token of a client."""
    import websockets.exceptions
    from websockets.sync.client import connect

    owner = {"Authorization": f"Basic {b64encode(secret.encode()).decode()}"}
    json_ = {"Content_Type": "application/json"}
    place = urlsplit(api).netloc
    flows = f"{api}/flows/"
    body = b'{"name": "attack"}'
    assert status(flows, "POST", body, **json_)[0] in (401, 403)
    assert status(f"{api}/csrf-token?client=me")[0] == 401
    assert status(f"{api}/version", Authorization="Basic " + b64encode(b"trainyard:wrong").decode())[0] == 401

    # The owner's own browser, in which a stranger's page asks: even if it knew the secret.
    for origin in (FOREIGN, "null", "http://127.0.0.1:9", f"http://{place}.evil.example"):
        code, headers = status(flows, "POST", body, Origin=origin, **json_, **owner)
        assert code == 403, origin
        assert "access-control-allow-origin" not in {name.lower() for name in headers}
        asks = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization"}
        code, headers = status(flows, "OPTIONS", Origin=origin, **asks)
        assert code >= 400
        assert "access-control-allow-origin" not in {name.lower() for name in headers}
    for site in ("cross-site", "same-site"):  # the latter is another port of this machine
        assert status(f"{api}/version", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors", **owner)[0] == 403
    # A name of theirs that leads to this machine.
    for host in ("evil.example", f"evil.example:{urlsplit(api).port}", f"{place}.evil.example"):
        assert status(f"{api}/version", Host=host, **owner)[0] == 403
        assert status(f"{api.removesuffix('/api')}/", Host=host)[0] == 403
    assert status(f"{api}/version", **owner)[0] == 200
    assert status(f"{api}/version", Origin=f"http://{place}", Sec_Fetch_Site="same-origin", **owner)[0] == 200

    if csrf:
        assert status(flows, "POST", body, **json_, **owner)[0] == 403
        guessed = {"Prefect_Csrf_Client": str(uuid.uuid4()), "Prefect_Csrf_Token": "guessed"}
        assert status(flows, "POST", body, **json_, **owner, **guessed)[0] == 403

    socket = f"ws://{place}/api/events/in"
    for headers in ({"Origin": FOREIGN}, {"Host": "evil.example"}):
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            opened(connect, socket, headers)
        assert refused.value.response.status_code == 403
    with opened(connect, socket, {}) as stranger:
        stranger.send(json.dumps({"type": "auth", "token": "guessed"}))
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            stranger.recv(timeout=LIMIT)


def opened(connect, url: str, headers: dict[str, str]):
    """A websocket with another Origin or Host; the library's own Host stays where none is given."""
    if "Host" in headers:  # the library would send two: the name is in the address, and the connection goes here
        import socket

        place = urlsplit(url)
        here = socket.create_connection((place.hostname, place.port))
        return connect(url.replace(place.netloc, headers["Host"]), sock=here, subprotocols=["prefect"], proxy=None)
    return connect(url, origin=headers.get("Origin"), subprotocols=["prefect"], proxy=None)
