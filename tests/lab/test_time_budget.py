"""A plan made to fit the time: what is given up, in which order, and that it is the same for every method."""

import pytest

from steprule.lab.budget import Budget
from steprule.lab.methods import Method
from steprule.lab.protocol import StudyPlan, geometric
from steprule.lab.tasks import TaskSpec
from steprule.lab.time_budget import (
    FEWEST_RATES,
    SHORTEST,
    Pace,
    estimate,
    fit_as_record,
    fit_from_record,
    fitted,
    seconds_of,
    sentence,
)
from steprule.lab.training import POINTS

pytestmark = pytest.mark.null

PLANS = tuple(
    StudyPlan(TaskSpec(name), (Method("sgd"), Method("adam")), budget, geometric(low, 1.0, 9), (0, 1), (100, 101, 102))
    for name, budget, low in (("digits-mlp", Budget(8), 1e-4), ("cancer-logreg", Budget(None, 400), 1e-3))
)
PACES = (Pace(0.01, 0.0, 0.0), Pace(0.005, 0.0, 0.0))
WHOLE = estimate(PLANS, PACES, 1)
SEED = "1 tuning seed instead of 2"


def test_an_estimate_counts_every_step_and_every_look():
    plan = PLANS[1]
    runs = 2 * (9 * 2 + 3)
    none, steps, looks = (estimate([plan], [pace], 2) for pace in (Pace(0, 0, 0), Pace(0.1, 9.9, 0), Pace(0, 0, 0.1)))
    assert steps - none == pytest.approx(runs * 400 * 0.1 / 2)
    assert looks - none == pytest.approx(runs * POINTS * 0.1 / 2)


def test_a_method_of_whole_passes_is_estimated_by_them():
    plan = StudyPlan(TaskSpec("digits-mlp"), (Method("gd"),), Budget(5), (0.1,), (0,), ())
    assert estimate([plan], [Pace(9.9, 0.1, 0)], 1) - estimate([plan], [Pace(9.9, 0, 0)], 1) == pytest.approx(0.5)


def test_nothing_is_given_up_where_there_is_time():
    assert fitted(PLANS, PACES, 1, 2 * WHOLE) == (PLANS, [])


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.9, [SEED]),
        (0.7, [SEED, "8 learning rates instead of 9"]),
        (0.4, [SEED, "7 learning rates instead of 9", "runs of 62 to 66 % of their length"]),
        (0.2, [SEED, "5 learning rates instead of 9", "runs of 37 to 38 % of their length"]),
    ],
)
def test_tuning_seeds_go_first_then_some_learning_rates_then_length(share, words):
    plans, told = fitted(PLANS, PACES, 1, share * WHOLE)
    assert told == words
    assert estimate(plans, PACES, 1) <= share * WHOLE
    for plan, before in zip(plans, PLANS, strict=True):
        assert (plan.methods, plan.report_seeds) == (before.methods, before.report_seeds)
        assert (plan.grid[0], plan.grid[-1]) == (before.grid[0], before.grid[-1])
    assert len({len(plan.grid) for plan in plans}) == len({plan.tuning_seeds for plan in plans}) == 1


def test_where_no_time_is_enough_the_least_that_is_a_comparison_remains():
    plans, told = fitted(PLANS, PACES, 1, 1e-9)
    assert told[-1] == f"runs of {100 * SHORTEST:.0f} to 12 % of their length"  # an epoch is not divided
    assert [(len(plan.grid), plan.tuning_seeds) for plan in plans] == [(FEWEST_RATES, (0,))] * 2
    assert [plan.budget for plan in plans] == [Budget(1), Budget(None, 20)]


def test_it_is_said_where_no_plan_fits():
    assert "though that takes longer than 1s, before" in sentence("1s", [], late=True)
    assert sentence("1s", ["a", "b"], late=False).endswith(
        "fitted to 1s before it began, alike for every method: a, b."
    )


def test_processes_that_join_take_the_plans_from_the_first():
    plans, told = fitted(PLANS, PACES, 1, 0.3 * WHOLE)
    assert fit_from_record(PLANS, fit_as_record(plans, told)) == (plans, tuple(told))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1.5h", 5400), (" 2 m ", 120), ("0s", None), ("5", None), ("-1m", None), ("m", None)],
)
def test_a_time_is_a_number_and_its_unit(text, seconds):
    assert seconds_of(text) == seconds
