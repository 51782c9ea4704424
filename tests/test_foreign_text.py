"""Names that strangers chose are text wherever they are shown: on a terminal, in markdown, in CSVs, on DVC's page."""

import csv
import html.parser
import json
import os
import shutil

import click
import numpy as np
import pytest
import torch
from conftest import dvc, edit, make_dvc_project, refused
from markdown_it import MarkdownIt
from PIL import Image

from flows import download
from flows.graph.repro import Outcome
from flows.orchestration import artifacts
from flows.params.params_file import read
from flows.project.errors import InputError
from flows.reporting import dvc_plots
from flows.retraining import incoming, incoming_files, retrain_report
from flows.untrusted.escaping import fenced, in_csv, in_markdown, printable

NASTY = [
    "\x1b]0;title\x07\x1b[2J\x1b[31mred",
    "two\nlines\r\x0b\x85\u2028",
    "ab\u202egnp.exe",
    os.fsdecode(b"caf\xe9\xff"),
    "\ud800",
    "[x](javascript:alert(1)) ![y](http://a/b)",
    "<script>alert(1)</script><img src=x onerror=alert(1)>&lt;",
    "`` ` ``` | a | b | *bold* __bold__ ~~gone~~ \\| \\",
    "=cmd|' /C calc'!A0",
]


@pytest.mark.parametrize("text", NASTY)
def test_a_terminal_gets_one_line_of_what_can_be_seen(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    printable(text).encode("utf-8")


@pytest.mark.parametrize("text", ["Zoë", "猫 犬", "می\u200cخواهم", "👩\u200d🔬", "a\u00a0b", "x×y – \\n <b>"])
def test_what_people_write_stays_as_it_is(text):
    assert printable(text) == text


def shown(markdown: str) -> tuple[set[str], str]:
    """The kinds of what a page would make of it, and its text."""
    tokens = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(markdown)
    inner = [part for token in tokens for part in (token, *(token.children or []))]
    text = "".join(part.content for part in inner if part.type in ("text", "code_inline", "text_special"))
    return {part.type for part in inner}, text


@pytest.mark.parametrize("text", NASTY)
def test_markdown_shows_the_text_and_nothing_else(text):
    kinds, seen = shown(f"| a | b |\n| --- | --- |\n| {in_markdown(text)} | end |")
    assert not kinds & {
        "link_open",
        "image",
        "html_inline",
        "html_block",
        "em_open",
        "strong_open",
        "s_open",
        "code_inline",
    }
    assert seen == f"ab{' '.join(printable(text).split())}end"


def test_no_line_ends_its_fence():
    lines = ["fine", "```", "[x](javascript:alert(1))", "`````"]
    [token] = MarkdownIt().parse("\n".join(fenced(lines)))
    assert token.type == "fence"
    assert token.content == "\n".join(lines) + "\n"


@pytest.mark.parametrize("text", NASTY)
def test_a_pipeline_s_page_and_a_retrain_s_report_link_nowhere(project, text):
    outcome = Outcome("b", 2.0, f"it said {text}", last_lines=("```", text))
    refused_file = {"file": f"3/{text}", "target": "2000-01-01/1.png", "reason": f"unknown class {text}"}
    batches = [{"accepted": [{"class": text}], "refused": [refused_file]}]
    file = retrain_report.write(project, "digits", [text], batches, {"b": text}, {"b": outcome}, None, {})
    for page in (artifacts.account("digits", read(), {"b": text}, [], {"b": outcome}, {}), file.read_text()):
        kinds, _ = shown(page)
        assert not kinds & {"link_open", "image", "html_inline", "html_block", "em_open", "s_open"}


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_cell_is_computed(project, start):
    name = f"{start}1+1.png"
    assert in_csv(name) == f"'{name}"
    assert in_csv("plain") == "plain"
    folder = project / "data/incoming"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"no image")
    os.utime(folder / name, (0, 0))
    incoming.take_in(read())
    with incoming_files.reasons_file().open(newline="", encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert row["was"] == f"'{name}"
    rows = list(dvc_plots.confusion("small", torch.eye(2), torch.tensor([0, 1]), [name, "cat"]))
    assert [row["actual"] for row in rows] == [f"'{name}", "cat"]


class Scripts(html.parser.HTMLParser):
    """The scripts and the other elements of a page, as a browser tells them apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts, self.others = [], set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "script":
            self.scripts.append("")
        self.others.add(tag)

    def handle_data(self, data):
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data


def test_a_class_s_name_runs_nothing_on_dvc_s_page(tmp_path):
    """As `dvc plots show` makes it, of the tables that evaluate writes."""
    names = ["</script><script>alert(1)</script>", "<!--<script>", "<img src=x onerror=alert(2)>", "cat"]
    stage = (
        "stages:\n  one:\n    cmd: python -c 'pass'\nplots:\n  - confusion.csv:\n      x: actual\n      y: predicted\n"
    )
    folder = make_dvc_project(tmp_path / "p", stage)
    with dvc_plots.Tables(folder) as tables:
        tables.add("confusion", dvc_plots.confusion("small", torch.eye(4), torch.arange(4), names))
        tables.add("classes", dvc_plots.per_class("small", {name: {"f1": 1.0} for name in names}))
    dvc(folder, "plots", "show")
    page = (folder / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    found = Scripts(page)
    [spec] = [script for script in found.scripts if "var spec" in script]
    assert json.dumps("＜/script>＜script>alert(1)＜/script>") in spec
    assert "img" not in found.others
    assert len(found.scripts) == 4  # DVC's three libraries and the one chart
    assert "<" not in (folder / "classes.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["cat\x1b[31m", "cat\nlog: all is well", "cat\u202e", os.fsdecode(b"caf\xe9"), "\x7f"])
def test_a_class_s_name_that_cannot_be_shown_is_refused(project, name, capfd):
    root = project / "sources/folder"
    edit(project, lambda content: content.update(dataset="folder"))
    for place in (name, "dog"):
        (root / place).mkdir()
        Image.new("L", (2, 2)).save(root / place / "1.png")
    by_folder = refused(capfd, download.command)
    for place in (name, "dog"):
        shutil.rmtree(root / place)
    names = np.array([name, "dog"])
    np.savez(root / "images.npz", images=np.zeros((8, 2, 2), np.uint8), labels=np.arange(8) % 2, class_names=names)
    for said in (by_folder, refused(capfd, download.command)):
        assert f'a class named "{printable(name)}", a name with signs that cannot be shown' in said
        assert said.strip("\n").isprintable()


def test_a_command_s_last_sentence_is_one_line(capfd):
    @click.command()
    def command():
        raise InputError("no file \x1b]0;title\x07 here\ntrainyard: all is well")

    said = refused(capfd, command)
    assert said == "trainyard: no file \\x1b]0;title\\x07 here\\ntrainyard: all is well\n"
