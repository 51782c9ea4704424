"""Text that somebody else wrote, such as the name of a file or of a class, made harmless for the place where it goes.

Whoever names a file may not move a terminal's cursor, begin a line of a log, put a link on a page, run a script in it,
or have a spreadsheet compute.
"""

import re
from collections.abc import Iterable

# What a spreadsheet takes for the beginning of a formula.
FORMULA = ("=", "+", "-", "@")
# What markdown reads as more than text, inside of a line or of a table's cell.
MARKUP = re.compile(r"([\\`*_\[\]<>|&~])")
# Not printable to Python, but part of words and names: spaces that do not break, joiners of letters and of emojis.
HARMLESS = "\u00a0\u202f\u3000\u200c\u200d"
FENCE = re.compile("`{3,}")


def printable(text: str) -> str:
    """One line for a terminal, a log or a message: as escapes what a terminal would obey or what turns the order of
    signs, and, in the name of a file, bytes that are no UTF-8."""
    return text if text.isprintable() else "".join(map(escaped, text))


def escaped(sign: str) -> str:
    if sign.isprintable() or sign in HARMLESS:
        return sign
    if "\udc80" <= sign <= "\udcff":  # Python's stand-in for such a byte
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode()


def in_markdown(text: str) -> str:
    """Read as it is written, inside of a line or of a table's cell: no link, no picture, no HTML, no cell's end."""
    return MARKUP.sub(r"\\\1", " ".join(printable(text).split()))


def fenced(lines: Iterable[str]) -> list[str]:
    """Lines of markdown that show these as they are: in a fence that none of them ends."""
    shown = [printable(line) for line in lines]
    longest = max((len(found) for line in shown for found in FENCE.findall(line)), default=2)
    return ["`" * (longest + 1), *shown, "`" * (longest + 1)]


def in_csv(text: str) -> str:
    """A cell that no spreadsheet computes: with an apostrophe before what would be a formula."""
    text = printable(text)
    return f"'{text}" if text.startswith(FORMULA) else text


def in_plot(text: str) -> str:
    """A cell of a table that `dvc plots` draws. DVC writes it as it is into a script of an HTML page, which `</script>`
    would end: a sign that looks alike stands for its "<"."""
    return in_csv(text).replace("<", "＜")
