"""Escapes text from other people, such as names of files and classes, for the place where it is shown.

The name of a file must not move a terminal's cursor, begin a line of a log, put a link on a page, run a script there,
or become a spreadsheet's formula.
"""

import re
from collections.abc import Iterable

# First characters that make a spreadsheet compute a cell.
FORMULA = ("=", "+", "-", "@")
# Characters that are markup inside a line, or a table's cell, of markdown.
MARKUP = re.compile(r"([\\`*_\[\]<>|&~])")
# Not printable to Python, but part of words and names: non-breaking spaces, joiners of letters and of emojis.
HARMLESS = "\u00a0\u202f\u3000\u200c\u200d"
FENCE = re.compile("`{3,}")


def printable(text: str) -> str:
    """The text as one line for a terminal, a log or a message.

    Escaped are control characters, characters that change the direction of writing, and bytes of a file's name that
    are not UTF-8.
    """
    return text if text.isprintable() else "".join(map(escaped, text))


def escaped(sign: str) -> str:
    if sign.isprintable() or sign in HARMLESS:
        return sign
    if "\udc80" <= sign <= "\udcff":  # Python's stand-in for a byte that is not UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode()


def in_markdown(text: str) -> str:
    """The text for a line, or a table's cell, of markdown: no link, no image, no HTML, no end of the cell."""
    return MARKUP.sub(r"\\\1", " ".join(printable(text).split()))


def fenced(lines: Iterable[str]) -> list[str]:
    """The lines as a fenced code block of markdown; the fence is longer than any in the lines."""
    shown = [printable(line) for line in lines]
    longest = max((len(found) for line in shown for found in FENCE.findall(line)), default=2)
    return ["`" * (longest + 1), *shown, "`" * (longest + 1)]


def in_csv(text: str) -> str:
    """The text for a cell of a CSV file, with an apostrophe before what a spreadsheet would compute."""
    text = printable(text)
    return f"'{text}" if text.startswith(FORMULA) else text


def in_plot(text: str) -> str:
    """The text for a cell of a CSV file that `dvc plots` draws.

    DVC writes it unescaped into a script of an HTML page, which `</script>` would end. So a look-alike replaces "<".
    """
    return in_csv(text).replace("<", "＜")
