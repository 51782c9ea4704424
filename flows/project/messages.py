"""Warnings on standard error."""

import functools
import sys


def warn(message: str) -> None:
    print(f"trainyard: {message}", file=sys.stderr, flush=True)


warn_once = functools.cache(warn)
