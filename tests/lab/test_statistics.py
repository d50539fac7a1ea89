import math
import re
from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from steprule.lab.budget import Budget
from steprule.lab.methods import Method
from steprule.lab.protocol import ChosenRate, Study, StudyPlan
from steprule.lab.runs import RunResult, RunSpec
from steprule.lab.statistics import Interval, compare, compared, interval, leaders, scores, verdict, winner
from steprule.lab.tasks import TaskSpec
from steprule.lab.training import train

pytestmark = pytest.mark.null

SEEDS = tuple(range(100, 105))


def study(seeds=SEEDS, **scores):
    """A study whose methods have these test scores, a seed at a time; none is a run that diverged."""
    methods = tuple(map(Method, scores))
    plan = StudyPlan(TaskSpec(), methods, Budget(), (0.1,), (), seeds)
    done = Study(plan, plan.grid, fixed_lr=0.1)
    for method, values in zip(methods, scores.values(), strict=True):
        for seed, score in zip(seeds, values, strict=False):
            status = "diverged" if score is None else "finished"
            done.add([RunResult(RunSpec(plan.task, method, 0.1, seed, plan.budget), status, test_score=score)])
    return done


def test_the_interval_holds_the_median_and_stays_within_the_values():
    values = [0.91, 0.95, 0.94, 0.97, 0.93]
    found = interval(values)
    assert found.middle == 0.94
    assert min(values) <= found.low < found.middle < found.high <= max(values)
    assert interval(values) == found


def test_equal_values_are_their_own_interval_and_no_value_has_none():
    assert interval([0.9]) == Interval(0.9, 0.9, 0.9)
    assert interval([0.9, 0.9, 0.9]) == Interval(0.9, 0.9, 0.9)
    assert interval([]) is None


def test_a_method_better_than_every_other_wins():
    done = study(sgd=(0.9, 0.88, 0.92, 0.9, 0.91), adam=(0.96, 0.95, 0.97, 0.96, 0.95))
    assert winner(done) == "adam"
    assert verdict(done).startswith("adam is best")
    (pair,) = compared(done)
    assert (pair.a, pair.b, pair.phase, pair.verdict) == ("sgd", "adam", "report", "worse")
    assert pair.difference.high < 0


def test_no_winner_is_named_where_two_cannot_be_told_apart():
    done = study(gd=(0.7, 0.6, 0.8, 0.7, 0.7), sgd=(0.96, 0.9, 0.955, 0.97, 0.94), adam=(0.95, 0.97, 0.95, 0.96, 0.98))
    assert winner(done) is None
    assert leaders(done) == ["adam", "sgd"]
    assert verdict(done) == "No winner is named: adam has the best median, but cannot be told from sgd."


def test_no_winner_is_named_before_every_method_has_been_scored():
    good = (0.96, 0.95, 0.97, 0.96, 0.95)
    done = study(sgd=(0.9, 0.88, 0.92, 0.9, 0.91), adam=good, gd=good[:4])
    assert winner(done) is None
    assert verdict(done) == "No winner is named: not every method has been run on every fresh seed."


def test_equal_medians_are_shared():
    even = {"sgd": (0.7, 0.8, 0.9, 0.9, 0.9), "adam": (0.9, 0.9, 0.9, 0.8, 0.9), "gd": (0.9,) * 5}
    shared = "No winner is named: sgd, adam and gd share the best median"
    assert verdict(study(**even)) == f"{shared}."
    near = study(**even, momentum=(0.8, 0.8, 0.8, 0.9, 0.9))
    assert verdict(near).startswith("No winner is named: sgd, adam and gd share the best median, but cannot be told")


def test_who_shares_the_best_median_is_not_tied_with_whom_the_matrix_tells_from_it():
    """Of two that share the best median, one is better than a third, and the other cannot be told from it."""
    done = study(sgd=(0.9, 0.91, 0.9, 0.89, 0.9), adam=(0.9, 0.7, 0.95, 0.6, 0.92), gd=(0.8, 0.81, 0.8, 0.79, 0.8))
    assert [pair.verdict for pair in compared(done)] == ["indistinguishable", "better", "indistinguishable"]
    assert verdict(done) == ("No winner is named: sgd and adam share the best median; gd cannot be told from adam.")


def test_every_sentence_holds_for_every_method_that_it_names():
    """Drawn studies: what the sentence says of pairs is what the pairs say, and nothing is left out."""
    names, forms = ("sgd", "adam", "gd", "momentum", "lion"), set()
    for trial in range(60):
        draw = np.random.default_rng(trial)
        near = draw.integers(0, 4, 5)[:, None] + draw.integers(0, 3, (5, 5)) * draw.integers(0, 2, (5, 1))
        done = study(**{name: tuple(map(float, row)) for name, row in zip(names, near, strict=True)})
        told, said = verdict(done), {}
        beats = {(pair.a, pair.b) for pair in compared(done) if pair.verdict == "better"}
        beats |= {(pair.b, pair.a) for pair in compared(done) if pair.verdict == "worse"}
        best = max(median(values.tolist()) for values in near)
        level = {name for name, row in zip(names, near, strict=True) if median(row.tolist()) == best}
        if found := re.fullmatch(r"(\w+) is best .*", told):
            forms.add("best")
            assert {(found[1], other) for other in names if other != found[1]} <= beats
            continue
        parts = re.fullmatch(r"No winner is named: (.+?) (?:has|share) the best median(.*)\.", told)
        assert set(re.split(", | and ", parts[1])) == level
        for part in re.split("; ", parts[2]):
            if pair := re.fullmatch(r"(?:, but |(.+) )cannot be told from (.+)", part):
                forms.add("each" if pair[1] else "all")
                others, whom = (pair[1], pair[2]) if pair[1] else (pair[2], parts[1])
                said |= {one: set(re.split(", | and ", whom)) for one in re.split(", | and ", others)}
        for other in set(names) - level:
            assert said.get(other, set()) == {one for one in level if (one, other) not in beats}
    assert forms == {"best", "each", "all"}


def test_where_hardly_anything_finished_nobody_has_the_best_median():
    done = study(sgd=(None, None, None, 0.9, 0.9), adam=(None,) * 5)
    assert verdict(done) == "No winner is named: no method finished most of its runs on fresh seeds."


def test_the_best_is_better_than_those_that_were_scored_and_no_more_is_claimed():
    done = study(sgd=(0.9, 0.88, 0.92, 0.9, 0.91), adam=(0.96, 0.95, 0.97, 0.96, 0.95), gd=())
    done.fixed_lr = None  # gd has no learning rate that finished, so that nothing of it is still to come
    done.choice = lambda method: ChosenRate(None if method.name == "gd" else 0.1, None)
    assert verdict(done).startswith("adam is best on test data: better than every other method that was scored, ")


def test_the_pairing_by_seed_decides_and_not_the_order_in_which_runs_come():
    """The same scores, paired rightly, tell two methods apart; in the order of their coming they would not."""
    ours = {100: 0.80, 101: 0.82, 102: 0.84, 103: 0.86, 104: 0.88}
    theirs = {seed: score - 0.1 for seed, score in ours.items()}
    done = study(sgd=(), adam=())
    sgd, adam = done.plan.methods
    order = list(ours)
    for method, scores_, seeds in ((sgd, ours, order), (adam, theirs, order[::-1])):
        for seed in seeds:
            spec = RunSpec(done.plan.task, method, 0.1, seed, done.plan.budget)
            done.add([RunResult(spec, "finished", test_score=scores_[seed])])
    (pair,) = compared(done)
    assert pair.verdict == "better"
    assert pair.difference == Interval(*[pytest.approx(0.1)] * 3)
    mixed = [theirs[seed] for seed in order[::-1]]
    assert compare(list(ours.values()), mixed, higher=True)[0].low < 0.05


def test_a_diverged_run_counts_as_the_worst_though_it_was_scored():
    """It may have a test score, even the best one: what it was scored at is no score of a run that finished."""
    high = study(sgd=(0.9, 0.91, 0.9, 0.92, 0.9), adam=(0.5, 0.51, 0.5, 0.52, 0.5))
    sgd = high.plan.methods[0]
    for spec, run in list(high._done.items()):
        if spec.method == sgd:
            high._done[spec] = replace(run, status="diverged", test_score=0.99)
    assert winner(high) == "adam"
    assert set(scores(high, sgd).values()) == {-math.inf}
    high._done = {spec: replace(run, test_score=math.nan) for spec, run in high._done.items()}
    assert set(scores(high, high.plan.methods[1]).values()) == {-math.inf}


def test_a_verdict_needs_both_disjoint_intervals_and_a_difference_that_is_none():
    """Each condition alone does not tell two methods apart."""
    paired = [0.5, 0.6, 0.7, 0.8, 0.9]
    difference, told = compare(paired, [score - 0.05 for score in paired], higher=True)
    assert difference.low > 0
    assert told == "indistinguishable"  # the intervals overlap
    assert compare([0.9] * 5, [0.8] * 5, higher=True)[1] == "better"
    assert compare([0.9] * 4, [0.8] * 4, higher=True)[1] == "indistinguishable"
    assert compare([0.9] * 5, [0.9] * 5, higher=True)[1] == "indistinguishable"


def test_an_interval_is_the_bootstrap_of_the_median_at_95_percent():
    values = [float(value) for value in range(1, 12)]
    found = interval(values)
    draws = np.random.default_rng(1).choice(values, (20_000, 11))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    assert (found.low, found.middle, found.high) == (pytest.approx(low, abs=1), 6.0, pytest.approx(high, abs=1))


def test_a_diverged_run_is_the_worst_score_there_is():
    done = study(sgd=(None,) * 5, adam=(0.1, 0.11, 0.1, 0.09, 0.1))
    assert winner(done) == "adam"
    assert math.isfinite(compared(done)[0].difference.middle)
    assert compare([math.inf] * 5, [math.inf] * 5, higher=False)[1] == "indistinguishable"


def test_less_is_better_where_the_metric_says_so():
    low, high = [0.1, 0.2, 0.15, 0.12, 0.18], [1.1, 1.2, 1.15, 1.12, 1.18]
    assert compare(low, high, higher=False)[1] == "better"
    assert compare(low, high, higher=True)[1] == "worse"


def test_too_few_seeds_name_no_winner():
    done = study(seeds=(100, 101, 102, 103), sgd=(0.9,) * 4, adam=(0.96,) * 4)
    assert winner(done) is None
    assert "fewer than 5 fresh seeds" in verdict(done)


def test_one_method_alone_is_not_compared():
    done = study(adam=(0.96, 0.95, 0.97, 0.9, 0.9))
    assert winner(done) is None
    assert verdict(done).startswith("Nothing to compare")


@pytest.mark.parametrize("noise", ["normal", "skewed", "paired"])
def test_equal_methods_under_two_names_are_indistinguishable_95_times_in_100(noise):
    """What differs is chance alone: scores of independent seeds, or of the same seeds with noise of their own."""
    same = 0
    for trial in range(100):
        draw = np.random.default_rng(trial)
        shared = draw.normal(size=5) if noise == "paired" else np.zeros(5)
        made = draw.exponential if noise == "skewed" else draw.normal
        a, b = (list(0.95 + 0.01 * (shared + made(size=5))) for _ in range(2))
        same += compare(a, b, higher=True)[1] == "indistinguishable"
    assert same >= 95


def test_a_handicapped_method_is_found_worse_every_time():
    for trial in range(100):
        draw = np.random.default_rng(trial)
        a, b = (list(middle + 0.01 * draw.normal(size=5)) for middle in (0.8, 0.95))
        assert compare(a, b, higher=True)[1] == "worse"


@pytest.mark.cpu
def test_real_training_tells_a_handicap_and_nothing_else():
    """A real pool of runs, drawn from 20 ways: the same optimiser twice, and one at a hundredth of its rate."""
    task, budget = TaskSpec("cancer-logreg"), Budget(None, 40)

    def trained(lr, seeds):
        return [train(RunSpec(task, Method("sgd"), lr, seed, budget)).test_loss for seed in seeds]

    pool, slow = trained(0.3, range(24)), trained(0.003, range(5))
    assert compare(pool[:5], trained(0.3, range(5)), higher=False)[1] == "indistinguishable"
    told = []
    for trial in range(20):
        draw = np.random.default_rng(trial).permutation(24)
        a, b = [pool[i] for i in draw[:5]], [pool[i] for i in draw[5:10]]
        told.append(compare(a, b, higher=False)[1])
        assert compare(slow, a, higher=False)[1] == "worse"
    assert told.count("indistinguishable") >= 19


def test_a_seed_that_only_one_method_has_is_left_out():
    done = study(sgd=(0.9,) * 5, adam=(0.96,) * 5)
    extra = RunSpec(done.plan.task, Method("adam"), 0.1, 999, done.plan.budget)
    done.add([RunResult(replace(extra), "finished", test_score=0.1)])
    assert compared(done)[0].difference.middle == pytest.approx(-0.06)
