"""What other libraries say becomes a part of one line."""

import errno
import json
import os
import pickle
from pathlib import Path

import pytest

from flows.project import errors
from flows.project.errors import DamagedError, counted, exhausted, our_mistake, sentence


def test_an_error_is_one_line_of_bounded_length_and_never_empty():
    assert sentence(ValueError("one\n\n  and  two\n")) == "one and two"
    assert sentence(TimeoutError()) == sentence(TimeoutError(" \n")) == "TimeoutError"
    assert len(sentence(ValueError("x" * 1000))) == 300
    assert len(sentence(ValueError("x" * 1000), 200)) == 200
    assert len(sentence(ValueError("x" * 1000), None)) == 1000


def test_one_of_a_thing_is_no_plural():
    assert [counted(number, "image") for number in (0, 1, 1797)] == ["0 images", "1 image", "1,797 images"]
    assert [counted(number, "process", "processes") for number in (1, 2)] == ["1 process", "2 processes"]


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class OfLibrary(Exception):
    """Of another library, which words it in a way of its own."""


OfLibrary.__module__ = "sqlalchemy.exc"


def test_what_crosses_processes_arrives_as_it_was():
    for error in (errors.WorkerError("gone"), errors.ExhaustedError("full"), DamagedError(Path("a"), "is cut off")):
        there = pickle.loads(pickle.dumps(error))
        assert (type(there), str(there)) == (type(error), str(error))


def caught(make) -> TypeError:
    with pytest.raises(TypeError) as found:
        make()
    return found.value


def test_a_mistake_is_ours_where_our_line_made_it():
    assert our_mistake(caught(lambda: counted(None, "image")))
    assert not our_mistake(caught(lambda: json.loads(None)))  # a library's
    assert not our_mistake(caught(lambda: counted()))  # that of who called it: here this test
    assert not our_mistake(OfLibrary())
    started = {"__name__": "__main__", "__package__": "flows"}  # as by `python -m flows.train`
    assert our_mistake(caught(lambda: exec("len(1)", started)))
    assert not our_mistake(caught(lambda: exec("len(1)", started | {"__package__": ""})))


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/a file")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FULL, "is full"),
        (raised_from(ValueError("cannot write"), FULL), "while /tmp/a file was written"),
        (OfLibrary("(sqlite3.OperationalError) database or disk is full"), "is full"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "is full"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (MemoryError(), "not enough memory (an allocation failed)"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "not enough memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "not enough memory"),
        (RuntimeError("can't start new thread"), "no process or thread can be started"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "no process or thread can be started"),
        (ValueError("no space left on device"), None),  # a text of somebody's file
        (KeyError("out of memory"), None),
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT), "out of memory.png"), None),
    ],
)
def test_what_is_used_up_is_named_and_nothing_else_is_taken_for_it(error, said):
    found = exhausted(error)
    assert found is None if said is None else said in found
