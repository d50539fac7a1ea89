import math

import pytest

from steprule.lab.budget import Budget
from steprule.lab.methods import Method
from steprule.lab.protocol import Comparison, Study, StudyPlan, geometric, spread
from steprule.lab.runs import Point, RunResult
from steprule.lab.tasks import TaskSpec

pytestmark = pytest.mark.null

GRID = (0.01, 0.1, 1.0)


def study(*names, grid=GRID, extend=True, tuning_seeds=(0,), report_seeds=(100, 101)):
    methods = tuple(Method(name) for name in names)
    return Study(StudyPlan(TaskSpec(), methods, Budget(), grid, tuning_seeds, report_seeds, extend=extend), grid)


def pretend(loss_of):
    """Do no run, but give each the validation loss that a function of the spec says."""

    def do(specs):
        for spec in specs:
            loss = loss_of(spec)
            status = "finished" if math.isfinite(loss) else "diverged"
            yield RunResult(spec, status, curve=(Point(1, 1.0, 32, 0.1, 0.1, loss, loss, 0.5),), test_score=0.5)

    return do


def conduct(study, do):
    while wanted := study.wanted():
        study.add(do(wanted))


def valley(spec, at):
    return 0.1 + abs(math.log10(spec.lr) - math.log10(at))


def test_the_grid_is_geometric_and_ends_where_it_was_told():
    assert geometric(1e-4, 10, 11)[::2] == (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
    assert geometric(0.3, 5, 1) == (0.3,)


def test_the_lowest_validation_loss_is_kept_and_run_on_fresh_seeds():
    done = study("sgd", "adam")
    conduct(done, pretend(lambda spec: valley(spec, at=0.1)))
    for method in done.plan.methods:
        assert done.choice(method).lr == 0.1
        assert [(run.spec.lr, run.spec.seed) for run in done.report_runs(method)] == [(0.1, 100), (0.1, 101)]
    assert done.grid == GRID


def test_a_best_at_an_end_widens_the_grid_for_every_method():
    done = study("sgd", "adam")
    conduct(done, pretend(lambda spec: valley(spec, at=0.1 if spec.method.name == "sgd" else 0.001)))
    assert done.grid == (1e-4, 1e-3, *GRID)
    trials = [[run.spec.lr for run in done.tuning_runs(method)] for method in done.plan.methods]
    assert trials[0] == trials[1] == list(done.grid)
    assert [done.choice(method).lr for method in done.plan.methods] == [0.1, 0.001]
    assert [done.choice(method).edge for method in done.plan.methods] == [None, None]


def test_the_grid_grows_at_most_twice_and_the_edge_is_told():
    done = study("sgd")
    conduct(done, pretend(lambda spec: valley(spec, at=1e9)))
    assert done.grid == (*GRID, 10.0, 100.0)
    assert done.choice(done.plan.methods[0]).edge == "high"


def test_no_extension_is_made_where_none_is_wanted():
    done = study("sgd", extend=False)
    conduct(done, pretend(lambda spec: valley(spec, at=1e9)))
    assert done.grid == GRID


def test_a_learning_rate_that_diverges_on_one_seed_is_not_kept():
    done = study("sgd", tuning_seeds=(0, 1), extend=False)
    conduct(done, pretend(lambda spec: math.inf if (spec.lr, spec.seed) == (0.1, 1) else spec.lr))
    assert done.sensitivity(done.plan.methods[0])[1] == (0.1, math.inf)
    assert done.choice(done.plan.methods[0]).lr < 0.1


def test_a_method_that_always_diverges_has_no_learning_rate_and_no_report_run():
    done = study("sgd", "adam")
    conduct(done, pretend(lambda spec: math.inf if spec.method.name == "sgd" else valley(spec, at=0.1)))
    lost, kept = done.plan.methods
    assert done.choice(lost).lr is None
    assert not done.report_runs(lost)
    assert len(done.report_runs(kept)) == 2


def test_an_interruption_loses_no_finished_run():
    def breaks_off(specs):
        yield from pretend(lambda spec: 1.0)(list(specs)[:2])
        raise KeyboardInterrupt

    broken = study("sgd")
    with pytest.raises(KeyboardInterrupt):
        conduct(broken, breaks_off)
    assert len(broken.runs) == 2


def test_what_is_wanted_follows_from_the_results_alone():
    done, again = study("sgd", "adam"), study("sgd", "adam")
    conduct(done, pretend(lambda spec: valley(spec, at=1e9)))
    runs = {run.spec: run for run in done.runs}
    while wanted := again.wanted():
        again.add([runs[wanted[-1]]])
    assert again.grid == done.grid
    assert {run.spec for run in again.runs} == runs.keys()


def test_time_that_runs_out_keeps_the_complete_learning_rates():
    cut = study("sgd", "adam")
    cut.add(pretend(lambda spec: valley(spec, at=0.01))(cut.wanted()[:5]))
    assert cut.complete_rates() == (0.01, 1.0)
    cut.cut_short(cut.complete_rates())
    assert {spec.phase for spec in cut.wanted()} == {"report"}
    assert [cut.choice(method).lr for method in cut.plan.methods] == [0.01, 0.01]


def test_every_beginning_of_the_order_covers_the_range():
    assert spread((1, 2, 3, 4, 5)) == (1, 5, 3, 2, 4)
    assert sorted(spread(range(9))) == list(range(9))


def test_defaults_are_run_on_the_fresh_seeds_where_there_are_any():
    plan = StudyPlan(TaskSpec(), (Method("sgd"), Method("adamw")), Budget(), GRID, (0,), (100, 101), defaults=True)
    done = Study(plan, GRID)
    conduct(done, pretend(lambda spec: valley(spec, at=0.1)))
    assert [run.spec.seed for run in done.default_runs(plan.methods[1])] == [100, 101]
    assert {run.spec.lr for run in done.default_runs(plan.methods[1])} == {plan.methods[1].default_lr}


def test_tasks_take_turns_and_are_all_tuned_before_any_is_scored():
    tasks = (TaskSpec(), TaskSpec("cancer-logreg"), TaskSpec("quadratic"))
    plans = [
        StudyPlan(task, (Method("sgd"), Method("adam")), Budget(), GRID, (0,), (100,), defaults=True) for task in tasks
    ]
    comparison = Comparison(tuple(Study(plan, plan.grid) for plan in plans))
    done = []
    while wanted := comparison.wanted():
        assert [spec.phase != "tuning" for spec in wanted] == sorted(spec.phase != "tuning" for spec in wanted)
        comparison.add(pretend(lambda spec: valley(spec, at=0.1))(wanted[:1]))
        done.append(wanted[0])
        counts = [sum(spec.task == task for spec in done) for task in tasks]
        assert max(counts) - min(counts) <= 1
    assert len({spec.lr for spec in done[:6]}) == 1
