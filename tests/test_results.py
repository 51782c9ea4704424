"""The table of members and ensembles."""

import math

import pytest
from click.testing import CliRunner
from scipy.stats import binomtest

from flows.commands.results import command
from flows.params.params_file import read
from flows.project import file_io, paths
from flows.project.errors import InputError
from flows.reporting import by_task, results
from flows.statistics.replicates import wilson_interval


def test_the_line_of_a_test_has_top_5_where_it_was_measured():
    few = {"accuracy": 0.9, "nll": 0.3, "brier": 0.1, "ece": 0.02}
    assert by_task.line("classification", few) == "test accuracy 90.00%, nll 0.3000, brier 0.1000, ece 0.0200"
    assert by_task.line("classification", few | {"top_5": 0.995}).endswith("ece 0.0200, top_5 99.50%")


def test_rows_are_members_then_ways_to_vote_of_which_one_has_test_scores(finished):
    params = read()
    headings = by_task.headings("classification")
    table = {row[0].removesuffix(" *"): dict(zip(headings, row)) for row in results.rows(params)}
    assert list(table) == [*params.members, *params.ensemble.labels]
    for member, recipe in params.members.items():
        numbers = file_io.read_json(paths.member_metrics_file("digits", member))
        row = table[member]
        assert row["replicas"] == str(recipe.replicas)
        assert row["parameters"] == f"{numbers['parameters']:,}"
        for split in paths.SPLITS:
            deviation = f" ± {numbers[split]['accuracy_std']:.2%}" if recipe.replicas > 1 else ""
            assert row[f"{split} accuracy"] == f"{numbers[split]['accuracy']:.2%}{deviation}"
            assert row[f"{split} nll"] == f"{numbers[split]['nll']:.4f}"
        assert row["test nll"] == f"{numbers['test']['nll']:.4f}"
        assert float(row["seconds"]) > 0
        low, high = (float(bound.rstrip("%")) / 100 for bound in row["95% interval"].split(" to "))
        assert low < numbers["test"]["accuracy"] < high
    ensemble = file_io.read_json(paths.ensemble_metrics_file("digits"))
    for method in params.ensemble.labels:
        row = table[method]
        assert row["replicas"] == "3"
        assert row["validation accuracy"].endswith("%")
        chosen = method == ensemble["method"]
        assert row["test nll"] == (f"{ensemble['test']['nll']:.4f}" if chosen else "")
        assert row["test accuracy"] == (f"{ensemble['test']['accuracy']:.2%}" if chosen else "")


def test_markdown_has_a_row_each_of_as_many_cells(finished):
    said = CliRunner().invoke(command, ["--markdown"], catch_exceptions=False).stdout.splitlines()
    assert len(said) == 2 + len(results.rows(read()))
    assert {line.count("|") for line in said} == {len(by_task.headings("classification")) + 1}
    assert said[2].startswith("| small | 2 | ")


def test_the_table_is_whole_where_there_is_no_terminal(finished):
    said = CliRunner().invoke(command, catch_exceptions=False).stdout
    for row in results.rows(read()):
        assert any(all(cell in line for cell in row) for line in said.splitlines()), row


def test_of_no_accuracy_there_is_no_interval():
    assert all(map(math.isnan, wilson_interval(math.nan, 100)))


@pytest.mark.parametrize(("right", "images"), [(348, 359), (0, 10), (10, 10), (9958, 10_000)])
def test_the_interval_of_an_accuracy_is_wilsons(right, images):
    expected = binomtest(right, images).proportion_ci(method="wilson")
    assert wilson_interval(right / images, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_seconds_of_other_weights_are_not_shown(finished_copy):
    file = paths.seconds_file("digits", "wide")
    assert results.seconds("digits", "wide")
    file_io.write_json(file, file_io.read_json(file) | {"weights_sha256": ["another"]})
    assert results.seconds("digits", "wide") == ""
    file.unlink()
    assert results.seconds("digits", "wide") == ""


def test_nothing_measured_is_bad_input(project):
    with pytest.raises(InputError, match=r"metrics/digits/members/mlp.json does not exist: run `make repro`"):
        results.rows(read())
