from dataclasses import replace

import pytest

from steprule.lab.statistics import Interval, Summary, interval, leaders, verdict, winner

pytestmark = pytest.mark.null

BLANK = Summary(0.1, 0.5, 0.5, None, 10.0, 5, 9, 5, 0, 0, 0, 1.0, 100, 1.0, None)


def rows(**scores):
    return {name: replace(BLANK, test_accuracy=Interval(*score)) for name, score in scores.items()}


def test_the_interval_holds_the_median_and_stays_within_the_values():
    values = [0.91, 0.95, 0.94, 0.97, 0.93]
    found = interval(values)
    assert found.median == 0.94
    assert min(values) <= found.low < found.median < found.high <= max(values)
    assert interval(values) == found


def test_equal_values_are_their_own_interval_and_no_value_has_none():
    assert interval([0.9]) == Interval(0.9, 0.9, 0.9)
    assert interval([0.9, 0.9, 0.9]) == Interval(0.9, 0.9, 0.9)
    assert interval([]) is None


def test_a_method_whose_interval_no_other_reaches_wins():
    table = rows(sgd=(0.9, 0.88, 0.92), adam=(0.96, 0.95, 0.97))
    assert winner(table) == "adam"
    assert verdict(table).startswith("adam is best")


def test_no_winner_is_named_where_intervals_overlap():
    table = rows(gd=(0.7, 0.6, 0.8), sgd=(0.94, 0.9, 0.955), adam=(0.96, 0.95, 0.97))
    assert winner(table) is None
    assert leaders({name: row.test_accuracy for name, row in table.items()}) == ["adam", "sgd"]
    told = verdict(table)
    assert told.startswith("No winner is named: adam has the best median")
    assert "gd" not in told.replace("sgd", "")


def test_touching_intervals_overlap():
    assert Interval(0.9, 0.8, 0.92).overlaps(Interval(0.95, 0.92, 0.97))
    assert not Interval(0.9, 0.8, 0.91).overlaps(Interval(0.95, 0.92, 0.97))


def test_too_few_seeds_name_no_winner():
    table = rows(sgd=(0.9, 0.9, 0.9), adam=(0.96, 0.96, 0.96))
    table["adam"] = replace(table["adam"], report_runs=2)
    assert winner(table) is None
    assert "fewer than 3 fresh seeds" in verdict(table)


def test_one_method_alone_is_not_compared():
    table = rows(adam=(0.96, 0.95, 0.97))
    assert winner(table) is None
    assert verdict(table).startswith("Nothing to compare")
