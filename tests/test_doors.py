"""Who gets in: the door before Prefect's server and its links, secrets that no other server gets, the temporary server.

What is served for good is attacked in test_serve.py, where it runs.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from base64 import b64encode

import pytest
from attack_prefect import status, strangers_are_refused
from conftest import ROOT, environment, make_project, soon

from flows import flow_run
from flows.access import door, login, running_servers
from flows.access.one_time_links import Links
from flows.machine import ports
from flows.project import file_io
from flows.project.errors import InputError
from flows.servers import prefect_server

HERE = {"host": "127.0.0.1:4200"}
LINK = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}  # on a page of another origin, which was clicked


async def behind(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"behind"})


def ask(app: door.Door, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, str]:
    """Status and body of the answer."""
    sent = []
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "method": method, "headers": given}

    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode()


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        (HERE, True),
        ({"host": "LOCALHOST:9"}, True),
        ({"host": "localhost"}, True),
        ({"host": "localhost.evil.example:4200"}, False),
        ({"host": "127.0.0.1:4200.evil.example"}, False),
        ({"host": "evil.example"}, False),
        ({}, False),
        ({**HERE, "Host": "evil.example"}, False),  # two of them
        ({**HERE, "origin": "http://127.0.0.1:4200"}, True),
        ({**HERE, "origin": "http://127.0.0.1:4201"}, False),
        ({**HERE, "origin": "http://localhost:4200"}, False),
        ({**HERE, "origin": "null"}, False),
        ({**HERE, "origin": "http://[::1"}, False),
        ({**HERE, **LINK, "sec_fetch_dest": "document"}, True),
        ({**HERE, **LINK, "sec_fetch_dest": "iframe"}, False),
        ({**HERE, "sec_fetch_site": "same-site", "sec_fetch_mode": "cors"}, False),
        ({**HERE, "sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"}, True),
    ],
)
def test_who_may_pass(headers, passes):
    assert ask(door.Door(behind), **headers)[0] == (200 if passes else 403)


def test_names_are_the_users_to_choose():
    app = door.Door(behind, hosts=["trainyard.example:*"])
    assert ask(app, host="trainyard.example")[0] == 200
    assert ask(app, host="trainyard.example:4200")[0] == 200
    assert ask(app, **HERE)[0] == 403


def test_a_link_lets_in_once(tmp_path):
    links = Links(tmp_path / "links")
    app = door.Door(behind, links=links, given=lambda: ({"key": "kept"}, []))
    token = links.new()
    assert "<script>" in ask(app, "/enter", **HERE)[1]

    def enter(token: str, **headers: str) -> tuple[int, str]:
        return ask(app, "/enter", "POST", token.encode(), **HERE | headers)

    another = Links(tmp_path / "others").new()
    for wrong in ("", "-", "x", "é", "../links", another, token[:-1], token + "0", "1" * 10_000):
        assert enter(wrong)[0] == 403, wrong
    assert enter(token, origin="http://evil.example")[0] == 403
    assert enter(token) == (200, json.dumps({"key": "kept"}))
    assert enter(token)[0] == 403
    assert enter(links.new())[0] == 200


def test_a_server_does_not_start_without_a_secret(monkeypatch):
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    with pytest.raises(SystemExit, match="PREFECT_SERVER_API_AUTH_STRING is not set"):
        door.prefect()


@pytest.fixture
def settings(project, monkeypatch) -> pytest.MonkeyPatch:
    """Of Prefect: none, in a project of which nothing is served."""
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME"):
        monkeypatch.setenv(name, "")  # so that what is set is taken back
        monkeypatch.delenv(name)
    return monkeypatch


OURS, THEIRS = "http://127.0.0.1:4200/api", "https://prefect.example/api"


@pytest.mark.parametrize(
    ("own", "url", "given", "sent"),
    [
        (True, None, None, "ours"),
        (True, None, "theirs:1", "ours"),  # of a server that is not meant
        (True, OURS, None, "ours"),
        (True, "http://localhost:4200/api/", None, "ours"),
        (True, OURS, "theirs:1", "theirs:1"),
        (True, "http://127.0.0.1:4201/api", None, None),
        (True, THEIRS, None, None),
        (True, THEIRS, "theirs:1", "theirs:1"),
        (True, THEIRS, "ours", None),  # left from a shell that was made for our own
        (True, "http://127.0.0.1:no/api", None, None),
        (False, None, None, None),  # `serve` uses a server of somebody else's
        (False, None, "theirs:1", "theirs:1"),
        (False, OURS, None, None),
        (None, THEIRS, "ours", None),
        (None, OURS, "ours", None),  # which is not up any more: whoever has its port now
        (True, "https://127.0.0.1:4200/api", None, None),
        (True, "http://[::1]:4200/api", None, None),
    ],
)
def test_our_secret_is_for_our_server(settings, own, url, given, sent):
    settings.setattr(ports, "is_ours", lambda url: True)
    if own is not None:
        running_servers.note(OURS if own or url else THEIRS, "http://127.0.0.1:5000", own)
    if url:
        settings.setenv("PREFECT_API_URL", url)
    if given:
        settings.setenv("PREFECT_API_AUTH_STRING", login.credentials() if given == "ours" else given)
    prefect_server.configure()
    expected = login.credentials() if sent == "ours" else sent
    assert os.environ.get("PREFECT_API_AUTH_STRING") == expected


def test_our_secret_is_not_for_who_took_our_servers_port(settings):
    running_servers.note(OURS, "http://127.0.0.1:5000", own=True)
    settings.setattr(ports, "is_ours", lambda url: False)
    settings.setenv("PREFECT_API_AUTH_STRING", login.credentials())
    prefect_server.configure()
    assert "PREFECT_API_AUTH_STRING" not in os.environ


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_another_users_server_is_not_taken_for_ours():
    port = ports.free_port()
    code = f"import http.server as h; h.HTTPServer(('127.0.0.1', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
    python = shutil.which("python3", path="/usr/bin:/bin")
    if not python:
        pytest.skip("needs a Python that every user can run")
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    address = f"http://127.0.0.1:{port}"
    assert not ports.is_ours(address)  # nobody is there
    with subprocess.Popen([*as_nobody, python, "-c", code], cwd="/", stderr=subprocess.DEVNULL) as theirs:
        try:
            assert soon(lambda: ports.answers(address))
            assert not ports.is_ours(address)
        finally:
            theirs.kill()
    with socket.create_server(("127.0.0.1", 0)) as ours:
        assert ports.is_ours(f"http://127.0.0.1:{ours.getsockname()[1]}")


def test_of_a_secret_that_cannot_be_written_no_part_stays(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        file_io.write_private(tmp_path / "secret", "hunter2")
    assert not any(tmp_path.iterdir())


def test_a_damaged_password_lets_nobody_in(settings):
    login.password()
    login.file().write_text("\n")
    with pytest.raises(InputError, match="is damaged: remove it, and start the servers again"):
        login.credentials()
    login.file().unlink()
    assert len(login.password()) == 2 * login.BYTES


@pytest.mark.parametrize(
    ("entrypoint", "parameters", "said"),
    [
        ("flows/a.py:a", {}, None),
        ("flows/a.py:a", {"dask": None}, None),
        ("flows/a.py:a", {"dask": "tcp://here:1"}, None),
        ("flows/a.py:a", {"dask": "tcp://127.0.0.1:666"}, "no Dask scheduler of prefect.yaml"),
        ("flows/b.py:b", {"dask": "tcp://here:1"}, "no Dask scheduler of prefect.yaml"),
        ("flows/c.py:c", {}, "no entrypoint of prefect.yaml"),
        (None, {}, "no entrypoint of prefect.yaml"),
    ],
)
def test_what_a_worker_runs(entrypoint, parameters, said):
    own = [{"entrypoint": "flows/a.py:a", "parameters": {"dask": "tcp://here:1"}}, {"entrypoint": "flows/b.py:b"}]
    reason = flow_run.refusal(entrypoint, parameters, own)
    assert reason is None if said is None else said in reason


def test_what_holds_secrets_is_for_this_user_alone(settings):
    secret = login.credentials()
    running_servers.write_variables({"PREFECT_API_AUTH_STRING": secret, "OTHER": "a 'b"})
    folder = running_servers.env_file().parents[1]
    assert (folder / "login").stat().st_mode & 0o077 == 0
    for file in (folder / "login" / "password", running_servers.env_file()):
        assert file.stat().st_mode & 0o777 == 0o600
    shell = f'. "{running_servers.env_file()}"; printf %s "$PREFECT_API_AUTH_STRING $OTHER"'
    assert subprocess.run(["sh", "-c", shell], capture_output=True, text=True).stdout == f"{secret} a 'b"


# Brings up Prefect's temporary server until its input ends.
SERVE = """
import json, os, sys
from flows.servers.prefect_server import check, configure
from flows.servers.temporary_server import TemporaryServer
from flows.project.errors import InputError
configure()
server = TemporaryServer()
server.start()
server.wait()
check("")
secret = os.environ["PREFECT_API_AUTH_STRING"]
said = []
for wrong in ("trainyard:wrong", ""):
    os.environ["PREFECT_API_AUTH_STRING"] = wrong
    try:
        check("")
    except InputError as error:
        said.append(str(error))
print(json.dumps([os.environ["PREFECT_API_URL"], secret, said]), flush=True)
sys.stdin.read()
"""


def test_the_temporary_server_lets_in_the_command_that_started_it_alone(tmp_path):
    folder = make_project(tmp_path / "a project")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVE], cwd=folder, env=environment(), **pipes) as server:
        try:
            api, secret, said = json.loads(server.stdout.readline())
            strangers_are_refused(api, secret, csrf=False)
            owner = {
                "Authorization": f"Basic {b64encode(secret.encode()).decode()}",
                "Content_Type": "application/json",
            }
            assert status(f"{api}/flows/filter", "POST", b"{}", **owner)[0] == 200
            assert "does not know this secret: set PREFECT_API_AUTH_STRING to it" in said[0]
            assert "wants its secret: set PREFECT_API_AUTH_STRING to it" in said[1]
        finally:
            server.stdin.close()
    assert not (folder / ".trainyard" / "login").exists()  # its secret is for it alone


@pytest.mark.parametrize("where", ["pull", "deployment"])
def test_a_worker_says_what_it_does_not_follow(project, where):
    from flows.operations import flow_worker

    with pytest.raises(InputError, match=r"prefect\.yaml does not exist"):
        flow_worker.check(project)
    steps = "pull: [{prefect.deployments.steps.set_working_directory: {directory: /tmp}}]"
    deployments = f"deployments:\n  - name: one\n    {steps}\n" if where == "deployment" else f"{steps}\n"
    (project / "prefect.yaml").write_text(deployments)
    with pytest.raises(InputError, match=r"has `pull`, which is not followed"):
        flow_worker.check(project)
    flow_worker.check(ROOT)
