"""Fetches one archive file, complete and verified, from the first place that has it.

The places, in order: the archive cache (`.trainyard/archives`), the mirror that TRAINYARD_MIRROR names (a folder or an
https URL, laid out like torchvision's data root), the official host. Nothing goes over plain http. The SHA-256 is
checked before a file is opened or unpacked, and before a download is renamed into the cache.
"""

import contextlib
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from flows.project import file_io, paths
from flows.project.errors import InputError, UnavailableError
from flows.untrusted import masking, plain_files
from flows.untrusted.escaping import printable

MIRROR = "TRAINYARD_MIRROR"
ATTEMPTS = 4
BACKOFF = 1.0  # seconds before the second attempt, doubled before each one after it
TIMEOUT = (10, 60)  # seconds to connect, and between two chunks of a body
# Limits for all attempts on a file together: a host that sends a byte a minute would pass every other limit.
LEAST_TIME = 300.0  # seconds
SLOWEST = 20_000  # bytes a second
CHUNK = 1 << 18  # bytes
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}  # transient errors, which another attempt may not meet


class Absent(LookupError):
    """A place does not have the file. The message names the place."""


class TransientError(Exception):
    """An attempt failed for a transient reason: another one may succeed."""


@dataclass(frozen=True)
class Archive:
    """One published file.

    path: its path in a torchvision data root, and so in a mirror and in the cache.
    url: its official URL; None for a file that is published only inside another one.
    """

    path: str
    bytes: int
    sha256: str
    url: str | None = None


def read(archive: Archive) -> bytes:
    """The file's content, from the nearest place that has it.

    A mirror folder's file is read in place; a download stays in the cache. The bytes that are returned are the bytes
    that were hashed: a file that changes meanwhile does no harm.

    Raises:
        Absent: the file has no official URL, and neither cache nor mirror has it.
        UnavailableError: the mirror or the official host cannot be reached.
        InputError: the mirror or the official host has another file under this name, or the host has none.
    """
    return find(archive, read_verified)


def stream(archive: Archive) -> BufferedReader:
    """Opens the file for reading, for one that is too large for memory. Raises like `read`.

    Its SHA-256 was right a moment ago, but the file may change: what is taken out of it needs a SHA-256 of its own.
    """
    return find(archive, open_verified)


def find(archive: Archive, take: Callable[[Path, Archive], Any]) -> Any:
    """What `take` returns for the file in the nearest place that has it."""
    cached = cache_file(archive)
    if cached.is_file():
        try:
            return take(cached, archive)
        except InputError:
            say(f"{archive.path} in the archive cache is damaged and is fetched again")
    mirror = os.environ.get(MIRROR, "").strip()
    if mirror:
        try:
            return from_mirror(mirror, archive, take)
        except Absent as absent:
            if archive.url is None:
                raise
            say(f"{absent}: taking it from {urlsplit(archive.url).hostname}")
    if archive.url is None:
        raise Absent(f"{archive.path} is not in the archive cache, and {MIRROR} is not set")
    try:
        download(archive.url, archive, cached)
    except Absent as absent:
        raise InputError(f"{absent}; {advice(archive)}") from None
    except TransientError as transient:
        raise UnavailableError(f"{transient}; {advice(archive)}") from None
    return take(cached, archive)


def cache_file(archive: Archive) -> Path:
    return paths.state_folder() / "archives" / archive.path


def from_mirror(mirror: str, archive: Archive, take: Callable[[Path, Archive], Any]) -> Any:
    """What `take` returns for the file in a mirror, a folder or URL. Raises Absent where the mirror lacks it."""
    if "://" in mirror:
        if not mirror.lower().startswith("https://"):
            raise InputError(f"{MIRROR} is {masking.address(mirror)}, but has to be a folder or an https:// URL")
        try:
            download(f"{mirror.rstrip('/')}/{archive.path}", archive, cache_file(archive))
        except TransientError as transient:
            raise UnavailableError(f"the mirror that {MIRROR} names does not answer: {transient}") from None
        return take(cache_file(archive), archive)
    # Relative to the project, not to the current folder: DVC runs a queued experiment in a copy elsewhere.
    folder = paths.home() / Path(mirror).expanduser()
    if not folder.is_dir():
        raise InputError(f"{MIRROR} is {masking.address(mirror)}, but there is no folder {folder}")
    file = folder / archive.path
    if not file.is_file():
        raise Absent(f"the mirror {masking.address(mirror)} has no {archive.path}")
    return take(file, archive)


def read_verified(file: Path, archive: Archive) -> bytes:
    """The content of a local file, whose SHA-256 is checked after reading."""
    with reading(file), open_plain(file, archive) as stream:
        # A file of another size is hashed only for the message, without reading it into memory.
        if os.fstat(stream.fileno()).st_size != archive.bytes:
            raise wrong_hash(str(file), archive, hash_of(stream, str(file)))
        content = stream.read(archive.bytes)
    refuse_other(hashlib.sha256(content).hexdigest(), str(file), archive)
    return content


def open_verified(file: Path, archive: Archive) -> BufferedReader:
    """Opens a local file at its beginning, after checking its SHA-256."""
    with reading(file), ExitStack() as closing:
        stream = closing.enter_context(open_plain(file, archive))
        refuse_other(hash_of(stream, str(file)), str(file), archive)
        stream.seek(0)
        closing.pop_all()
        return stream


def open_plain(file: Path, archive: Archive) -> BufferedReader:
    """Opens a plain file. One that is far too large is refused unhashed: a file with holes may claim any size."""
    try:
        stream = plain_files.opened(file, sys.maxsize)
    except InputError as error:
        raise InputError(f"{file} {error}") from None
    size = os.fstat(stream.fileno()).st_size
    if size > 2 * archive.bytes:
        stream.close()
        raise InputError(
            f"{file} has {size:,} bytes, and {archive.path} as it was published {archive.bytes:,}: it is another file"
        )
    return stream


@contextmanager
def reading(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from None


def hash_of(stream: BufferedReader, place: str) -> str:
    """The SHA-256 of a file that is open at its beginning. Raises InputError for an HTML page."""
    refuse_page(stream.read(512), place)
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()


def download(url: str, archive: Archive, target: Path) -> None:
    """Downloads one file to `target`, which appears only when it is complete and verified.

    Raises:
        Absent: the host says that it has no such file.
        TransientError: all attempts failed, or their time was up.
        InputError: the host sent another file, or redirected to a URL that is not https.
    """
    allowed = time_limit(archive)
    until = time.monotonic() + allowed
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with file_io.whole(target) as temporary:
                transfer_in_time(until, url, archive, temporary)
            return
        except TimeoutError:
            raise TransientError(
                f"{urlsplit(url).hostname} is too slow: {archive.path}, of {archive.bytes:,} bytes, was not here after "
                f"{allowed:,.0f} s"
            ) from None
        except TransientError as transient:
            if attempt == ATTEMPTS:
                raise
            seconds = BACKOFF * 2 ** (attempt - 1)
            say(f"{transient}; attempt {attempt + 1} of {ATTEMPTS} in {seconds:g} s")
            time.sleep(seconds)


def time_limit(archive: Archive) -> float:
    """The time limit, in seconds, for all attempts on a file together."""
    return max(LEAST_TIME, archive.bytes / SLOWEST)


def transfer_in_time(until: float, url: str, archive: Archive, file: Path) -> None:
    """One attempt, in a thread that is abandoned when the time is up. Also raises what `transfer` raises.

    A thread, because the lookup of a name, and a handshake or header that arrives byte by byte, have no time limit of
    their own. An abandoned thread writes on to a file that the caller has deleted.

    Args:
        until: the end, on time.monotonic's clock.

    Raises:
        TimeoutError: the time was up.
    """
    ended: Future[None] = Future()
    responses: list[Any] = []

    def run() -> None:
        try:
            transfer(url, archive, file, responses)
            ended.set_result(None)
        except BaseException as error:  # `result` raises it again, in the thread that waits
            ended.set_exception(error)

    threading.Thread(target=run, name="fetch", daemon=True).start()
    try:
        ended.result(max(0.0, until - time.monotonic()))
    finally:
        if not ended.done():
            for response in responses:
                hang_up(response)


def hang_up(response: Any) -> None:
    """Shuts the connection down, which wakes the thread that waits for its next byte."""
    with contextlib.suppress(OSError, ValueError):  # it may have ended just now
        response.raw.shutdown()


def transfer(url: str, archive: Archive, file: Path, responses: list) -> None:
    """Downloads to `file`, at most the known size, and checks the SHA-256. Appends the response to `responses`."""
    import requests

    digest, received, shown = hashlib.sha256(), 0, masking.address(url)
    with requests.Session() as session, file.open("wb") as stream:
        session.adapters.pop("http://")  # so that a redirect to plain http fails too
        with answer(session, url) as response:
            responses.append(response)
            for chunk in body(response, archive):
                if received == 0:
                    refuse_page(chunk, shown)
                received += len(chunk)
                if received > archive.bytes:
                    raise InputError(f"{shown} sends more than the {archive.bytes:,} bytes of {archive.path}: refused")
                digest.update(chunk)
                stream.write(chunk)
    # urllib3 itself raises where a body is shorter than its Content-Length. A short body with a matching one is
    # complete, and another file.
    if received < archive.bytes and "Content-Length" not in response.headers:
        raise TransientError(f"{shown} ended after {received:,} of {archive.bytes:,} bytes")
    refuse_other(digest.hexdigest(), shown, archive)


def answer(session: Any, url: str) -> Any:
    """The response to a GET, its body unread. Raises Absent, TransientError or InputError where it is not a 200."""
    import requests

    host, shown = urlsplit(url).hostname, masking.address(url)
    try:
        response = session.get(url, stream=True, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"})
    except requests.exceptions.InvalidSchema:
        raise InputError(f"{shown} leads to an address that is not https: refused") from None
    except requests.exceptions.SSLError as error:
        raise InputError(f"{host} has no certificate that this machine trusts: {reason(error)}") from None
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise TransientError(f"{host} cannot be reached ({reason(error)})") from None
    except requests.exceptions.RequestException as error:
        raise InputError(f"{shown} cannot be fetched: {reason(error)}") from None
    if response.status_code != 200:
        response.close()
        said = printable(f"{response.status_code} {response.reason}".strip()[:100])
        raise (TransientError if response.status_code in TRANSIENT else Absent)(f"{shown} answers {said}")
    return response


def body(response: Any, archive: Archive) -> Iterator[bytes]:
    """The chunks of the body as it was sent, with a progress bar on a terminal."""
    import urllib3
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    watched = sys.stderr.isatty()
    if not watched:
        say(f"fetching {archive.path} ({archive.bytes:,} bytes) from {urlsplit(response.url).hostname}")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not watched) as progress:
        task = progress.add_task(Path(archive.path).name, total=archive.bytes)
        try:
            # Not iter_content: it would unpack the .gz files of a host that labels them "Content-Encoding: gzip".
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                progress.advance(task, len(chunk))
                yield chunk
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"{masking.address(response.url)} broke off ({reason(error)})") from None


def refuse_page(head: bytes, place: str) -> None:
    """Raises InputError for an HTML page: often a network's login page, or an error page sent with status 200."""
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise InputError(f"got an HTML page instead of an archive: {place}")


def refuse_other(found: str, place: str, archive: Archive) -> None:
    if found != archive.sha256:
        raise wrong_hash(place, archive, found)


def wrong_hash(place: str, archive: Archive, found: str) -> InputError:
    return InputError(
        f"{place} is not {archive.path} as it was published (damaged or another file): "
        f"expected SHA-256 {archive.sha256}, found {found}"
    )


def advice(archive: Archive) -> str:
    return (
        f"to take it from elsewhere, set {MIRROR} to a folder or https URL that has {archive.path} "
        "(laid out as torchvision's data root)"
    )


def reason(error: BaseException) -> str:
    """The message of the innermost cause, which requests and urllib3 wrap in URLs and names of objects."""
    wrapped = [getattr(error, "reason", None), *error.args]
    inner = next((part for part in wrapped if isinstance(part, BaseException)), error.__cause__)
    if inner is not None:
        return reason(inner)
    return masking.text(str(getattr(error, "strerror", None) or error).rsplit(": ", 1)[-1])


def say(line: str) -> None:
    click.echo(printable(line), err=True)
