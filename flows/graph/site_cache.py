"""Keeps DVC's site cache in a folder that this user alone can enter: .dvc/site-cache, named in .dvc/config.local.

DVC unpickles what it finds in its site cache. By default that is /var/tmp/dvc, into which everybody may write, so that
another user of the machine could have code of theirs run by the next `dvc checkout` (CVE-2025-69872, of the package
diskcache, without a fix). The folder has to be named in full: DVC takes a relative one from the folder that it is
called in. And DVC opens to all what it makes there itself, so it has to lie below one that is closed.

A place that the user has chosen, by DVC_SITE_CACHE_DIR or in one of DVC's configurations, is left alone; of one that is
open `trainyard status` warns.
"""

import contextlib
import os
import shutil
import stat
import threading
from pathlib import Path

from flows.project import paths
from flows.project.errors import InputError, sentence
from flows.project.file_io import write_private
from flows.project.private_files import is_private, tighten

VARIABLE = "DVC_SITE_CACHE_DIR"  # which wins over every configuration
KEY = "site_cache_dir"
BY_DEFAULT = "/var/tmp/dvc"
NAME = Path(".dvc", "site-cache")

# Of the threads of one process, which run stages side by side.
one_at_a_time = threading.Lock()


def own(root: Path) -> Path:
    """The project's. A queued experiment shares it, as does a copy in which a retrain works."""
    return paths.home_of(root.absolute()) / NAME


def keep_private(root: Path) -> None:
    """Has DVC use a private site cache in the working copy `root`, by its configuration, so that it does when it is
    called by hand as well. To be called before DVC is; costs a fraction of a millisecond where all is well. The
    configuration of a project that was moved or copied is made right.

    Raises:
        InputError: the folder cannot be made private, or not be named.
    """
    local = root / ".dvc" / "config.local"
    tighten(local)  # where DVC keeps passwords of remotes, in a file that it makes for all to read
    if os.environ.get(VARIABLE) or not local.parent.is_dir():
        return
    wanted = own(root)
    with one_at_a_time:
        try:
            if not names(local, wanted):
                chosen = configured(root)
                if chosen and not is_ours(chosen):
                    return
                if chosen != str(wanted):
                    write(local, wanted)
            close(wanted)
        except (OSError, UnicodeEncodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"DVC's site cache {wanted} cannot be made private ({reason}): remove it, or set "
                f"{VARIABLE} to a folder that you alone can enter"
            ) from None


def names(local: Path, folder: Path) -> bool:
    """Whether a config.local names the folder: a look that does without DVC's parser."""
    try:
        return f"{KEY} = {folder}" in map(str.strip, local.read_text(encoding="utf-8").splitlines())
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def is_ours(place: str) -> bool:
    """Whether it was noted here, were it for the folder in which the project lay before."""
    return Path(place).is_absolute() and Path(place).parts[-2:] == NAME.parts


def configured(root: Path) -> str | None:
    """What DVC's configurations of this machine, this user, the project and this copy say, the last of them first."""
    for file in (root / ".dvc" / "config.local", root / ".dvc" / "config", *reversed(configurations())):
        with contextlib.suppress(InputError):  # one that is no configuration DVC itself refuses, in its own words
            content = parsed(file)
            for section in content.sections:
                for key, value in content[section].items():
                    if section.lower() == "core" and key.lower() == KEY and isinstance(value, str):
                        return value
    return None


def configurations() -> list[Path]:
    """DVC's configuration of this machine and of this user: see dvc/dirs.py, which takes long to import."""
    import platformdirs

    found = {
        "DVC_SYSTEM_CONFIG_DIR": platformdirs.site_config_dir,
        "DVC_GLOBAL_CONFIG_DIR": platformdirs.user_config_dir,
    }
    return [Path(os.environ.get(name) or default("dvc", "iterative"), "config") for name, default in found.items()]


def parsed(file: Path):
    """A configuration as DVC itself reads it, a ConfigObj; one that is not there is empty. Raises InputError."""
    from configobj import ConfigObj, ConfigObjError

    try:
        return ConfigObj(file.read_text(encoding="utf-8").splitlines() if file.is_file() else [])
    except (ConfigObjError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no configuration that DVC can read: {sentence(error)}") from None


def write(local: Path, folder: Path) -> None:
    """Notes the folder in config.local, in which the rest stays."""
    content = parsed(local)
    section = next((name for name in content.sections if name.lower() == "core"), "core")
    core = content.setdefault(section, {})
    for key in [key for key in core if key.lower() == KEY]:
        del core[key]
    core[KEY] = str(folder)
    content.indent_type = "    "
    write_private(local, "\n".join(content.write()))


def close(folder: Path) -> None:
    """Makes the folder where it is not there. One that others could enter may hold what they put there, and nothing in
    it is worth more than a little time: it is made anew."""
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
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")  # also where .dvc/.gitignore is a user's own


def trusted(project_folder: Path) -> set[int]:
    """This user; and for root the owner of the project, whose code it runs anyway."""
    me = os.geteuid()
    return {me} if me else {me, project_folder.stat().st_uid}


def problem(root: Path) -> str | None:
    """Why the site cache that DVC uses in `root` is not safe from other users, for whoever has chosen it; else None."""
    place = os.environ.get(VARIABLE) or configured(root) or BY_DEFAULT
    said = f"DVC's site cache {place}"
    remedy = (
        f"others can have code run by DVC. Unset {VARIABLE} and core.{KEY}, or name a folder that you alone can enter"
    )
    if not Path(place).is_absolute():
        return f"{said} is another folder wherever DVC is called, and open to all: {remedy}"
    folder = Path(os.path.realpath(place))
    if folder.exists() and folder.stat().st_uid not in (os.geteuid(), 0):
        return f"{said} belongs to another user: {remedy}"
    # One folder on the way to it that nobody else can go through is enough.
    for step in (folder, *folder.parents):
        if step.exists() and is_private(step) and step.stat().st_uid in (os.geteuid(), 0):
            return None
    return f"{said} is open to other users: {remedy}"
