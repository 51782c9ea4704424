"""Hides what is secret in addresses, and in text that quotes them, before it is shown, logged, tagged or noted.

An address may hold a password, a token in the user's place, or keys in its query or behind its #. An error of another
library may quote any part of it: so what the environment holds in secret is hidden wherever it stands, and beside that
whatever looks like an address has its secret places hidden.
"""

import functools
import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from flows.project import errors

HIDDEN = "***"
ADDRESS = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)([^\s\"'<>`|]+)")
# A path with a query and no host, as urllib3 quotes it.
PATH = re.compile(r"(?<![\w:/.])(/[^\s\"'<>`|?]*\?)([^\s\"'<>`|]+)")
PAIR = re.compile(r"([^&;=]*)(=?)([^&;]*)")
# What is known from these is of no use to anybody: of MLflow's pages, and of how a store is spoken to.
HARMLESS = {
    "charset", "check_same_thread", "compareRunsMode", "connect_timeout", "driver", "mode", "region", "sslmode",
    "timeout", "viewStateShareKey", "workflowType",
}  # fmt: skip
# In the addresses of databases the user's name is half of what one needs to know. Elsewhere it may be the token.
DATABASES = ("mssql", "mysql", "oracle", "postgres", "postgresql", "sqlite")
# Variables that are secret as a whole; those among them that name a file; and values that are no secret.
SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|AUTH_?(STRING|KEY)|CREDENTIAL", re.IGNORECASE)
FILE = re.compile(r"(FILE|PATH|DIR|FOLDER|CREDENTIALS)$", re.IGNORECASE)
NO_SECRET = re.compile(r"true|false|none|\d{1,7}", re.IGNORECASE)
# Passwords that are none: as secrets they would be hidden in all that is said.
WORDS = {"mlflow", "prefect", "postgres", "trainyard"}
SHORTEST, SURE = 5, 8  # signs: fewer stand in any text; from so many on also in the midst of other signs


def address(given: str) -> str:
    """An address with *** for all in it that may be secret. A path stays as it is."""
    scheme, mark, rest = given.partition("://")
    if mark:
        return f"{scheme}://{without_secrets(scheme, rest)}"
    if "@" in given and not given.startswith(("/", ".", "~")):  # without its scheme, or with half of one
        return without_secrets("", f":{given}")
    return given


def text(said: str) -> str:
    """What another library or program says, with *** for secrets."""
    whole, secrets = known(tuple(os.environ.items()))
    for value, shown in whole.items():
        said = said.replace(value, shown)
    said = ADDRESS.sub(lambda found: found[1] + without_secrets(found[1].removesuffix("://"), found[2]), said)
    said = PATH.sub(lambda found: found[1] + pairs(found[2]), said)
    return secrets.sub(HIDDEN, said) if secrets else said


def sentence(error: BaseException, most: int | None = 300) -> str:
    """As that of `flows.project.errors`, of an error that may quote an address."""
    return text(errors.sentence(error, None))[:most]


def output(data: bytes) -> bytes | None:
    """What a process prints, with *** for secrets of the environment; None where there are none in it."""
    _, secrets = known(tuple(os.environ.items()), SURE)
    if not secrets:
        return None
    said = bytes(data).decode("utf-8", "surrogateescape")
    shown = secrets.sub(HIDDEN, said)
    return None if shown == said else shown.encode("utf-8", "surrogateescape")


def without_secrets(scheme: str, rest: str) -> str:
    """What stands behind :// of an address."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    before = ""
    if "@" in rest and ("@" in authority or ":" in authority):
        # A password that was not encoded as it should be may hold any sign: all up to the last @.
        user, rest = rest.rsplit("@", 1)
        name, colon, _ = user.partition(":")
        kept = f"{name}:" if colon and scheme.partition("+")[0].lower() in DATABASES else ""
        before = f"{kept}{HIDDEN}@"
    rest, mark, fragment = rest.partition("#")
    place, question, query = rest.partition("?")
    return f"{before}{place}{question}{pairs(query)}{mark}{of_fragment(fragment)}"


def of_fragment(fragment: str) -> str:
    """Pages of one script keep their own path there, with a query of its own."""
    if not fragment.startswith(("/", "!/")):
        return pairs(fragment)
    place, question, query = fragment.partition("?")
    return f"{place}{question}{pairs(query)}"


def pairs(query: str) -> str:
    """key=value&key=value, with *** for the values, and for a word that is no pair."""

    def hide(found: re.Match) -> str:
        key, equals, value = found.groups()
        if not equals:
            return HIDDEN if key else ""
        return found[0] if key in HARMLESS or not value else f"{key}={HIDDEN}"

    return PAIR.sub(hide, query)


@functools.lru_cache(maxsize=8)
def known(
    environment: tuple[tuple[str, str], ...], shortest: int = SHORTEST
) -> tuple[dict[str, str], re.Pattern | None]:
    """Of the environment: addresses with secrets in them, each with how it is shown, the longest first; and a pattern
    of all secrets of at least so many signs."""
    whole, secrets = {}, set()
    for name, value in environment:
        value = value.strip()
        if SECRET.search(name) and not FILE.search(name) and not NO_SECRET.fullmatch(value):
            secrets.update([value, value.partition(":")[2]])
        if "://" in value or ("@" in value and name.upper().endswith(("_PROXY", "_MIRROR", "_URI", "_URL"))):
            if (shown := address(value)) != value:
                whole[value] = shown
            secrets.update(secrets_of(value))
    return dict(sorted(whole.items(), key=lambda item: -len(item[0]))), pattern(secrets, shortest)


def pattern(secrets: Iterable[str], shortest: int) -> re.Pattern | None:
    """Of all the forms in which they may be quoted; None where there are none."""
    forms = {
        form
        for secret in secrets
        for form in (secret, unquote(secret), unquote_plus(secret), quote(secret, safe=""), quote_plus(unquote(secret)))
        if len(form) >= shortest and form not in WORDS
    }
    if not forms:
        return None
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    words = [re.escape(form) if len(form) >= SURE else rf"(?<!\w){re.escape(form)}(?!\w)" for form in longest_first]
    return re.compile("|".join(words))


def secrets_of(given: str) -> Iterator[str]:
    """The secret parts of an address."""
    scheme, _, rest = given.rpartition("://")
    if "@" in rest:
        user, rest = rest.rsplit("@", 1)
        name, _, password = user.partition(":")
        if password and password != "x-oauth-basic":
            yield password
        elif scheme.partition("+")[0].lower() not in DATABASES:
            yield name
    rest, _, fragment = rest.partition("#")
    query = rest.partition("?")[2]
    inner = fragment.partition("?")[2] if fragment.startswith(("/", "!/")) else fragment
    for found in PAIR.finditer(f"{query}&{inner}"):
        key, equals, value = found.groups()
        if equals and key not in HARMLESS:
            yield value
        elif not equals:
            yield key
