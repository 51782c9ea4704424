"""Selects the quantities that differ most."""


def strongest(tests: list[dict]) -> list[dict]:
    """The tests for the table: all of them, but of those on a class's probability only the one that differs most."""
    classes = [test for test in tests if test["name"].startswith("probability of ")]
    most = max(classes, key=lambda test: test["statistic"])
    return [test for test in tests if test is most or not test["name"].startswith("probability of ")]


def most_changed(class_shares: list[dict]) -> dict:
    return max(class_shares, key=lambda one: abs(one["incoming"] - one["held_out"]))
