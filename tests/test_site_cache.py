"""DVC unpickles nothing that another user of the machine has put there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMIT, ROOT, dvc_init, environment, made_once, make_project

from flows.graph import dvc_command, dvc_graph, site_cache, working_copy
from flows.graph.repro import Repro
from flows.machine.processes import Processes
from flows.project.errors import InputError

OTHER = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--")
STAGES = """
stages:
  check:
    cmd: cp params.yaml out
    deps: [params.yaml]
    outs: [out]
"""

# What another user does, with the folder of a repository in DVC's site cache: notes of files whose names are pickles
# that run code.
PLANT = """
import os, pickle, sys
from diskcache import Cache

folder, witness = sys.argv[1:]

class Bomb:
    def __reduce__(self):
        return exec, (f"open({witness!r}, 'a').write('ran')",)

os.umask(0)
os.makedirs(folder)
for name in ("links", "hashes/local"):
    with Cache(os.path.join(folder, name)) as cache:
        cache["a"] = "a"
        cache._sql("UPDATE Cache SET key = ?, raw = 0", (pickle.dumps(Bomb()),))
"""


def run(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess:
    """With DVC's own settings, and those alone that a test gives."""
    surroundings = environment(**env)
    if site_cache.VARIABLE not in env:
        surroundings.pop(site_cache.VARIABLE, None)
    return subprocess.run(
        command, cwd=folder, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=LIMIT,
    )  # fmt: skip


def dvc(folder: Path, *arguments: str, **env: str) -> str:
    done = run(folder, sys.executable, "-m", "dvc", *arguments, **env)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def repository_once(tmp_path_factory) -> Path:
    """A project with stages that take no time, after a run of them by a DVC that nobody has told anything."""

    def make(place: Path) -> None:
        folder = make_project(place / "a project")
        (folder / "dvc.yaml").write_text(STAGES)
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copy(ROOT / ".dvcignore", folder)
        dvc_init(folder)
        dvc(folder, "repro", "--quiet", DVC_SITE_CACHE_DIR=str(place / "before"))

    return made_once(tmp_path_factory, "repository", make) / "a project"


@pytest.fixture
def repository(repository_once, tmp_path, monkeypatch) -> Path:
    """Its copy, to change, and the working folder."""
    for name in (site_cache.VARIABLE, "TRAINYARD_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    folder = shutil.copytree(repository_once, tmp_path / "a project")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def witness(repository, tmp_path):
    """A file that is made by whoever unpickles what another user has put into /var/tmp/dvc for this repository."""
    if os.geteuid():
        pytest.skip("only root can be another user")
    if subprocess.run([*OTHER, sys.executable, "-c", "import diskcache"], capture_output=True, cwd="/").returncode:
        pytest.skip("the other user cannot read this Python")
    ask = "from dvc.repo import Repo; print(Repo().site_cache_dir)"
    place = run(repository, sys.executable, "-c", ask).stdout.strip()
    assert Path(place).is_relative_to(site_cache.DVCS_DEFAULT)
    shutil.rmtree(place)
    witness = tmp_path / "witness"
    subprocess.run([*OTHER, sys.executable, "-c", PLANT, place, os.fspath(witness)], check=True, cwd="/")
    yield witness
    shutil.rmtree(place)


def test_the_attack_works_where_nothing_is_done_against_it(repository, witness):
    run(repository, sys.executable, "-m", "dvc", "checkout")
    assert witness.exists()


MAKE = ["make", "--old-file=setup", "--silent"]
PYTHON = [sys.executable, "-m"]


@pytest.mark.parametrize(
    "commands",
    [
        [[*PYTHON, "flows.check"], [*PYTHON, "dvc", "checkout"], [*PYTHON, "dvc", "status"], [*PYTHON, "dvc", "repro"]],
        [[*MAKE, "repro"]],
        [[*MAKE, "status"]],
        [[*PYTHON, "flows.pipeline", "--dry"]],
    ],
    ids=lambda commands: " ".join(commands[0][-2:]),
)
def test_what_another_user_planted_does_not_run(repository, witness, commands):
    for command in commands:
        run(repository, *command)
    assert not witness.exists()
    # And that is not because DVC was never called.
    assert any((repository / site_cache.NAME / "repo").iterdir())


def test_nor_by_code_that_calls_dvc(repository, witness):
    dvc_graph.stages(repository)
    dvc_graph.stale(repository)
    with Processes() as processes:
        Repro(repository, processes, lambda stage, line: None, force=True)("check", lambda line: None)
        dvc_command.transfer(repository, processes, "checkout")
    dvc_command.ask(repository, "status")
    assert not witness.exists()


def test_the_folder_is_closed_and_named_in_full(repository):
    local = repository / ".dvc" / "config.local"
    local.write_text("[cache]\n    type = copy  # as I like it\n")
    site_cache.keep_private(repository)
    assert str(site_cache.own(repository)) == dvc(repository, "config", "core.site_cache_dir").strip()
    assert dvc(repository, "config", "cache.type").strip() == "copy"
    assert "as I like it" in local.read_text()
    dvc(repository, "status")
    # DVC has made a folder there that is open to all.
    assert (repository / site_cache.NAME).stat().st_mode & 0o777 == 0o700
    assert local.stat().st_mode & 0o777 == 0o600
    assert site_cache.problem(repository) is None


@pytest.mark.parametrize("name", ["plain", "with, comma # and 'quote'", "ünï 100%"])
def test_a_project_that_moves_takes_it_along(repository, name):
    site_cache.keep_private(repository)
    moved = repository.rename(repository.with_name(name))
    os.chdir(moved)
    site_cache.keep_private(moved)
    assert Path(dvc(moved, "config", "core.site_cache_dir").strip()) == moved / site_cache.NAME
    dvc(moved, "status")
    assert not repository.exists()
    before = (moved / ".dvc" / "config.local").stat()
    site_cache.keep_private(moved)
    assert (moved / ".dvc" / "config.local").stat() == before


@pytest.mark.parametrize("open_to_all", ["mode", "link", "file"])
def test_one_that_others_could_enter_is_made_anew(repository, tmp_path, open_to_all):
    folder = repository / site_cache.NAME
    if open_to_all == "mode":
        folder.mkdir()
        folder.chmod(0o777)
        (folder / "planted").write_text("")
    elif open_to_all == "link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "planted").write_text("")
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.write_text("")
    site_cache.keep_private(repository)
    assert not folder.is_symlink()
    assert [file.name for file in folder.iterdir()] == [".gitignore"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert open_to_all != "link" or (tmp_path / "elsewhere" / "planted").exists()


def test_what_the_user_has_chosen_wins_and_is_warned_of(repository, tmp_path, monkeypatch):
    from flows.commands import status

    chosen = tmp_path / "chosen"
    chosen.mkdir(mode=0o700)
    dvc(repository, "config", "core.site_cache_dir", str(chosen))
    site_cache.keep_private(repository)
    assert not (repository / ".dvc" / "config.local").exists()
    assert site_cache.problem(repository) is None
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:  # of pytest, which are closed to all
        assert folder.stat().st_uid in (0, os.geteuid())
    assert site_cache.problem(repository) is None

    monkeypatch.setenv(site_cache.VARIABLE, "somewhere")
    assert "wherever DVC is called" in site_cache.problem(repository)
    monkeypatch.setenv(site_cache.VARIABLE, "/")
    assert "open to other users" in site_cache.problem(repository)
    assert status.status(repository)["site_cache"] == site_cache.problem(repository)
    monkeypatch.delenv(site_cache.VARIABLE)
    if not os.geteuid():
        os.chown(chosen, 65534, 65534)
        assert "another user" in site_cache.problem(repository)


def test_a_project_without_one_that_is_made_private_says_so(repository, monkeypatch):
    monkeypatch.setattr(site_cache, "is_private", lambda folder: False)  # as on a disk without modes
    with pytest.raises(InputError, match="lets all users in"):
        site_cache.keep_private(repository)


def test_copies_share_it_and_keep_what_is_secret(repository):
    local = repository / ".dvc" / "config.local"
    dvc(repository, "remote", "add", "--local", "near", "https://me:hunter22@example.org/x")
    local.chmod(0o644)
    copy = working_copy.make(repository, "digits-fresh", {"seed": 5})
    assert local.stat().st_mode & 0o777 == 0o600
    config = copy / ".dvc" / "config"
    assert "hunter22" in config.read_text()
    assert config.stat().st_mode & 0o777 == 0o600
    assert working_copy.is_current(repository, "digits-fresh", {"seed": 5})
    config.chmod(0o644)  # as an earlier version made it
    assert not working_copy.is_current(repository, "digits-fresh", {"seed": 5})
    working_copy.make(repository, "digits-fresh", {"seed": 5})
    assert config.stat().st_mode & 0o777 == 0o600
    site_cache.keep_private(copy)
    assert site_cache.configured(copy) == str(site_cache.own(repository))
    assert not (copy / ".dvc" / "config.local").exists()


def test_a_queued_experiment_has_what_is_secret_for_itself(repository):
    """DVC copies config.local into the copy that it runs a queued experiment in: in a folder that is closed."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (repository / ".gitignore").write_text("/out\n")
    (repository / "dvc.yaml").write_text(
        STAGES.replace("cp params.yaml out", f"cp params.yaml out && {look(repository)}")
    )
    (repository / ".dvc" / "config").write_text("")
    run(repository, "git", "init", "--quiet")
    site_cache.keep_private(repository)
    dvc(repository, "remote", "add", "--local", "near", "https://me:hunter22@example.org/x")
    run(repository, *git, "add", ".")
    run(repository, *git, "commit", "--quiet", "-m", "a project")
    me = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org", "GIT_COMMITTER_NAME": "t",
          "GIT_COMMITTER_EMAIL": "t@example.org"}  # fmt: skip
    dvc(repository, "exp", "run", "--temp", "-S", "seed=9", **me)
    said = (repository.parent / "seen").read_text().splitlines()
    assert said == ["700", str(site_cache.own(repository))]


def look(repository: Path) -> str:
    """A command that notes, beside the project, who may enter the copy that it runs in, and its DVC's site cache."""
    return f"(stat -c %a .; python -m dvc config core.site_cache_dir) > {repository.parent}/seen"
