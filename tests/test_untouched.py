"""DVC is asked what is stale once, and again as soon as anything was touched that it might answer otherwise for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import make_dvc_project

from flows import graph, untouched

STAGES = """
stages:
  first:
    cmd: mkdir -p made/deep && cp given made/deep/copy
    deps: [given]
    params: [seed]
    outs: [made]
  empty:
    cmd: mkdir -p empty
    outs: [empty]
"""


@pytest.fixture(autouse=True)
def configuration(tmp_path, monkeypatch) -> Path:
    """DVC's configuration of a user who has none yet."""
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "configuration"))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "system"))
    (tmp_path / "configuration").mkdir()
    return tmp_path / "configuration" / "config"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return make_dvc_project(tmp_path_factory.mktemp("finished") / "toy", STAGES, given="1")


@pytest.fixture
def toy(finished, tmp_path) -> Path:
    """A project of which DVC says that nothing is stale, and has not been asked yet."""
    # Not as links: what a test writes to its copy's cache is its own.
    return shutil.copytree(finished, tmp_path / "a project")


@pytest.fixture
def asked(monkeypatch) -> list:
    """Grows by one whenever DVC is asked."""
    calls = []
    run = subprocess.run

    def counted(*arguments, **options):
        calls.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(graph.subprocess, "run", counted)
    return calls


def remembered(toy: Path) -> bool:
    """Whether it would be, once DVC has said that nothing is stale."""
    untouched.remember(toy, untouched.look(toy))
    return untouched.since_nothing_was_stale(toy)


def write(file: Path, content: str = "x") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def test_dvc_is_asked_once_and_about_what_is_stale_each_time(toy, asked):
    for _ in range(3):
        assert graph.stale(toy) == {}
    assert len(asked) == 1
    (toy / "given").write_text("22")
    for _ in range(2):
        assert graph.stale(toy) == {"first": ["given: modified"]}
    assert len(asked) == 3


def rewrite(file: Path) -> None:
    """Other content of the same size and with the same time: DVC does not see that itself."""
    about = file.stat()
    file.write_text("2" * about.st_size)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


def cached(toy: Path) -> list[Path]:
    return [file for file in (toy / ".dvc" / "cache").rglob("*") if file.is_file()]


def damage(file: Path) -> None:
    file.chmod(0o644)
    file.write_text("damaged")


@pytest.mark.parametrize(
    "change",
    [
        lambda toy: rewrite(toy / "given"),
        lambda toy: (toy / "made" / "new").touch(),
        lambda toy: (toy / "made" / "deep" / "copy").unlink(),
        lambda toy: (toy / "made" / "another").mkdir(),
        lambda toy: (toy / "empty").rmdir(),
        lambda toy: (toy / "params.yaml").write_text("seed: 1\n"),
        lambda toy: (toy / "dvc.yaml").write_text(STAGES.replace("-p", "-vp")),
        lambda toy: (toy / "dvc.lock").unlink(),
        lambda toy: [file.unlink() for file in cached(toy)],
        lambda toy: [damage(file) for file in cached(toy)],
        lambda toy: write(toy / "study" / "dvc.yaml", STAGES),
        lambda toy: write(toy / "study" / "mlflow.db"),
        lambda toy: write(toy / "study" / ".git" / "x"),
        lambda toy: write(toy / ".dvc" / "config.local", "[core]\n"),
        lambda toy: write(toy / ".git" / "info" / "exclude"),
        lambda toy: write(toy.parent / ".gitignore"),
        lambda toy: write(toy.parent / "configuration" / "config", "[core]\n"),
        lambda toy: write(toy.parent / "system" / "config", "[core]\n"),
        lambda toy: os.environ.update(DVC_SITE_CACHE_DIR="elsewhere"),
    ],
)
def test_a_touch_is_seen(toy, change, monkeypatch):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", "somewhere")
    assert remembered(toy)
    change(toy)
    assert not untouched.since_nothing_was_stale(toy)


def test_a_touch_while_dvc_is_asked_is_seen(toy, monkeypatch):
    def answer_and_touch(command, **options):
        (toy / "given").write_text("22")
        return subprocess.CompletedProcess(command, 0, stdout="{}")

    monkeypatch.setattr(graph.subprocess, "run", answer_and_touch)
    assert graph.stale(toy) == {}
    assert untouched.note(toy).exists()
    assert not untouched.since_nothing_was_stale(toy)


def test_what_dvc_and_others_note_for_themselves_is_no_touch(toy):
    places = [".dvc/tmp/rwlock", ".git/index", ".trainyard/unfinished/x", ".venv/x", "flows/__pycache__/a.pyc"]
    places += ["mlflow.db", "mlflow.db.lock", "mlflow.db-journal", "mlartifacts/x"]
    (toy / "flows").mkdir()
    assert remembered(toy)
    for place in places:
        write(toy / place)
        assert untouched.since_nothing_was_stale(toy), place


@pytest.mark.parametrize("lines", ["", "# made/\n", "ma*/\n", "other/made/\n", "made/x\n"])
def test_only_what_dvcignore_lists_is_left_out(toy, lines):
    (toy / ".dvcignore").write_text(lines)
    assert remembered(toy)
    write(toy / "made" / "new")
    assert not untouched.since_nothing_was_stale(toy)


@pytest.mark.parametrize(("line", "places"), [("notes/", ["notes/x", "a/notes/x"]), ("/notes/", ["notes/x"])])
def test_a_folder_is_ignored_at_the_root_or_anywhere(toy, line, places):
    (toy / ".dvcignore").write_text(f"{line}\n.dvc/\ncache/\n")
    (toy / "a").mkdir()
    assert remembered(toy)
    for place in places:
        write(toy / place)
        assert untouched.since_nothing_was_stale(toy)
    write(toy / "a" / "notes" / "y")
    assert untouched.since_nothing_was_stale(toy) == (len(places) == 2)
    remembered(toy)
    cached(toy)[0].unlink()
    assert not untouched.since_nothing_was_stale(toy)


def test_a_name_that_is_ignored_no_longer_is_not_left_out(toy):
    write(toy / "made" / ".dvcignore", "!__pycache__/\n")
    assert not remembered(toy)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"0" * 64])
def test_a_damaged_note_is_none(toy, content):
    assert remembered(toy)
    untouched.note(toy).write_bytes(content)
    assert not untouched.since_nothing_was_stale(toy)
    assert remembered(toy)
    assert os.listdir(toy / ".trainyard") == ["nothing-stale"]


@pytest.mark.parametrize("place", [".dvc/config", ".dvc/config.local", ".dvcignore", "data.dvc", "dvc.lock"])
def test_a_file_in_another_encoding_makes_no_trouble(toy, place):
    (toy / place).write_bytes(b"# \xff\xfe\n")
    assert remembered(toy) == place.startswith(".dvc/")


def test_a_file_that_cannot_be_looked_at_makes_no_trouble(toy):
    (toy / "nowhere").symlink_to(toy / "gone")
    assert not remembered(toy)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dvc.yaml", "{stages: {first: {cmd: x, deps: [../far]}}}"),
        ("dvc.yaml", "{stages: {first: {cmd: x, deps: [sub/../../far]}}}"),
        ("dvc.yaml", "{stages: {first: {cmd: x, deps: ['~/far']}}}"),
        ("dvc.yaml", "{stages: {first: {cmd: x, outs: [/far: {cache: false}]}}}"),
        ("dvc.yaml", "{stages: {first: {cmd: x, params: [../far.yaml: [seed]]}}}"),
        ("dvc.yaml", "{stages: {first: {cmd: x, wdir: '${folder}'}}}"),
        ("dvc.yaml", "{vars: [../far.yaml]}"),
        ("dvc.yaml", "{vars: [.trainyard/near.yaml]}"),
        ("dvc.lock", "{stages: {first: {cmd: x, deps: [{path: /far}]}}}"),
        ("dvc.lock", "{stages: {first: {cmd: x, deps: [{path: 'https://host/far'}]}}}"),
        ("dvc.lock", "{stages: {first: {cmd: x, params: {../far.yaml: {seed: 0}}}}}"),
        ("dvc.lock", "{stages: {first: {cmd: x, deps: [{path: mlflow.db}]}}}"),
        ("dvc.lock", "{stages: {first: {cmd: x, deps: [{path: .}]}}}"),
        ("dvc.lock", "{stages: {first: {cmd: x, deps: [{path: .git/HEAD}]}}}"),
        ("dvc.lock", "{stages: {first: {cmd: x, deps: [{path: flows/__pycache__/x}]}}}"),
        ("study/dvc.lock", "{stages: {first: {cmd: x, deps: [{path: .venv/x}]}}}"),
        ("far.dvc", "{outs: [{path: ../far}]}"),
        ("far.dvc", "{outs: [{path: far}], deps: [{path: far, repo: {url: far}}]}"),
        ("dvc.yaml", "{stages: "),
    ],
)
def test_what_a_look_does_not_see_is_asked_about_always(toy, file, content):
    assert remembered(toy)
    write(toy / file, content)
    assert not remembered(toy)


def test_what_stages_name_inside_is_remembered(toy):
    for place in ("dvc.yaml", "study/dvc.yaml"):
        content = "{stages: {first: {cmd: [/far ../x], deps: [sub/far..., mlflow.db.md], params: [a: ['', '.b']]}}}"
        write(toy / place, content)
    assert remembered(toy)


@pytest.mark.parametrize("place", ["data", ".dvc/cache", ".dvc/cache/files", "made/cached"])
def test_behind_a_linked_folder_it_is_asked_always(toy, tmp_path, place):
    if (toy / place).exists():
        (toy / place).rename(tmp_path / "far")
    else:
        (tmp_path / "far").mkdir()
    (toy / place).symlink_to(tmp_path / "far", target_is_directory=True)
    assert not remembered(toy)


def test_with_a_linked_file_in_the_cache_it_is_asked_always(toy, tmp_path):
    file = cached(toy)[0]
    file.rename(tmp_path / "far")
    file.symlink_to(tmp_path / "far")
    assert not remembered(toy)


@pytest.mark.parametrize("section", ["[cache]", "  [ Cache ]", "['cache']"])
def test_with_a_cache_elsewhere_it_is_asked_always(toy, configuration, section):
    for file in (configuration, toy / ".dvc" / "config.local"):
        write(file, f"{section}\n    dir = /far\n")
        assert not remembered(toy)
        file.unlink()
    assert remembered(toy)
    (toy / ".dvc" / "cache").rename(toy / "cache")
    assert not remembered(toy)
