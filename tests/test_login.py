"""MLflow's pages are their owner's: a server that is attacked for real, by another user of this machine and by pages of
other addresses in the owner's browser. All on the loopback.
"""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from conftest import LIMIT, environment, forget_stores, make_project, soon

from flows.access import login, running_servers
from flows.access.basic_authentication import BasicAuthentication
from flows.access.door import Door
from flows.access.one_time_links import LIFETIME, Links
from flows.machine import ports
from flows.operations import ui
from flows.params.params_file import read
from flows.project import private_files
from flows.project.errors import InputError
from flows.tracking import experiments, loading, mlflow_store

NOBODY = 65534
RUN = {"experiment_id": "0", "run_name": "planted"}
# Of each kind of what MLflow serves: pages, REST in all its spellings, artifacts in all their ways, GraphQL, jobs,
# traces, and the assistant, which would run commands.
READS = [
    "/", "/version", "/static-files/index.html", "/enter/x", "//health", "/health/", "/ajax-api/3.0/mlflow/server-info",
    "/api/2.0/mlflow/registered-models/search", "/ajax-api/2.0/mlflow/registered-models/search",
    "/api/2.0/mlflow/experiments/search?max_results=9", "/get-artifact?run_uuid=x&path=y",
    "/model-versions/get-artifact?name=x&version=1&path=y", "/ajax-api/2.0/mlflow/get-artifact?run_uuid=x&path=y",
    "/api/2.0/mlflow-artifacts/artifacts", "/ajax-api/2.0/mlflow-artifacts/artifacts/x",
    "/ajax-api/3.0/mlflow/assistant/config", "/ajax-api/2.0/mlflow/gateway-proxy?gateway_path=x",
    "/ajax-api/2.0/mlflow/metrics/get-history-bulk?run_id=x&metric_key=y",
]  # fmt: skip
WRITES = [
    ("POST", "/api/2.0/mlflow/runs/create", RUN), ("POST", "/ajax-api/2.0/mlflow/runs/create", RUN),
    ("POST", "/api/2.0/mlflow/registered-models/create", {"name": "planted"}),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/planted", {}), ("POST", "/v1/traces", {}),
    ("POST", "/ajax-api/2.0/mlflow/upload-artifact?run_uuid=x&path=planted", {}),
    ("POST", "/graphql", {"query": '{ mlflowSearchRuns(input: {experimentIds: ["0"]}) { runs { info { runId } } } }'}),
    ("POST", "/ajax-api/3.0/mlflow/assistant/message", {}), ("POST", "/ajax-api/3.0/jobs/", {}), ("OPTIONS", "/", {}),
]  # fmt: skip
# What another user's process does: asks as it is told, and tells what it got.
ATTACK = """
import json, sys, urllib.error, urllib.request
for address, method, content in json.load(sys.stdin):
    given = json.dumps(content).encode() if content is not None else None
    request = urllib.request.Request(address, given, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            print(answer.status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""


class Pages:
    """A running `trainyard ui`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "ui.log"
        self.port = ports.free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "flows.operations.ui", "--port", str(self.port)]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=file, stderr=file)
        up = soon(lambda: ports.answers(f"{self.address}/health") or self.process.poll() is not None)
        assert up, self.log.read_text()
        assert self.process.poll() is None, self.log.read_text()

    @property
    def password(self) -> str:
        return (self.folder / ".trainyard" / "login" / "password").read_text().strip()

    @property
    def link(self) -> str:
        """The printed one."""
        return next(word for word in self.log.read_text().split() if "/enter#" in word)

    def ask(self, path: str, content: object = None, method: str | None = None, owner: bool = False, **headers: str):
        """Status and text of the answer."""
        given = json.dumps(content).encode() if content is not None else None
        basic = base64.b64encode(f"trainyard:{self.password}".encode()).decode()
        headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Basic {basic}"} if owner else {}),
            **headers,
        }
        request = urllib.request.Request(f"{self.address}{path}", given, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def take(self, token: str, **headers: str):
        request = urllib.request.Request(f"{self.address}/enter", token.encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def planted(self) -> bool:
        """Whether an attack has left anything."""
        runs = self.ask("/api/2.0/mlflow/runs/search", {"experiment_ids": ["0", "1"]}, owner=True)
        models = self.ask("/api/2.0/mlflow/registered-models/search", owner=True)
        assert (runs[0], models[0]) == (200, 200)
        return "planted" in runs[1] + models[1] or any(self.folder.rglob("planted"))


@pytest.fixture(scope="module")
def pages(empty_store) -> Iterator[Pages]:
    # Not pytest's own folder, into which no other user gets at all.
    place = Path(tempfile.mkdtemp(prefix="trainyard-"))
    place.chmod(0o755)
    running = None
    try:
        shutil.copy(empty_store, make_project(place / "a project"))
        running = Pages(place / "a project")
        yield running
    finally:
        if running:
            running.process.terminate()
            running.process.wait(LIMIT)
        shutil.rmtree(place)


def as_nobody(*command: str, given: str = "") -> subprocess.CompletedProcess:
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv, to act as another user")
    other = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    return subprocess.run([*other, *command], input=given, capture_output=True, text=True, timeout=LIMIT, cwd="/")


def test_another_user_of_the_machine_reads_and_writes_nothing(pages):
    asked = [(path, "GET", None) for path in READS] + [(path, method, content) for method, path, content in WRITES]
    given = json.dumps([(pages.address + path, method, content) for path, method, content in asked])
    # Without this environment's packages, whose folder may be closed to others.
    done = as_nobody(os.path.realpath(sys.executable), "-I", "-S", "-c", ATTACK, given=given)
    said = done.stdout.split()
    assert len(said) == len(asked), done.stderr
    allowed = {path: code for (path, *_), code in zip(asked, said, strict=True) if code not in ("401", "403")}
    assert allowed == {}
    assert not pages.planted()


def test_another_user_of_the_machine_gets_at_no_file_and_sees_no_secret(pages):
    state = pages.folder / ".trainyard"
    secrets = [state / "login" / "password", state / "login" / "links", pages.folder / "mlflow.db", state]
    secrets += [pages.folder / "mlartifacts", Path(f"/proc/{pages.process.pid}/environ")]
    assert all(path.exists() for path in secrets)
    for path in secrets:
        assert as_nobody("ls", str(path / ".") if path.is_dir() else str(path)).returncode or not path.is_dir()
        assert as_nobody("cat", str(path)).returncode, path
    assert as_nobody("cat", str(pages.folder / "params.yaml")).returncode == 0  # so it is not the folder that is closed
    shown = as_nobody("ps", "-eo", "args", "-ww").stdout
    assert "flows.tracking.mlflow_server" in shown
    token = pages.link.rpartition("#")[2]
    assert not [secret for secret in (pages.password, token, "mlflow.db") if secret in own_lines(shown, pages)]


def own_lines(shown: str, pages: Pages) -> str:
    """Of the commands of this server: other tests run beside it."""
    lines = [line for line in shown.splitlines() if str(pages.port) in line]
    assert lines
    return "\n".join(lines)


def test_without_the_login_all_is_closed_but_whether_it_is_up(pages):
    assert pages.ask("/health") == (200, "OK")
    for path in READS:
        status, said = pages.ask(path)
        assert (status, "trainyard ui" in said) == (401, True), path
    for method, path, content in WRITES:
        assert pages.ask(path, content, method)[0] == 401, path
    for wrong in ("trainyard:", "trainyard:wrong", f"other:{pages.password}", f"trainyard:{pages.password} "):
        basic = base64.b64encode(wrong.encode()).decode()
        assert pages.ask("/version", Authorization=f"Basic {basic}")[0] == 401
    assert pages.ask("/version", Authorization=f"Bearer {pages.password}")[0] == 401
    assert pages.ask("/version", owner=True)[0] == 200
    assert not pages.planted()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}"])
def test_a_name_that_leads_here_is_refused_though_it_comes_with_the_login(pages, host):
    """DNS rebinding."""
    host = host.format(port=pages.port)
    for path in ("/", "/api/2.0/mlflow/experiments/search?max_results=9", "/get-artifact?run_uuid=x&path=y"):
        assert pages.ask(path, owner=True, Host=host)[0] == 403
        assert pages.ask(path, owner=True, Host=host, Origin=f"http://{host}")[0] == 403
    assert pages.ask("/graphql", {"query": "{}"}, owner=True, Host=host)[0] == 403
    assert pages.ask("/", owner=True, Host=f"localhost:{pages.port + 1}")[0] == 200  # a tunnel's end


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://[::bad"},
        {"Origin": "http://127.0.0.1:9"}, {"Origin": "http://localhost:9"},  # another user's server on this machine
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},  # a form
    ],
)  # fmt: skip
def test_pages_of_other_addresses_ask_in_vain_though_the_browser_adds_the_login(pages, headers):
    for path in READS if headers.get("Sec-Fetch-Dest") != "document" else []:
        assert pages.ask(path, owner=True, **headers)[0] == 403, path
    for method, path, content in WRITES:
        assert pages.ask(path, content, method, owner=True, **headers)[0] == 403, path
    assert pages.take(login_links(pages).new(), **headers)[0] == 403
    assert not pages.planted()


def test_its_own_pages_ask_and_a_click_elsewhere_leads_to_the_start(pages):
    create = ("/ajax-api/2.0/mlflow/runs/search", {"experiment_ids": ["1"]})
    for origin in (pages.address, f"http://localhost:{pages.port}"):
        host = origin.removeprefix("http://")
        assert pages.ask(*create, owner=True, Origin=origin, Host=host, **{"Sec-Fetch-Site": "same-origin"})[0] == 200
    click = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert pages.ask("/", owner=True, **click)[0] == 200
    assert pages.ask("/", **click)[0] == 401
    assert pages.ask("/enter", **click)[0] == 200


def login_links(pages: Pages) -> Links:
    return Links(pages.folder / ".trainyard" / "login" / "links")


def test_the_printed_link_lets_its_owner_in_once(pages):
    page, _, token = pages.link.partition("#")
    assert page == f"{pages.address}/enter"
    status, text = pages.ask("/enter")
    assert status == 200
    assert pages.password not in text
    # It goes on to the runs, with the project's columns.
    assert "workflowType=machine_learning&viewStateShareKey=trainyard" in text
    assert pages.ask(f"/enter?{token}")[0] == 200  # where it was not asked for, it is not used
    assert pages.take("0" * len(token))[0] == 403
    status, said = pages.take(token)
    assert (status, json.loads(said)) == (200, {"user": "trainyard", "password": pages.password})
    assert pages.take(token) == (403, pages.take("")[1])
    assert pages.password not in pages.take(token)[1]
    assert pages.ask("/enter", method="DELETE")[0] == 403
    # An owner who has lost it makes another one, while the server runs.
    assert pages.take(login_links(pages).new())[0] == 200


def test_a_link_is_good_once_for_many_at_once_and_for_a_day(tmp_path):
    links = Links(tmp_path / "links")
    token = links.new()
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(Links(tmp_path / "links").take, [token] * 64)) == 1
    old, young = links.new(), links.new()
    for file in links.folder.iterdir():
        assert old not in file.name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(links.folder.stat().st_mode) == 0o700
    past = links.file(old).stat().st_mtime - LIFETIME
    os.utime(links.file(old), (past, past))
    assert not links.take(old)
    os.utime(links.file(young), (past, past))
    links.new()
    assert len(list(links.folder.iterdir())) == 1  # those that nobody used are swept up


def test_another_protocol_than_http_is_locked_too():
    async def inner(scope, receive, send):
        passed.append(scope["type"])

    async def send(message):
        sent.append(message)

    def ask(kind: str, *headers: tuple[bytes, bytes]) -> None:
        scope = {"type": kind, "path": "/", "headers": [(b"host", b"127.0.0.1:5000"), *headers]}
        asyncio.run(Door(BasicAuthentication(inner, "u", "p"))(scope, None, send))

    passed, sent = [], []
    basic = (b"authorization", b"Basic " + base64.b64encode(b"u:p"))
    ask("lifespan")
    assert passed == ["lifespan"]
    ask("websocket")
    ask("websocket", basic, (b"origin", b"http://127.0.0.1:9"))
    assert (passed, [message["type"] for message in sent]) == (["lifespan"], ["websocket.close"] * 2)
    ask("websocket", basic, (b"origin", b"http://127.0.0.1:5000"))
    assert passed == ["lifespan", "websocket"]


def test_the_owners_programs_log_in_by_variables(pages, finished_copy, monkeypatch):
    import mlflow

    from flows import ensemble
    from flows.ensembles import late_registration

    monkeypatch.setenv("MLFLOW_TRACKING_URI", pages.address)
    with pytest.raises(mlflow.exceptions.MlflowException, match="MLFLOW_TRACKING_USERNAME"):
        mlflow_store.connect().search_experiments()
    for name, value in {"USERNAME": "trainyard", "PASSWORD": pages.password}.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    assert late_registration.track(read())
    assert ensemble.ensemble(read())
    _, about = loading.load_champion("digits")
    assert about["version"] == "1"
    client = mlflow_store.connect()
    runs = client.search_runs([experiments.experiment(client, "digits")])
    assert {run.info.run_name for run in runs} >= {"small", "small-0", "small-1", "wide", "ensemble"}
    forget_stores(monkeypatch)


def test_no_other_server_is_sent_the_secret(project, monkeypatch):
    address = "http://127.0.0.1:5000"
    monkeypatch.setattr("requests.get", lambda *_, **__: answer)
    monkeypatch.setattr(ports, "is_ours", lambda url: True)
    answer = type("Answer", (), {"status_code": 200})()
    variables = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")

    def logs_in(**env: str) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            for name in (*variables, "MLFLOW_REGISTRY_URI"):
                patch.setenv(name, "x")
                patch.delenv(name)
            for name, value in env.items():
                patch.setenv(name, value)
            mlflow_store.connect()
            assert len({name in os.environ for name in variables}) == 1
            return variables[0] in os.environ

    assert not logs_in(MLFLOW_TRACKING_URI=address)
    running_servers.note("http://127.0.0.1:4200/api", address)  # a user's own, which `trainyard serve` was told of
    assert not logs_in(MLFLOW_TRACKING_URI=address)
    running_servers.note("http://127.0.0.1:4200/api", address, own_mlflow=True)
    assert logs_in(MLFLOW_TRACKING_URI=address)
    assert logs_in(MLFLOW_TRACKING_URI=f"{address}/", MLFLOW_REGISTRY_URI=address)
    assert not logs_in(MLFLOW_TRACKING_URI="http://127.0.0.1:5001")
    # MLflow's client sends it to the registry as well.
    assert not logs_in(MLFLOW_TRACKING_URI=address, MLFLOW_REGISTRY_URI="http://mlflow.example")


def test_where_it_is_served_already_ui_prints_another_link(project):
    running_servers.note("http://127.0.0.1:4200/api", "http://127.0.0.1:5055", own_mlflow=True)
    # `running_servers.addresses` goes by the process that noted it.
    from click.testing import CliRunner

    done = CliRunner().invoke(ui.command, [], catch_exceptions=False)
    address, _, token = next(word for word in done.output.split() if "#" in word).partition("#")
    assert address == "http://127.0.0.1:5055/enter"
    assert login.links().take(token)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "10.1.2.3"])
def test_it_is_asked_by_its_own_names_alone(host):
    from mlflow.server.security_utils import is_allowed_host_header, should_block_cors_request

    given = ui.allowed(host, 5000)
    hosts = given["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    origins = given.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "").split(",")
    own = {"0.0.0.0": "127.0.0.1"}.get(host, host)
    assert is_allowed_host_header(hosts, f"{own}:5000")
    assert not should_block_cors_request(f"http://{own}:5000", "POST", origins)
    for wrong in ("evil.example:5000", "192.0.2.7:5000", "evil.example"):
        assert not is_allowed_host_header(hosts, wrong)
        assert should_block_cors_request(f"http://{wrong}", "POST", origins)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_the_store_is_made_of_is_its_owners(project):
    with widely_open():
        mlflow_store.connect()
        experiments.experiment(mlflow_store.connect(), "digits")
    for name in ("mlflow.db", "mlartifacts", ".trainyard"):
        assert mode(project / name) & 0o077 == 0, name


@contextlib.contextmanager
def widely_open() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def test_a_store_that_others_could_read_is_closed_when_it_is_opened(store, project):
    (project / "mlflow.db").chmod(0o644)
    (project / "mlflow.db.lock").touch(0o666)
    for folder in ("mlartifacts", ".trainyard"):
        (project / folder).mkdir(mode=0o755)
    mlflow_store.connect()
    login.password()
    for name in ("mlflow.db", "mlflow.db.lock", "mlartifacts", ".trainyard"):
        assert mode(project / name) & 0o077 == 0, name


def test_a_store_that_a_group_shares_on_purpose_stays_open_to_it(store, project):
    project.chmod(0o2775)
    (project / "mlflow.db").chmod(0o664)
    mlflow_store.connect()
    assert mode(project / "mlflow.db") == 0o660
    with widely_open():
        private_files.create(project / "new")
        private_files.make_folder(project / "folder")
    assert (mode(project / "new"), mode(project / "folder") & 0o777) == (0o660, 0o770)


def test_another_store_that_the_user_names_is_left_as_it_is(project, empty_store, tmp_path, monkeypatch):
    other = Path(shutil.copy(empty_store, tmp_path / "x.db"))
    other.chmod(0o644)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    mlflow_store.connect()
    assert mode(other) == 0o644


def test_what_is_another_users_or_elsewhere_is_not_touched(tmp_path):
    file = tmp_path / "a"
    file.touch(0o644)
    (tmp_path / "link").symlink_to(file)
    private_files.tighten(tmp_path / "link")
    private_files.tighten(tmp_path / "none")
    assert mode(file) == 0o644
    if not os.geteuid():
        os.chown(file, NOBODY, NOBODY)
        private_files.tighten(file)
        assert mode(file) == 0o644
    (tmp_path / "passage").mkdir(0o711)
    private_files.make_folder(tmp_path / "passage")
    assert mode(tmp_path / "passage") == 0o711


def test_the_secret_of_another_user_is_named_and_not_asked_for(project, monkeypatch):
    login.password()

    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(InputError, match="another user"):
        login.password()


def test_the_server_does_not_start_without_a_password():
    command = [sys.executable, "-m", "flows.tracking.mlflow_server", "--port", str(ports.free_port())]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "TRAINYARD_PASSWORD is not set: it is the password of the user trainyard\n"


def test_a_stores_address_is_in_no_command(pages):
    """It may have a password, and `ps` shows commands to everybody."""
    processes = [psutil.Process(pages.process.pid), *psutil.Process(pages.process.pid).children(recursive=True)]
    assert len(processes) > 1
    for process in processes:
        assert "mlflow.db" not in " ".join(process.cmdline())
        assert pages.password not in " ".join(process.cmdline())
