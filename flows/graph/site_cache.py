"""Keeps DVC's site cache in a folder that this user alone can enter: .dvc/site-cache, named in .dvc/config.local.

DVC unpickles what it finds in its site cache. By default that is /var/tmp/dvc, where everybody may write: another user
of the machine could make the next `dvc checkout` run their code (CVE-2025-69872, of the package diskcache, without a
fix). The path has to be absolute: DVC takes a relative one from the current folder. DVC makes the files that it creates
there writable for all, so the folder above them has to be closed.

A folder that the user chose, by DVC_SITE_CACHE_DIR or in DVC's configuration, is left alone; `trainyard status` warns
where others can write to it.
"""

import contextlib
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.project import paths
from flows.project.errors import InputError, sentence
from flows.project.file_io import write_private
from flows.project.private_files import is_private, tighten

VARIABLE = "DVC_SITE_CACHE_DIR"  # wins over every configuration
KEY = "site_cache_dir"
DVCS_DEFAULT = "/var/tmp/dvc"
NAME = Path(".dvc", "site-cache")

# The threads of one process run stages in parallel.
one_at_a_time = threading.Lock()


def own(root: Path) -> Path:
    """The project's site cache. Queued experiments and the working copies of retraining share it."""
    return paths.home_of(root.absolute()) / NAME


def keep_private(root: Path) -> None:
    """Configures DVC to use a private site cache in the working copy `root`, also when a person calls DVC.

    Has to be called before DVC is; takes a fraction of a millisecond where nothing has to change. Corrects the
    configuration of a project that was moved or copied.

    Raises:
        InputError: the folder cannot be made private, or its path cannot be written to the configuration.
    """
    local = root / ".dvc" / "config.local"
    tighten(local)  # DVC keeps passwords of remotes in this file, which it makes readable for all
    if os.environ.get(VARIABLE) or not local.parent.is_dir():
        return
    wanted = own(root)
    with one_at_a_time:
        try:
            if not names_folder(local, wanted):
                chosen = configured(root)
                if chosen and not is_ours(chosen):
                    return
                if chosen != str(wanted):
                    write(local, wanted)
            make_private(wanted)
        except (OSError, UnicodeEncodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"DVC's site cache {wanted} cannot be made private ({reason}): remove it, or set "
                f"{VARIABLE} to a folder that you alone can enter"
            ) from None


def names_folder(local: Path, folder: Path) -> bool:
    """Whether a config.local names the folder. Does without DVC's parser, for speed."""
    try:
        return f"{KEY} = {folder}" in map(str.strip, local.read_text(encoding="utf-8").splitlines())
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def is_ours(place: str) -> bool:
    """Whether a site cache was configured by this module, even before the project was moved."""
    return Path(place).is_absolute() and Path(place).parts[-2:] == NAME.parts


def configured(root: Path) -> str | None:
    """The site cache in DVC's configurations, or None. Order: this copy's, the project's, the user's, the machine's."""
    for file in (root / ".dvc" / "config.local", root / ".dvc" / "config", *reversed(configurations())):
        with contextlib.suppress(InputError):  # DVC itself reports an invalid configuration
            content = parsed(file)
            for section in content.sections:
                for key, value in content[section].items():
                    if section.lower() == "core" and key.lower() == KEY and isinstance(value, str):
                        return value
    return None


def configurations() -> list[Path]:
    """DVC's configuration files of this machine and user. As in dvc/dirs.py, which takes long to import."""
    import platformdirs

    found: dict[str, Callable[[str, str], str]] = {
        "DVC_SYSTEM_CONFIG_DIR": platformdirs.site_config_dir,
        "DVC_GLOBAL_CONFIG_DIR": platformdirs.user_config_dir,
    }
    return [Path(os.environ.get(name) or default("dvc", "iterative"), "config") for name, default in found.items()]


def parsed(file: Path) -> Any:
    """A configuration as DVC's ConfigObj; empty where there is no file. Raises InputError where it is invalid."""
    from configobj import ConfigObj, ConfigObjError

    try:
        return ConfigObj(file.read_text(encoding="utf-8").splitlines() if file.is_file() else [])
    except (ConfigObjError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no configuration that DVC can read: {sentence(error)}") from None


def write(local: Path, folder: Path) -> None:
    """Writes the folder to config.local, and keeps everything else in it."""
    content = parsed(local)
    section = next((name for name in content.sections if name.lower() == "core"), "core")
    core = content.setdefault(section, {})
    for key in [key for key in core if key.lower() == KEY]:
        del core[key]
    core[KEY] = str(folder)
    content.indent_type = "    "
    write_private(local, "\n".join(content.write()))


def make_private(folder: Path) -> None:
    """Makes the folder private. A folder that other users could enter is removed first: it may hold files of theirs.

    Nothing in it is worth more than a little time.
    """
    with contextlib.suppress(FileNotFoundError):
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid in trusted(folder.parent) and is_private(folder):
            return
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(folder)
        else:
            folder.unlink()
    folder.mkdir(mode=0o700, exist_ok=True)
    if not is_private(folder):
        raise PermissionError(None, "the file system lets all users in")
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")  # needed where the user has changed .dvc/.gitignore


def trusted(project_folder: Path) -> set[int]:
    """This user; for root also the owner of the project, whose code root runs anyway."""
    me = os.geteuid()
    return {me} if me else {me, project_folder.stat().st_uid}


def problem(root: Path) -> str | None:
    """Why other users can write to the site cache that DVC uses in `root`, and what to do; None where they cannot."""
    place = os.environ.get(VARIABLE) or configured(root) or DVCS_DEFAULT
    said = f"DVC's site cache {place}"
    remedy = (
        f"others can have code run by DVC. Unset {VARIABLE} and core.{KEY}, or name a folder that you alone can enter"
    )
    if not Path(place).is_absolute():
        return f"{said} is another folder wherever DVC is called, and open to all: {remedy}"
    folder = Path(os.path.realpath(place))
    if folder.exists() and folder.stat().st_uid not in (os.geteuid(), 0):
        return f"{said} belongs to another user: {remedy}"
    # One private folder on its path is enough.
    for step in (folder, *folder.parents):
        if step.exists() and is_private(step) and step.stat().st_uid in (os.geteuid(), 0):
            return None
    return f"{said} is open to other users: {remedy}"
