"""What is chosen and summed up, on runs that never took place, made so that every wrong way gives another answer."""

import math
from dataclasses import replace

import pytest

from steprule.lab.budget import Budget
from steprule.lab.methods import Method
from steprule.lab.protocol import Comparison, Study, StudyPlan, report_specs, tuning_specs
from steprule.lab.report.shape import check
from steprule.lab.results import Provenance, document
from steprule.lab.runs import Point, RunResult, RunSpec, StepTimes
from steprule.lab.tasks import TaskSpec
from steprule.lab.tuning import best_after, told

pytestmark = pytest.mark.null

GRID = (0.01, 0.1, 1.0)


def study(*names, seeds=(0,), fresh=(100, 101, 102), **more):
    plan = StudyPlan(TaskSpec(), tuple(map(Method, names)), Budget(), GRID, seeds, fresh, **more)
    return Study(plan, GRID)


def run(spec, validation, training=1.0, status="finished", **ends):
    """A run whose validation loss went through a dip before it ended."""
    losses = (3.0, validation / 10, validation)
    points = [
        Point(10 * at, float(at), 320 * at, 0.5 * at, 0.1, training, loss, 0.3 * at) for at, loss in enumerate(losses)
    ]
    return RunResult(spec, status, "", tuple(points), 3.0, training, **ends)


def tuned(done, losses, status=lambda spec: "finished", training=lambda spec: 1.0):
    """Tune with the losses that a function of method, rate and seed says."""
    for spec in tuning_specs(done.plan, done.grid):
        loss = losses(spec.method.name, spec.lr, spec.seed)
        if loss is not None:
            done.add([run(spec, loss, training(spec), status(spec))])
    return [done.choice(method).lr for method in done.plan.methods]


def test_a_rate_outside_the_cut_is_not_kept_however_good_it_was():
    done = study("sgd", "adam")
    table = {("adam", 0.1): None}  # the time was up before adam came to the rate that is best for sgd
    kept = tuned(done, lambda name, lr, seed: table.get((name, lr), {0.01: 0.5, 0.1: 0.1, 1.0: 0.9}[lr]))
    assert kept == [0.1, 0.01]
    assert done.complete_rates() == (0.01, 1.0)
    done.cut_short(done.complete_rates())
    assert [done.choice(method).lr for method in done.plan.methods] == [0.01, 0.01]
    assert [done.choice(method).edge for method in done.plan.methods] == ["low", "low"]
    assert {spec.lr for spec in report_specs(done)} == {0.01}
    assert done.wanted() == report_specs(done)  # and the grid grows no more


def test_a_rate_is_complete_when_every_method_has_tried_it_on_every_seed():
    done = study("sgd", "adam", seeds=(0, 1))
    tuned(done, lambda name, lr, seed: None if (name, lr, seed) == ("sgd", 0.1, 1) else 1.0)
    assert done.complete_rates() == (0.01, 1.0)


def test_the_mean_over_the_seeds_decides_and_neither_the_best_nor_the_middle_one():
    losses = {0.01: (1.8, 1.8, 1.8), 0.1: (1.0, 1.0, 4.0), 1.0: (2.5, 2.5, 2.5)}
    assert tuned(study("sgd", seeds=(0, 1, 2)), lambda _, lr, seed: losses[lr][seed]) == [0.01]


def test_the_validation_loss_at_the_end_decides_and_not_that_of_training_or_the_best_on_the_way():
    def training(spec):
        return {0.01: 0.1, 0.1: 0.5, 1.0: 0.9}[spec.lr]

    done = study("sgd")
    assert tuned(done, lambda _, lr, __: {0.01: 0.9, 0.1: 0.3, 1.0: 0.6}[lr], training=training) == [0.1]
    assert done.choice(done.plan.methods[0]).validation_loss == 0.3


@pytest.mark.parametrize("status", ["diverged", "failed", "interrupted"])
def test_a_run_that_did_not_finish_lends_its_rate_no_loss_though_it_has_one(status):
    best = {"finished": 0.1, status: 0.01}
    kept = tuned(
        study("sgd"),
        lambda _, lr, __: {0.01: 0.1, 0.1: 0.3, 1.0: 0.6}[lr],
        lambda spec: status if spec.lr == best[status] else "finished",
    )
    assert kept == [best["finished"]]


def test_what_was_done_at_default_rates_and_on_fresh_seeds_decides_nothing():
    done = study("adamw", defaults=True)
    assert tuned(done, lambda _, lr, __: {0.01: 0.5, 0.1: 0.3, 1.0: 0.6}[lr]) == [0.1]
    (method,) = done.plan.methods
    for phase, lr in (("default", 0.001), ("report", 1.0)):
        done.add([run(RunSpec(done.plan.task, method, lr, 100, done.plan.budget, phase), 0.0)])
    assert done.choice(method).lr == 0.1
    assert [lr for lr, _ in done.sensitivity(method)] == list(GRID)


def test_the_first_result_of_a_run_counts():
    done = study("sgd")
    spec = tuning_specs(done.plan, GRID)[0]
    done.add([run(spec, 0.5), run(spec, 0.1)])
    assert [one.validation_loss for one in done.runs] == [0.5]


def summed(*runs, fresh=range(100, 105)):
    """Return what a document says of the tuned runs of one method."""
    done = study("sgd", fresh=tuple(fresh), target=0.5)
    tuned(done, lambda _, lr, __: {0.01: 0.5, 0.1: 0.3, 1.0: 0.6}[lr])
    for spec, one in zip(report_specs(done), runs, strict=True):
        done.add([replace(one, spec=spec)])
    made = document(Comparison((done,)), Provenance("steprule compare", 1, "now", git=None))
    check(made)
    (row,) = made["results"]
    assert row["lr"] == 0.1
    return row["tuned"]


def fresh(validation, score, *, reached=2, status="finished", us=5.0):
    made = run(None, validation, status=status, test_score=score, optimizer_us_per_step=us)
    curve = [replace(point, score=0.9 if place >= reached else 0.1) for place, point in enumerate(made.curve)]
    return replace(made, curve=tuple(curve), step_spread=StepTimes(us - 1, us + 3, 40))


def test_a_summary_is_of_the_runs_on_fresh_seeds_and_counts_a_miss_as_infinite():
    found = summed(
        fresh(0.2, 0.9, reached=1, us=5.0),
        fresh(0.3, 0.8, reached=2, us=6.0),
        fresh(0.4, 0.7, reached=9, us=70.0),
        fresh(0.6, 0.6, reached=2, us=7.0),
        fresh(9.9, 0.5, reached=9, status="diverged", us=8.0),
    )
    assert found["validation_loss"] == 0.4
    assert found["test_score"]["middle"] == 0.7
    assert found["to_target"] == {"iterations": 20, "epochs": 2.0, "examples": 640, "seconds": 1.0}
    assert (found["reached_target"], found["runs"], found["diverged"], found["failed"]) == (3, 5, 1, 0)
    assert found["optimizer_us_per_step"] == 7.0
    assert found["step_spread"] == {"low": 6.0, "high": 10.0, "steps": 200}


def test_a_target_that_half_of_the_runs_missed_has_no_median():
    runs = [
        fresh(0.2, 0.9, reached=1),
        fresh(0.2, 0.9, reached=1),
        fresh(0.2, 0.9, reached=9),
        fresh(0.2, 0.9, reached=9),
    ]
    found = summed(*runs, fresh=range(100, 104))
    assert found["to_target"] is None
    assert found["reached_target"] == 2


def test_a_failed_run_neither_met_nor_missed_the_target_and_a_median_of_lost_runs_is_none():
    lost = RunResult(None, "failed", "no such thing")
    found = summed(
        fresh(0.2, 0.9, reached=1), fresh(0.3, 0.8, reached=2), lost, lost, fresh(0.4, 0.7, status="diverged")
    )
    assert found["to_target"]["iterations"] == 20
    assert found["validation_loss"] is None
    assert found["failed"] == 2


def test_the_best_after_so_many_trials_is_the_best_of_the_first_ones():
    losses = [5.0, None, 3.0, 4.0, 1.0, 2.0]
    found = best_after([{"loss": loss} for loss in losses])
    assert found == [
        {"trials": 1, "loss": 5.0},
        {"trials": 2, "loss": 5.0},
        {"trials": 5, "loss": 1.0},
        {"trials": 6, "loss": 1.0},
    ]
    assert best_after([{"loss": None}]) == [{"trials": 1, "loss": None}]
    assert told([]) == []
    assert math.isinf(RunResult(None, "diverged", curve=run(None, 0.1).curve).validation_loss)


@pytest.mark.parametrize(("grow", "grid"), [(True, (0.001, *GRID)), (False, GRID)])
def test_the_protocol_says_that_the_grid_grows_only_where_it_does(grow, grid):
    done = study("sgd", extend=grow)
    while wanted := [spec for spec in done.wanted() if spec.phase == "tuning"]:
        done.add([run(spec, 0.1 + abs(math.log10(spec.lr) + 2)) for spec in wanted])
    assert done.grid == grid
    text = " ".join(
        document(Comparison((done,)), Provenance("steprule compare", 1, "now", git=None))["protocol"]["text"]
    )
    assert ("the grid grows there" in text) == grow
    assert "Intervals are 95 %" in text
    lone = Study(replace(done.plan, report_seeds=(100,)), GRID, fixed_lr=0.1)
    said = document(Comparison((lone,)), Provenance("steprule train", 1, "now", git=None))["protocol"]["text"]
    assert "Intervals" not in " ".join(said)
