"""An archive arrives whole and verified, or a sentence says why not, and nothing is left lying about."""

import contextlib
import hashlib
import http.server
import os
import socket
import ssl
import threading

import pytest
import trustme
from conftest import soon

from flows.data import fetch
from flows.project.errors import InputError, UnavailableError

CONTENT = bytes(range(256)) * 40
PATH = "MNIST/raw/tiny.gz"
PAGE = b"\n<!DOCTYPE html><html>Please sign in</html>"


class Host(http.server.ThreadingHTTPServer):
    """Answers on 127.0.0.1 with what a test laid out: a list of answers for each path, the last one for good."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answering)
        self.answers, self.asked, self.stopped = {}, [], threading.Event()

    def handle_error(self, request, client_address):
        """A client that hangs up on purpose is no news."""


class Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        answers = self.server.answers.get(self.path, [{"status": 404}])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        body = answer.get("body", b"")
        self.send_response(answer.get("status", 200), answer.get("said"))
        length = answer.get("length", len(body))
        for name, value in ({"Content-Length": length} | answer.get("headers", {})).items():
            if value is not None:
                self.send_header(name, str(value))
        if "drip" in answer and answer["drip"] == "header":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            self.drip()
        self.end_headers()
        self.wfile.write(body)
        if "drip" in answer:
            self.drip()

    def drip(self):
        """A byte now and then, for as long as anyone listens: each within the time limit of a read."""
        with contextlib.suppress(OSError):
            while not self.server.stopped.wait(0.02):
                self.wfile.write(b"x")
                self.wfile.flush()

    def log_message(self, *_):
        pass


def serve(host, scheme):
    threading.Thread(target=host.serve_forever, args=(0.01,), daemon=True).start()
    return f"{scheme}://127.0.0.1:{host.server_port}"


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture
def host(authority, tmp_path, monkeypatch):
    """An https host whose certificate is trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    with Host() as host:
        host.socket = context.wrap_socket(host.socket, server_side=True)
        host.url = serve(host, "https")
        yield host
        host.stopped.set()
        host.shutdown()


@pytest.fixture(autouse=True)
def quick_and_local(project, monkeypatch):
    monkeypatch.setattr(fetch, "BACKOFF", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def archive(url=None, content=CONTENT):
    return fetch.Archive(PATH, len(content), hashlib.sha256(content).hexdigest(), url)


@pytest.fixture
def official(host):
    return archive(f"{host.url}/tiny.gz")


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def nowhere():
    """An address at which nobody listens, and nobody else can as long as the test runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"https://127.0.0.1:{free.getsockname()[1]}"


def test_a_file_is_downloaded_once_and_kept(host, official, project):
    host.answers["/tiny.gz"] = [{"body": CONTENT}]
    assert fetch.read(official) == CONTENT
    assert fetch.read(official) == CONTENT
    assert host.asked == ["/tiny.gz"]
    assert files_in(project / ".trainyard") == [project / ".trainyard" / "archives" / PATH]


def test_a_host_that_calls_gz_files_gzip_encoded_changes_nothing(host, official):
    host.answers["/tiny.gz"] = [{"body": CONTENT, "headers": {"Content-Encoding": "gzip"}}]
    assert fetch.read(official) == CONTENT


@pytest.mark.parametrize(
    "first",
    [
        {"status": 503},
        {"body": CONTENT[:999], "length": len(CONTENT)},
        {"body": CONTENT[:999], "length": None},
    ],
    ids=["busy", "cut short", "cut short, of unknown length"],
)
def test_what_may_pass_is_tried_again(host, official, capsys, first):
    host.answers["/tiny.gz"] = [first, {"body": CONTENT}]
    assert fetch.read(official) == CONTENT
    assert len(host.asked) == 2
    assert "attempt 2 of 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "attempts", "said"),
    [
        ({"status": 503}, 4, "503"),
        ({"body": CONTENT[:999], "length": len(CONTENT)}, 4, "broke off"),
        ({"status": 404}, 1, "404 Not Found"),
        ({"body": PAGE}, 1, "HTML page"),
        ({"body": CONTENT[::-1]}, 1, hashlib.sha256(CONTENT[::-1]).hexdigest()),
        ({"body": CONTENT[:999]}, 1, hashlib.sha256(CONTENT[:999]).hexdigest()),
        ({"body": CONTENT + b"more"}, 1, "more than"),
    ],
    ids=["always busy", "always cut short", "not there", "a page", "swapped", "another, shorter", "too long"],
)
def test_what_is_no_archive_is_refused_and_leaves_nothing(host, official, project, answer, attempts, said):
    host.answers["/tiny.gz"] = [answer]
    with pytest.raises(InputError, match=said):
        fetch.read(official)
    assert len(host.asked) == attempts
    assert not files_in(project / ".trainyard")


def test_a_redirect_to_plain_http_is_refused(host, official):
    with Host() as plain:
        plain.answers["/tiny.gz"] = [{"body": CONTENT}]
        location = f"{serve(plain, 'http')}/tiny.gz"
        host.answers["/tiny.gz"] = [{"status": 302, "headers": {"Location": location}}]
        with pytest.raises(InputError, match="not https"):
            fetch.read(official)
        assert not plain.asked
        plain.shutdown()


def test_an_unknown_certificate_is_refused_at_once(host, official, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(InputError, match="certificate"):
        fetch.read(official)
    assert not host.asked


@pytest.mark.parametrize("where", ["header", "body"])
def test_a_host_that_sends_a_byte_now_and_then_is_given_up(host, project, monkeypatch, where):
    content = bytes(1 << 20)
    host.answers["/tiny.gz"] = [{"drip": where, "length": len(content)}]
    monkeypatch.setattr(fetch, "LEAST_TIME", 3.0)  # enough for a handshake
    monkeypatch.setattr(fetch, "SLOWEST", 1 << 20)
    with pytest.raises(
        UnavailableError, match=r"127\.0\.0\.1 is too slow: .* of 1,048,576 bytes, .* after . s; .*set TRAI"
    ):
        fetch.read(archive(f"{host.url}/tiny.gz", content))
    assert len(host.asked) == 1
    assert not files_in(project / ".trainyard")
    if where == "body":  # whose open response is hung up
        assert soon(lambda: not [thread for thread in threading.enumerate() if thread.name == "fetch"])


def test_the_time_for_a_file_grows_with_it():
    small, large = (fetch.Archive("x", count, "") for count in (1, 10**9))
    assert fetch.time_limit(small) == 300
    assert fetch.time_limit(large) == 50_000


def test_the_time_is_for_all_attempts_together(host, official, monkeypatch):
    host.answers["/tiny.gz"] = [{"status": 503}]
    monkeypatch.setattr(fetch, "ATTEMPTS", 1_000_000)
    monkeypatch.setattr(fetch, "LEAST_TIME", 0.5)
    with pytest.raises(UnavailableError, match="too slow"):
        fetch.read(official)


def test_what_a_host_says_moves_no_cursor_and_begins_no_line(host, official, capsys):
    host.answers["/tiny.gz"] = [{"status": 503, "said": "Busy\x1b]0;pwned\x07\x1b[2K"}]
    with pytest.raises(UnavailableError) as refused:
        fetch.read(official)
    said = str(refused.value) + capsys.readouterr().err
    assert "503 Busy\\x1b]0;pwned\\x07\\x1b[2K" in said
    assert said.replace("\n", "").isprintable()


def test_without_a_network_the_message_says_what_to_set(nowhere):
    with pytest.raises(InputError, match=r"cannot be reached .*refused.*set TRAINYARD_MIRROR to a folder"):
        fetch.read(archive(f"{nowhere}/tiny.gz"))


def test_a_damaged_file_in_the_cache_is_fetched_again(host, official, project, capsys):
    host.answers["/tiny.gz"] = [{"body": CONTENT}]
    fetch.read(official)
    fetch.cache_file(official).write_bytes(CONTENT[:-1] + b"!")
    assert fetch.read(official) == CONTENT
    assert "damaged" in capsys.readouterr().err


def put(folder, content):
    (folder / PATH).parent.mkdir(parents=True, exist_ok=True)
    (folder / PATH).write_bytes(content)


@pytest.mark.parametrize("name", ["mirror", "../mirror"])
def test_a_mirror_folder_is_read_where_it_lies(project, monkeypatch, name):
    put(project / name, CONTENT)
    monkeypatch.setenv("TRAINYARD_MIRROR", name)
    (project / "sources" / "below").mkdir()
    monkeypatch.chdir(project / "sources" / "below")
    assert fetch.read(archive()) == CONTENT
    assert not files_in(project / ".trainyard")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CONTENT[::-1], hashlib.sha256(CONTENT[::-1]).hexdigest()),
        (CONTENT[:-1], hashlib.sha256(CONTENT[:-1]).hexdigest()),
        (CONTENT * 2, hashlib.sha256(CONTENT * 2).hexdigest()),
        (PAGE, "HTML page"),
    ],
    ids=["swapped", "truncated", "too long", "a page"],
)
@pytest.mark.parametrize("take", [fetch.read, fetch.stream])
def test_another_file_in_the_mirror_is_named_and_not_passed_over(
    host, official, project, monkeypatch, content, said, take
):
    put(project / "mirror", content)
    monkeypatch.setenv("TRAINYARD_MIRROR", str(project / "mirror"))
    with pytest.raises(InputError, match=said) as refused:
        take(official)
    assert "tiny.gz" in str(refused.value)
    assert not host.asked


def test_a_large_file_is_read_from_its_beginning(project, monkeypatch):
    put(project / "mirror", CONTENT)
    monkeypatch.setenv("TRAINYARD_MIRROR", "mirror")
    with fetch.stream(archive()) as stream:
        assert stream.read() == CONTENT


@pytest.mark.parametrize("take", [fetch.read_verified, fetch.open_verified])
def test_a_file_that_cannot_be_read_is_named(project, take):
    with pytest.raises(InputError, match=r"gone cannot be read: No such file"):
        take(project / "gone", archive())


@pytest.mark.parametrize("take", [fetch.read_verified, fetch.open_verified])
def test_what_is_no_plain_file_is_not_waited_for_and_a_hole_is_not_hashed(project, take):
    os.mkfifo(project / "pipe")
    with pytest.raises(InputError, match="pipe is a named pipe, and no plain file"):
        take(project / "pipe", archive())
    (project / "sparse").touch()
    os.truncate(project / "sparse", 1 << 40)
    with pytest.raises(InputError, match=r"sparse has 1,099,511,627,776 bytes, and .* as it was published 10,240"):
        take(project / "sparse", archive())


def test_a_mirror_folder_that_is_not_there_is_named(official, monkeypatch):
    monkeypatch.setenv("TRAINYARD_MIRROR", "no/such/folder")
    with pytest.raises(InputError, match="no/such/folder"):
        fetch.read(official)


def test_what_a_mirror_lacks_comes_from_the_official_host_and_says_so(host, official, project, monkeypatch, capsys):
    host.answers["/tiny.gz"] = [{"body": CONTENT}]
    (project / "mirror").mkdir()
    for mirror in (str(project / "mirror"), f"{host.url}/mirror"):
        monkeypatch.setenv("TRAINYARD_MIRROR", mirror)
        assert fetch.read(official) == CONTENT
        assert "taking it from 127.0.0.1" in capsys.readouterr().err
        fetch.cache_file(official).unlink()


def test_a_file_without_an_address_of_its_own_may_be_absent(project, monkeypatch):
    with pytest.raises(fetch.Absent):
        fetch.read(archive())
    (project / "mirror").mkdir()
    monkeypatch.setenv("TRAINYARD_MIRROR", "mirror")
    with pytest.raises(fetch.Absent):
        fetch.read(archive())


def test_a_mirror_may_be_an_https_address(host, monkeypatch):
    host.answers[f"/data/{PATH}"] = [{"body": CONTENT}]
    monkeypatch.setenv("TRAINYARD_MIRROR", f"{host.url}/data/")
    assert fetch.read(archive()) == CONTENT


@pytest.mark.parametrize("mirror", ["http://127.0.0.1/data", "ftp://a.b/c"])
def test_a_mirror_without_encryption_is_named(host, official, monkeypatch, mirror):
    monkeypatch.setenv("TRAINYARD_MIRROR", mirror)
    with pytest.raises(InputError, match="https"):
        fetch.read(official)
    assert not host.asked


def test_a_mirror_that_does_not_answer_is_named(host, official, monkeypatch, nowhere):
    monkeypatch.setenv("TRAINYARD_MIRROR", nowhere)
    with pytest.raises(InputError, match="does not answer"):
        fetch.read(official)
    assert not host.asked
