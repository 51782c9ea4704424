"""Masks secrets in URLs, and in text that quotes them, before they are shown, logged, tagged or saved.

A URL may hold a password, a token in the user's place, or keys in its query or fragment. Another library's error may
quote any part of it. So the secrets of the environment are masked wherever they appear, and the secret parts of
whatever looks like a URL are masked too.
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
# Keys of a query whose values are no secret: of MLflow's pages, and of connections to databases.
HARMLESS = {
    "charset", "check_same_thread", "compareRunsMode", "connect_timeout", "driver", "mode", "region", "sslmode",
    "timeout", "viewStateShareKey", "workflowType",
}  # fmt: skip
# Databases, whose URLs are more useful with the user's name. Elsewhere the user's name may be a token.
DATABASES = ("mssql", "mysql", "oracle", "postgres", "postgresql", "sqlite")
# Names of variables whose whole value is secret; names of those that hold a path; and values that are no secret.
SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|AUTH_?(STRING|KEY)|CREDENTIAL", re.IGNORECASE)
FILE = re.compile(r"(FILE|PATH|DIR|FOLDER|CREDENTIALS)$", re.IGNORECASE)
NO_SECRET = re.compile(r"true|false|none|\d{1,7}", re.IGNORECASE)
# Default passwords, which are also plain words: masked, they would vanish from every text.
WORDS = {"mlflow", "prefect", "postgres", "trainyard"}
# Characters of a secret: a shorter one is not masked, since it may appear in any text; from SURE on a secret is masked
# also inside a word.
SHORTEST, SURE = 5, 8


def address(given: str) -> str:
    """A URL with *** for all parts that may be secret. A path stays as it is."""
    scheme, mark, rest = given.partition("://")
    if mark:
        return f"{scheme}://{without_secrets(scheme, rest)}"
    if "@" in given and not given.startswith(("/", ".", "~")):  # a URL without its scheme, or with half of it
        return without_secrets("", f":{given}")
    return given


def text(said: str) -> str:
    """The text of another library or program, with *** for secrets."""
    whole, secrets = environment_secrets(tuple(os.environ.items()))
    for value, shown in whole.items():
        said = said.replace(value, shown)
    said = ADDRESS.sub(lambda found: found[1] + without_secrets(found[1].removesuffix("://"), found[2]), said)
    said = PATH.sub(lambda found: found[1] + masked_query(found[2]), said)
    return secrets.sub(HIDDEN, said) if secrets else said


def sentence(error: BaseException, most: int | None = 300) -> str:
    """An error as one sentence, like `flows.project.errors.sentence`, with *** for secrets."""
    return text(errors.sentence(error, None))[:most]


def output(data: bytes) -> bytes | None:
    """The output of a process, with *** for secrets of the environment; None where it holds none."""
    _, secrets = environment_secrets(tuple(os.environ.items()), SURE)
    if not secrets:
        return None
    said = bytes(data).decode("utf-8", "surrogateescape")
    shown = secrets.sub(HIDDEN, said)
    return None if shown == said else shown.encode("utf-8", "surrogateescape")


def without_secrets(scheme: str, rest: str) -> str:
    """The part of a URL after ://, with *** for secrets."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    before = ""
    if "@" in rest and ("@" in authority or ":" in authority):
        # A password that was not percent-encoded may hold any character, so it ends at the last @.
        user, rest = rest.rsplit("@", 1)
        name, colon, _ = user.partition(":")
        kept = f"{name}:" if colon and scheme.partition("+")[0].lower() in DATABASES else ""
        before = f"{kept}{HIDDEN}@"
    rest, mark, fragment = rest.partition("#")
    place, question, query = rest.partition("?")
    return f"{before}{place}{question}{masked_query(query)}{mark}{masked_fragment(fragment)}"


def masked_fragment(fragment: str) -> str:
    """A fragment with *** for secrets. Single-page applications keep a path there, with a query of its own."""
    if not fragment.startswith(("/", "!/")):
        return masked_query(fragment)
    place, question, query = fragment.partition("?")
    return f"{place}{question}{masked_query(query)}"


def masked_query(query: str) -> str:
    """A query, key=value&key=value, with *** for each value, and for each word without a key."""

    def hide(found: re.Match) -> str:
        key, equals, value = found.groups()
        if not equals:
            return HIDDEN if key else ""
        return found[0] if key in HARMLESS or not value else f"{key}={HIDDEN}"

    return PAIR.sub(hide, query)


@functools.lru_cache(maxsize=8)
def environment_secrets(
    environment: tuple[tuple[str, str], ...], shortest: int = SHORTEST
) -> tuple[dict[str, str], re.Pattern | None]:
    """The secrets of the environment, to be masked in text.

    Returns:
        URLs that hold secrets, each with its masked form, the longest first; and a pattern of all secrets of at least
        `shortest` characters, None where there are none.
    """
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
    """A pattern of all forms, plain or percent-encoded, in which the secrets may be quoted; None without secrets."""
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
    """The secret parts of a URL."""
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
