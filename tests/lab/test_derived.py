"""What a report says of a record: sentences and tables that hold for all they speak of, and no other numbers."""

import dataclasses
import io

import pytest
import synthetic
from rich.console import Console

from steprule.lab.report import charts, tables, terminal, words
from steprule.lab.report.derive import chapters, quantities, sensitivity
from steprule.lab.report.page import page
from steprule.lab.report.shape import check
from steprule.lab.training import _microseconds

pytestmark = pytest.mark.null


def only(made, kept):
    """The document with these optimisers alone."""
    made["optimizers"] = [row for row in made["optimizers"] if row["key"] in kept]
    made["results"] = [row for row in made["results"] if row["optimizer"] in kept]
    made["comparisons"] = [pair for pair in made["comparisons"] if {pair["a"], pair["b"]} <= set(kept)]
    return made


def said(made, width=200):
    out = io.StringIO()
    terminal.show(Console(file=out, width=width), made)
    return " ".join(out.getvalue().split())


def test_a_lone_run_shows_no_interval_and_no_median():
    lone, several = synthetic.document(1, 1, seeds=1, lrs=1), synthetic.document(1, 1, seeds=5, lrs=1)
    for made, shown in ((lone, False), (several, True)):
        text = page(made)
        for words_ in ("[95 %]", "median over the seeds", "the bar is the interval", "The line is the median"):
            assert (words_ in text) == shown, words_
        assert ("[95 %]" in said(made)) == shown


def timed(made, **spreads):
    """The document with times of steps."""
    for row in made["results"]:
        low, middle, high, steps = spreads[row["optimizer"]]
        row["tuned"] |= {"optimizer_us_per_step": middle, "step_spread": {"low": low, "high": high, "steps": steps}}
    for row in made["optimizers"]:
        row["full_batch"] = row["key"] == "gd"
    check(made)
    return made


def test_a_step_of_a_whole_data_set_is_not_timed_beside_those_of_batches():
    gd, sgd, momentum = (39.0, 40.0, 44.0, 150), (9.0, 10.0, 12.0, 500), (19, 20, 22, 700)
    made = timed(synthetic.document(3, 1), gd=gd, sgd=sgd, momentum=momentum)
    (chapter,), told = chapters(made), said(made)
    times = {row[0]: row[1] for row in tables.costs(chapter).rows}
    assert times == {"gd": "–", "sgd": "10 [9.0 to 12], 500 steps", "momentum": "20 [19 to 22], 700 steps"}
    for words_ in (
        "µs a step: the median of the optimiser's step alone, its gradients in place while 2 runs went on at once; ",
        "of 500 to 700 steps an optimiser, the middle half spans at most 30 %.",
        "Not timed beside the others: gd, since a gradient of all the data leaves other things in the cache.",
    ):
        assert words_ in told
    alone = only(timed(synthetic.document(1, 1), gd=gd), {"gd"})
    assert tables.costs(chapters(alone)[0]).rows[0][1] == "40 [39 to 44], 150 steps"
    assert "Not timed" not in said(alone)


def test_a_record_that_says_less_of_times_is_read_as_before():
    made = synthetic.document(2, 1)
    assert "µs a step: the median" in said(made)
    assert "middle half" not in said(made)


def test_the_first_steps_are_not_timed_and_the_others_have_quartiles():
    found = _microseconds([10**9] * 10 + [1000 * number for number in range(1, 102)])
    assert found["optimizer_us_per_step"] == 51.0
    assert (found["step_spread"].low, found["step_spread"].high, found["step_spread"].steps) == (26.0, 76.0, 101)
    assert _microseconds([]) == {}
    assert _microseconds([5000])["step_spread"].steps == 1


# What the charts and tables are computed from: fixtures in which a wrong answer is another one -----------------------


def test_the_curve_of_a_rate_outside_the_cut_is_not_the_kept_ones():
    """A record whose best rate was tried by one optimiser only: the ring and the words follow the kept rate."""
    (chapter,) = chapters(synthetic.document(1, 1, seeds=2, lrs=5))
    (cell,) = chapter.cells
    rates = sensitivity(cell)
    best = min((rate for rate in rates if rate.loss is not None), key=lambda rate: rate.loss)
    other = next(rate for rate in rates if rate.loss is not None and rate.lr != best.lr)
    cell.result["lr"] = other.lr
    assert charts._told(cell).startswith(f"{cell.arm.key} is best at {words.rate(other.lr)}")


def test_the_rates_are_means_over_seeds_and_none_where_one_seed_was_lost():
    (chapter,) = chapters(synthetic.document(1, 1, seeds=1, lrs=2))
    (cell,) = chapter.cells
    first, second = (run for run in cell.result["runs"] if run["phase"] == "tuning")
    done = ((0.1, 0, 1.0, "finished"), (0.1, 1, 3.0, "finished"))
    losses = (*done, (0.2, 0, 0.5, "diverged"), (0.2, 1, 0.5, "finished"))
    cell.result["runs"] = [
        {**(first if lr == 0.1 else second), "lr": lr, "seed": seed, "validation_loss": loss, "status": status}
        for lr, seed, loss, status in losses[::-1]
    ]
    assert [(rate.lr, rate.loss, rate.lost) for rate in sensitivity(cell)] == [
        (0.1, 2.0, frozenset()),
        (0.2, None, frozenset({"diverged"})),
    ]


def test_a_target_is_met_at_the_first_point_and_from_the_right_side():
    (chapter,) = chapters(synthetic.document(1, 1, seeds=1, lrs=1))
    run = chapter.cells[0].runs("report")[0]
    run["curve"].update(score=[0.1, 0.9, 0.5, 0.95], epoch=[0.0, 1.0, 2.0, 3.0])
    task = chapter.task
    assert charts.met(run, {**task, "target": 0.9}) == 1.0
    assert charts.met(run, {**task, "target": 0.99}) is None
    less = {**task, "metric": {**task["metric"], "higher": False}}
    assert charts.met(run, {**less, "target": 0.5}) == 0.0
    assert charts.met(run, {**less, "target": 0.05}) is None
    run["curve"]["score"][1] = None
    assert charts.met(run, {**task, "target": 0.9}) == 3.0


def test_the_matrix_turns_a_difference_round_for_the_other_row():
    made = synthetic.document(2, 1)
    made["comparisons"][0].update(difference={"middle": -0.012, "low": -0.02, "high": -0.001}, verdict="worse")
    found = tables.matrix(made, chapters(made)[0])
    assert [row[1:] for row in found.rows] == [["", "▼ -1.2"], ["▲ +1.2", ""]]


def test_a_distance_to_the_least_loss_is_none_where_there_is_none():
    (chapter,) = chapters(synthetic.document(1, 1))
    task = {**chapter.task, "optimum": 1.0}
    distance = next(one for one in quantities(dataclasses.replace(chapter, task=task)) if one.name == "distance")
    run = {"curve": {"training_loss": [3.0, 1.0, 0.5, None]}}
    assert distance.of(run, task) == [2.0, None, None, None]
