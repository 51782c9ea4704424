"""Nothing secret is shown, logged, noted or passed on: every command, with secrets in all that it is told."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from conftest import LIMIT, ROOT, dvc, dvc_init, edit, environment, make_project, shrink, soon

from flows.cli import COMMANDS
from flows.data import fetch
from flows.project.errors import InputError
from flows.untrusted import masking

NOBODY = "127.0.0.1:9"  # a port at which nothing listens


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://host/x", "https://host/x"),
        ("https://me:hunter2@host/x", "https://***@host/x"),
        ("http://TOKEN@host:80", "http://***@host:80"),
        ("https://TOKEN:@host", "https://***@host"),
        ("https://TOKEN:x-oauth-basic@host", "https://***@host"),
        ("https://me:p%40ss@host/", "https://***@host/"),
        ("https://me:p@ss@host/", "https://***@host/"),
        ("https://me:p/ss@host/", "https://***@host/"),
        ("https://me:p#ss@host/", "https://***@host/"),
        ("https://me:p?ss@host/", "https://***@host/"),
        ("https://me:p:ss@[::1]:80/", "https://***@[::1]:80/"),
        ("HTTP+custom://me:pass@host", "HTTP+custom://***@host"),
        ("postgresql+psycopg2://me:hunter2@host:5432/db", "postgresql+psycopg2://me:***@host:5432/db"),
        ("postgresql://me@host/db?password=hunter2&sslmode=require", "postgresql://***@host/db?password=***&sslmode=require"),
        ("sqlite:////a%20b/mlflow.db?timeout=60", "sqlite:////a%20b/mlflow.db?timeout=60"),
        ("https://host/x?token=abc;key=d&empty=", "https://host/x?token=***;key=***&empty="),
        ("https://host/x?SIGNATURE", "https://host/x?***"),
        ("https://host/x#access_token=abc", "https://host/x#access_token=***"),
        ("https://host/x#KEY", "https://host/x#***"),
        ("http://h:1/#/experiments/1/runs?workflowType=a&x=1", "http://h:1/#/experiments/1/runs?workflowType=a&x=***"),
        ("me:hunter2@host/x", "***@host/x"),
        ("https:/me:hunter2@host/x", "***@host/x"),
        ("/data/me:hunter2@x", "/data/me:hunter2@x"),
        ("../data", "../data"),
        ("s3://bucket/a", "s3://bucket/a"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_what_is_secret(given, shown):
    assert masking.address(given) == shown


@pytest.mark.parametrize(
    "said",
    [
        "HTTPSConnectionPool(host='h', port=9): Max retries exceeded with url: /x?token={} (Caused by ...)",
        "Unsupported URI 'foo://me:{}@h/x' for model registry store. Supported schemes are: []",
        "(psycopg2.OperationalError) at postgresql://me:{}@h:5/db, port 5 failed",
        "https://h/x?a={}, https://{}@h and (http://me:{}@h)",
    ],
)
def test_text_that_quotes_an_address_nobody_knows(said):
    assert "hunter2" in said.format(*["hunter2"] * 3)
    assert "hunter2" not in masking.text(said.format(*["hunter2"] * 3))


def test_text_that_quotes_a_part_of_what_the_environment_holds(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "me:pr0xy-pass@proxy:3128")
    monkeypatch.setenv("TRAINYARD_MIRROR", "https://me:odd pass'word@host/x?key=abc%2Bdefgh")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "/wJalrXUtnFEMI")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "someone:pre-fect")
    for said in (
        "it is https://me:odd pass'word@host/x?key=abc%2Bdefgh, but", "odd pass'word", "odd%20pass%27word",
        "abc+defgh", "abc%2Bdefgh", "pr0xy-pass", "the key /wJalrXUtnFEMI is unknown", "someone:pre-fect", "pre-fect",
    ):  # fmt: skip
        shown = masking.text(said)
        for secret in ("pass", "abc", "defgh", "wJal", "pre-fect"):
            assert secret not in shown, said


def test_other_text_stays_as_it_is(monkeypatch):
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "trainyard:cat")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("CREDENTIALS_FILE", "/a/file")
    for said in (
        "a cat? dogs=2 & a false /a/file of trainyard@host", "https://host/x: 404 Not Found", "models:/digits@champion",
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=ab",
    ):  # fmt: skip
        assert masking.text(said) == said


def test_a_provenance_names_no_secret():
    from flows.data.published import origin

    archive = fetch.Archive("a", 1, "0", "https://me:hunter2@host/a?sig=hunter2")
    assert origin(archive, archive)["from"] == "https://***@host/a?sig=***"


@pytest.mark.parametrize(
    "uri", ["foo://me:hunter2@h/x", "postgresql://me:hunter2@h:port/x", f"mysql://h2:hunter2@{NOBODY}/x"]
)
def test_a_store_that_cannot_be(project, monkeypatch, uri):
    from flows.tracking.registry import Registry

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError) as refused:
        Registry("digits").describe()
    assert "hunter2" not in str(refused.value)
    assert "***" in str(refused.value)


# --- Every command -------------------------------------------------------------------------------------------------

# What a command is told beside its name. Where None, it is not called here: what it starts is looked at elsewhere.
ARGUMENTS = {
    "race": ["--surface", "beale", "--steps", "5"],
    "train": ["small"],
    "predict": ["sources/folder"],
    "drift": ["sources/folder"],
    "worker": [f"tcp://{NOBODY}"],
}  # fmt: skip
SECRETS = {
    name: f"{name}-s3cr+t/{index}"
    for index, name in enumerate(["mirror", "sig", "track", "trackq", "registry", "prefect", "proxy", "remote", "word"])
}
CODED = {name: quote(secret, safe="") for name, secret in SECRETS.items()}


def variables() -> dict[str, str]:
    """Secrets in all that a command may be told, and servers that do not answer."""
    proxy = f"http://me:{CODED['proxy']}@{NOBODY}"
    return {
        "TRAINYARD_MIRROR": f"https://me:{CODED['mirror']}@{NOBODY}/data?sig={CODED['sig']}",
        "MLFLOW_TRACKING_URI": f"http://{CODED['track']}@{NOBODY}/?password={CODED['trackq']}",
        "MLFLOW_REGISTRY_URI": f"http://me:{CODED['registry']}@{NOBODY}",
        "MLFLOW_TRACKING_USERNAME": "somebody",
        "MLFLOW_TRACKING_PASSWORD": SECRETS["word"],
        "PREFECT_API_URL": f"http://me:{CODED['prefect']}@{NOBODY}/api",
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        "HTTP_PROXY": proxy,
    }


def leaked(text: str) -> list[str]:
    """The secrets that are in it, in whichever form."""
    return [name for name, secret in SECRETS.items() if secret in text or CODED[name] in text]


@pytest.fixture(scope="module")
def told(finished_once, tmp_path_factory) -> Path:
    """A project in which all stages have run, with a remote of DVC's behind a password."""
    folder = tmp_path_factory.mktemp("told") / "a project"
    shutil.copytree(finished_once, folder)
    shutil.copy(ROOT / "prefect.yaml", folder)
    dvc_init(folder)
    dvc(folder, "remote", "add", "-q", "--local", "--default", "far", f"https://me:{CODED['remote']}@{NOBODY}/x")
    subprocess.run([sys.executable, "-m", "flows.check"], cwd=folder, env=environment(), check=True)
    return folder


def watch(process: subprocess.Popen, seen: set[str]) -> None:
    """Notes the command lines of a process and of all that it starts, until it ends."""
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            seen.update(" ".join(one.cmdline()) for one in family)
        except psutil.Error:
            pass
        time.sleep(0.02)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_keeps_secrets(told, name):
    arguments = ARGUMENTS.get(name, [])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if name == "serve-postgres":
            arguments = ["--prefect-port", str(taken.getsockname()[1])]
        process = subprocess.Popen(
            [sys.executable, "-m", COMMANDS[name][0], *arguments], cwd=told, env=environment(**variables()),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        seen: set[str] = set()
        watcher = threading.Thread(target=watch, args=(process, seen))
        watcher.start()
        if name == "serve":  # it waits for the servers that it was told of
            lock = told / ".trainyard" / "serve" / "lock"
            assert soon(lambda: lock.exists() or process.poll() is not None)
            time.sleep(2)  # seconds in which it asks for them
            process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=LIMIT)
        watcher.join()
    assert leaked(said) == [], said
    assert seen
    assert leaked("\n".join(seen)) == []
    assert "Traceback" not in said, said
    assert dict(holders(told)) == {}


def holders(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The files that others than their owner can read, and the secrets in them."""
    closed: dict[Path, bool] = {folder: False}
    for place, _, files in os.walk(folder):
        here = Path(place)
        closed[here] = closed.get(here.parent, False) or not here.stat().st_mode & 0o077
        for name in files:
            file = here / name
            if file.is_symlink() or closed[here] or not file.stat().st_mode & 0o077:
                continue
            if found := leaked(file.read_bytes().decode("latin-1")):
                yield file.relative_to(folder).as_posix(), found


def test_secrets_would_be_found(told, tmp_path):
    (tmp_path / "notes").mkdir()
    note = tmp_path / "notes" / "note"
    note.write_text(f"it is {CODED['mirror']}")
    assert dict(holders(tmp_path / "notes")) == {"note": ["mirror"]}
    note.chmod(0o600)
    assert dict(holders(tmp_path / "notes")) == {}
    assert leaked(f"mysql://me:{SECRETS['word']}@x") == ["word"]


def test_what_no_command_foresaw_is_told_without_secrets(project):
    code = """
import click, os, sys
from flows.machine.console import run

@click.command()
def command():
    print(os.environ["TRAINYARD_MIRROR"])
    os.write(2, b"")
    raise RuntimeError(f"{os.environ['TRAINYARD_MIRROR']} is odd, and so is http://other:hunter2@host")

run(command)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(**variables()), capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert leaked(done.stdout + done.stderr) == []
    assert "hunter2" not in done.stderr
    assert done.stdout.startswith("https://me:***@127.0.0.1:9/data?sig=***")


@pytest.mark.long
def test_a_pipeline_keeps_secrets_out_of_its_stores(tmp_path):
    """The one run of it has MLflow's store in the project and a temporary server of Prefect's: both note what ran."""
    folder = make_project(tmp_path / "a project")
    edit(folder, shrink)
    shutil.copy(ROOT / ".dvcignore", folder)
    for name in ("flows", "lightning_modules"):
        (folder / name).symlink_to(ROOT / name)
    dvc_init(folder)
    given = {name: value for name, value in variables().items() if not name.startswith(("MLFLOW", "PREFECT"))}
    done = subprocess.run(
        [sys.executable, "-m", "flows.pipeline"], cwd=folder, text=True, timeout=LIMIT,
        env=environment(**given, AWS_SECRET_ACCESS_KEY=SECRETS["word"]),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert leaked(done.stdout) == []
    assert {"mlflow.db", "mlartifacts", ".trainyard"} <= {entry.name for entry in folder.iterdir()}
    assert (folder / ".trainyard" / "prefect" / "prefect.db").is_file()
    for file in folder.rglob("*"):  # but for what is behind links
        if file.is_file():
            assert leaked(file.read_bytes().decode("latin-1")) == [], file
