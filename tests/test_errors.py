"""What other libraries say becomes a part of one line."""

import errno
import os

import pytest

from lightning_modules.errors import counted, exhausted, sentence


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
