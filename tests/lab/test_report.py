import math
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from steprule.lab import charts, svg
from steprule.lab.budget import Budget
from steprule.lab.methods import Method
from steprule.lab.optimizers import TITLES
from steprule.lab.protocol import Plan, Study
from steprule.lab.report import page
from steprule.lab.results import Setting, rows
from steprule.lab.runs import Point, RunResult, RunSpec
from steprule.lab.tasks import TaskSpec

pytestmark = pytest.mark.cpu

VOID = {"meta", "img", "br", "input", "link"}


class Reader(HTMLParser):
    """Collects ids, references and unclosed elements."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.loads, self.open, self.wrong, self.roles = Counter(), [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids.update([values["id"]] if "id" in values else [])
        self.loads += [values[name] for name in ("src", "href", "xlink:href", "action") if name in values]
        self.roles += [values] if tag == "svg" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def pretend(status="finished", reason="", names=("sgd", "adam"), lrs=(0.1, 1.0)):
    """A study without training: every run has the same straight curve."""
    methods = tuple(Method(name) for name in names)
    study = Study(Plan(TaskSpec(hidden=(4,)), methods, Budget(), lrs, (0,), (100, 101)), lrs)
    value = 1.0 if status == "finished" else math.inf
    curve = tuple(Point(step, step / 10, 32 * step, 0.1, 0.1, value, value, 0.5) for step in range(3))
    for method in methods:
        for lr in lrs:
            spec = RunSpec(study.plan.task, method, lr, 0, study.plan.budget, "tuning")
            study.runs.append(RunResult(spec, status, reason, curve if status != "failed" else ()))
    return study


def report(study, command="steprule compare"):
    return page(study, rows(study), Setting(command, 2, "now", 1.0))


def test_the_report_loads_nothing_from_anywhere(small_study):
    reader = Reader(small_study.report)
    assert all(load.startswith(("#", "data:")) for load in reader.loads)
    assert not re.search(r"https?://(?!www\.w3\.org)", small_study.report)
    assert "@import" not in small_study.report
    assert "<script" not in small_study.report


def test_the_page_is_well_formed_and_every_id_is_unique_and_every_reference_is_met(small_study):
    reader = Reader(small_study.report)
    assert reader.wrong == []
    assert reader.open == []
    assert [name for name, count in reader.ids.items() if count > 1] == []
    wanted = set(re.findall(r"url\(#([^)]+)\)", small_study.report))
    wanted |= {load[1:] for load in reader.loads if load.startswith("#")}
    wanted |= {name for values in reader.roles for name in values["aria-labelledby"].split()}
    assert wanted
    assert wanted <= set(reader.ids)


def test_every_figure_is_named_and_described(small_study):
    reader = Reader(small_study.report)
    # Four views, the scores, the sensitivity, and for each of three methods a formula and two charts.
    assert len(reader.roles) == 6 + 3 * 3
    assert all(values["role"] == "img" for values in reader.roles)
    assert small_study.report.count("<desc ") == len(reader.roles)


def test_the_report_shows_each_methods_formula_and_numbers(small_study):
    for row in small_study.results["optimizers"]:
        assert f'<code class="name">{row["name"]}</code>' in small_study.report
        assert f"{100 * row['test_accuracy']['median']:.1f} %" in small_study.report
    assert small_study.report.count('<div class="formula"><svg') == 3
    assert "gd takes one full-batch iteration an epoch" in small_study.report
    assert "A run has diverged when" in small_study.report


@pytest.mark.hostile("L4")
def test_foreign_text_is_escaped():
    text = report(pretend("failed", "Boom: <script>alert(1)</script>"), command="steprule <b>&")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "steprule &lt;b&gt;&amp;" in text


@pytest.mark.parametrize("status", ["finished", "diverged", "failed"])
def test_a_report_is_made_whatever_became_of_the_runs(status):
    text = report(pretend(status, "for a test"))
    assert Reader(text).wrong == []
    assert ("No learning rate of the grid let sgd, adam finish" in text) == (status == "diverged")
    assert ("4 runs failed: for a test" in text) == (status == "failed")


def test_a_report_of_no_run_at_all_is_made():
    study = pretend()
    study.runs.clear()
    study.interrupted = True
    assert "Interrupted" in report(study)


def test_every_board_formula_can_be_typeset():
    for name in TITLES:
        account = Method(name).explain()
        drawn = svg.formula(account.equations, name, account.formula)
        assert drawn.startswith("<svg")
        assert drawn.count("<title") == 1


def test_every_method_has_a_colour_that_can_be_read_on_white():
    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert svg.METHOD_COLOURS.keys() == TITLES.keys()
    for colour in svg.METHOD_COLOURS.values():
        assert 1.05 / (luminance(colour) + 0.05) > 3


def test_labels_are_spread_apart_and_keep_their_order():
    wanted = [0.5, 0.1, 0.52, 0.51, 0.9]
    placed = charts.spread(wanted, 0.1)
    order = sorted(range(5), key=lambda place: wanted[place])
    heights = [placed[place] for place in order]
    assert heights == sorted(heights)
    assert min(b - a for a, b in pairwise(heights)) > 0.0999


def test_the_band_of_a_run_that_stopped_early_has_a_gap_only_where_half_are_lost():
    def run(*losses):
        spec = RunSpec(TaskSpec(), Method("sgd"), 0.1, 0, Budget())
        return RunResult(
            spec, "finished", curve=tuple(Point(i, i, i, 0.1, 0.1, v, v, 0.5) for i, v in enumerate(losses))
        )

    drawn = charts.band([run(3.0, 2.0, 1.0), run(5.0, 4.0), run(4.0)], charts.VIEWS[0])
    assert drawn.middle[:2] == [4.0, 4.0]
    assert math.isnan(drawn.middle[2])
    assert (drawn.low[1], drawn.high[1]) == (2.0, 4.0)
