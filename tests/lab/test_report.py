import csv
import hashlib
import io
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise

import pytest
import synthetic
from rich.console import Console

from steprule.lab.methods import Method
from steprule.lab.optimizers import TITLES
from steprule.lab.report import charts, svg, terminal, words
from steprule.lab.report.derive import after_trials, band, chapters, profile, quantities, sensitivity
from steprule.lab.report.export import curves_csv, runs_csv
from steprule.lab.report.page import page
from steprule.lab.report.shape import COLUMNS, check
from steprule.lab.report.style import COLOURS, Look

pytestmark = pytest.mark.cpu

VOID = {"meta", "img", "br", "input", "link", "line"}
UPLOT = {  # of the package uplot 1.6.32
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "LICENSE-uPlot": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
SHAPES = {
    "three": {},
    "one": {"optimizers": 1, "seeds": 1, "lrs": 1},
    "all diverged": {"status": "diverged"},
    "all failed": {"status": "failed"},
    "interrupted": {"interrupted": True, "seeds": 2},
}


class Reader(HTMLParser):
    """Collects ids, references, scripts and unclosed elements."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.loads, self.open, self.wrong, self.images, self.scripts = Counter(), [], [], [], [], []
        self.handlers, self.tables = [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids.update([values["id"]] if "id" in values else [])
        self.loads += [values[name] for name in ("src", "href", "xlink:href", "action") if name in values]
        self.images += [values] if tag in {"svg", "img"} and values.get("aria-hidden") != "true" else []
        self.handlers += [name for name in values if name.startswith("on")]
        self.tables += tag == "table"
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def large():
    """The page of twelve optimisers on two tasks."""
    return page(synthetic.document(12, 2))


def assert_well_formed(text):
    reader = Reader(text)
    assert reader.wrong == []
    assert reader.open == []
    assert [name for name, count in reader.ids.items() if count > 1] == []
    wanted = set(re.findall(r"url\(#([^)]+)\)", text)) | {load[1:] for load in reader.loads if load.startswith("#")}
    wanted |= {name for values in reader.images for name in values.get("aria-labelledby", "").split()}
    assert wanted <= set(reader.ids)
    assert all(load.startswith(("#", "data:image/png;base64,")) for load in reader.loads)
    assert all(values.get("alt") or values.get("aria-labelledby") for values in reader.images)
    assert reader.handlers == []
    # Two scripts of ours and the data; whatever else would run, the policy stops.
    assert len(reader.scripts) == 3
    return reader


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_page_is_made_whatever_became_of_the_runs(shape):
    made = synthetic.document(**shape)
    check(made)
    text = page(made)
    assert_well_formed(text)
    assert ("Interrupted" in text) == made["interrupted"]
    assert ("No learning rate of the grid let gd, sgd and momentum finish" in text) == (
        shape.get("status") in {"diverged", "failed"}
    )
    assert ("out of memory" in text) == (shape.get("status") == "failed")


def test_a_page_is_made_where_no_number_is_known():
    made = synthetic.unknown(synthetic.document(2))
    check(made)
    assert_well_formed(page(made))
    made["results"] = []
    assert_well_formed(page(made))


def test_the_page_holds_every_item_for_every_optimiser(large):
    reader = assert_well_formed(large)
    for place in range(12):
        assert large.count(f'data-arm="{place}"') == 2
        assert f'<code class="name">{synthetic.key(place)}</code>' in large
    for title in (
        "Overview",
        "The update rules",
        "How it was done",
        "Defaults against tuned",
        "Time and memory of the optimiser alone",
        "Row minus column",
        "Side by side",
        "Diverged runs",
        "Performance profile",
    ):
        assert title in large
    # A profile; five curves and four figures a task; eleven formulas; pictures.
    assert sum("aria-labelledby" in values for values in reader.images) == 1 + 2 * 9 + 11
    assert sum("alt" in values for values in reader.images) == 2 * 12 + 1
    assert large.count("<desc ") == 30
    assert all(name in large for name in ("examples seen", "gradient norm", "clip coefficient", "update-to-parameter"))


def test_every_chart_has_its_numbers_in_a_table(large):
    assert large.count("<summary>The numbers") == 1 + 2 * 9 + 2
    assert Reader(large).tables > 30


def test_a_convex_task_shows_the_distance_to_its_least_loss_and_theory():
    made = synthetic.document(1, 7, seeds=1, lrs=1)
    made["tasks"] = made["tasks"][-1:]
    made["results"] = made["results"][-1:]
    made["comparisons"] = []
    check(made)
    text = page(made)
    assert '<option value="distance">distance to the least loss</option>' in text
    data = json.loads(Reader(text).scripts[0])
    assert data["tasks"][0]["theory"][0]["label"] == "slow"


def test_the_policy_lets_only_the_pages_own_scripts_run(large):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', large)[1]
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    import base64

    for script in Reader(large).scripts[1:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert digest.replace("+", "&#43;") in policy or digest in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]
    assert not re.search(r"https?://(?!www\.w3\.org|github\.com/leeoniya/uPlot)", large)
    assert "@import" not in large


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&$x_{$"


def poison(value, kept=()):
    """The document with every text that is not a name of something replaced."""
    if isinstance(value, dict):
        return {key: inner if key in kept else poison(inner, kept) for key, inner in value.items()}
    if isinstance(value, list):
        return [poison(inner, kept) for inner in value]
    return EVIL if isinstance(value, str) else value


@pytest.mark.hostile("L4")
def test_foreign_text_is_escaped_wherever_it_stands():
    made = synthetic.document(2, 2, seeds=2, lrs=3)
    names = {"sgd": EVIL + "b", "gd": EVIL + "a", "digits": EVIL + "1", "digits-cnn": EVIL + "2"}
    kept = ("phase", "status", "png", "verdict", "lr_at_edge", "optimizer", "task", "a", "b", "key", "name")
    made = poison(made, kept)
    text = json.dumps(made)
    for name, evil in names.items():
        text = text.replace(f'"{name}"', json.dumps(evil))
    made = json.loads(text)
    made["tasks"][0]["reference"].append({"caption": EVIL, "png": None, "text": EVIL})
    made["optimizers"][1]["schedule"] = EVIL
    check(made)
    out = page(made)
    assert_well_formed(out)
    assert "<script>alert" not in out
    assert "<img src=x" not in out
    assert out.count("&lt;script&gt;alert(1)") > 20


def test_twelve_optimisers_differ_in_colour_and_dash_and_marker():
    looks = [Look(place) for place in range(40)]
    assert len({(look.light, look.dash) for look in looks}) == 40
    assert len({look.marker for look in looks[:12]}) == 12
    # Neighbours that lines of one colour could be taken for are told apart by the dash.
    assert all(len({look.dash for look in looks if look.light == light}) == 5 for light, _ in COLOURS)


@pytest.mark.parametrize(("ground", "which"), [("#fefefe", 0), ("#f4f6f8", 0), ("#12161d", 1), ("#1b212b", 1)])
def test_every_colour_can_be_read_on_its_ground(ground, which):
    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colours in COLOURS:
        light, dark = sorted((luminance(colours[which]), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, colours[which]


def test_every_board_formula_can_be_typeset():
    for name in TITLES:
        account = Method(name).explain()
        drawn = svg.formula(account.equations, name, account.formula)
        assert drawn.startswith("<svg")
        assert drawn.count("<title") == 1


@pytest.mark.parametrize("equation", [r"\frac{", "x" * 10_000, "$$", "{" * 300])
def test_a_formula_that_cannot_be_typeset_is_left_to_its_text(equation):
    assert svg.formula([equation], "f", "text") is None


def test_shortened_coordinates_keep_scales_and_what_is_read():
    drawn = svg._inline(
        '<svg x="123.456789"><g transform="scale(0.0146484)"><text>0.0012345</text></g></svg>', "n", "t", "d"
    )
    assert 'x="123.5"' in drawn
    assert "scale(0.01465)" in drawn
    assert ">0.0012345<" in drawn


def test_labels_are_spread_apart_and_keep_their_order():
    wanted = [0.5, 0.1, 0.52, 0.51, 0.9]
    placed = charts.spread(wanted, 0.1)
    order = sorted(range(5), key=lambda place: wanted[place])
    heights = [placed[place] for place in order]
    assert heights == sorted(heights)
    assert min(b - a for a, b in pairwise(heights)) > 0.0999


def test_the_band_of_a_run_that_stopped_early_has_a_gap_only_where_half_are_lost():
    def one(*losses):
        blank = {column: [None] * len(losses) for column in COLUMNS}
        return {"curve": {**blank, "iteration": list(range(len(losses))), "training_loss": list(losses)}}

    (chapter,) = chapters(synthetic.document(1))
    drawn = band([one(3.0, 2.0, 1.0), one(5.0, 4.0), one(4.0)], quantities(chapter)[0], "iteration", chapter.task)
    assert drawn.middle == [4.0, 4.0, None]
    assert (drawn.low[1], drawn.high[1]) == (2.0, 4.0)


def test_after_k_trials_is_the_median_over_every_order():
    from itertools import combinations
    from statistics import median_low

    (chapter,) = chapters(synthetic.document(1, lrs=6))
    (cell,) = chapter.cells
    losses = [math.inf if rate.loss is None else rate.loss for rate in sensitivity(cell)]
    for tried, row in enumerate(after_trials(cell), start=1):
        wanted = median_low([min(some) for some in combinations(losses, tried)])
        assert row[1] == (wanted if math.isfinite(wanted) else None)


def test_a_profile_counts_a_miss_as_infinite():
    made = synthetic.document(2, 2)
    for row, epochs in zip(made["results"], (2.0, 4.0, 3.0, None), strict=True):
        row["tuned"]["to_target"] = epochs and {**row["tuned"]["to_target"], "epochs": epochs}
    assert profile(chapters(made)) == {"gd": [1.0, 1.0], "sgd": [2.0, math.inf]}


def test_the_tables_beside_the_page_hold_every_run_and_every_point():
    made = synthetic.document(2, 2, seeds=2, lrs=3)
    made["results"][0]["runs"][0]["reason"] = '=HYPERLINK(1), "two\nlines"'
    runs = list(csv.DictReader(io.StringIO(runs_csv(made))))
    points = list(csv.DictReader(io.StringIO(curves_csv(made))))
    expected = [one for row in made["results"] for one in row["runs"]]
    assert len(runs) == len(expected)
    assert len(points) == sum(len(one["curve"]["iteration"]) for one in expected)
    assert runs[0]["reason"].startswith("'=HYPERLINK")
    assert float(runs[-1]["test_score"]) == expected[-1]["test_score"]
    assert runs[0]["test_score"] == ""
    first = points[0]
    assert {first["task"], first["optimizer"], first["phase"]} == {"digits", "gd", "tuning"}
    assert float(first["lr"]) == float(first["lr_now"]) == expected[0]["lr"]


@pytest.mark.parametrize("width", [44, 60, 80, 140])
@pytest.mark.parametrize("shape", [{"optimizers": 12, "tasks": 2}, {"optimizers": 1, "seeds": 1, "lrs": 1}])
def test_the_terminal_table_fits_and_says_the_same(width, shape):
    made = synthetic.document(**shape)
    out = io.StringIO()
    terminal.show(Console(file=out, width=width), made)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "\x1b" not in out.getvalue()
    for place in range(shape["optimizers"]):
        assert any(line.startswith(synthetic.key(place).split(" ")[0]) for line in lines)
    assert made["results"][0]["tuned"]["runs"] > 0
    score = words.score(made["results"][0]["tuned"]["test_score"], made["tasks"][0]["metric"])
    assert score.split(" [")[0] in out.getvalue()
    assert width < 80 or (score in out.getvalue() and "B/par." in out.getvalue())


def test_uplot_is_the_published_one_and_keeps_its_licence():
    folder = resources.files("steprule.lab.report") / "vendor"
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in UPLOT}
    assert digests == UPLOT
    assert "(v1.6.32)" in (folder / "uPlot.iife.min.js").read_text(encoding="utf-8")[:100]


def test_the_page_of_the_default_comparison_is_small():
    assert len(page(synthetic.document(7, 1)).encode()) < 1_200_000


def test_the_report_of_a_real_comparison_loads_nothing(small_study):
    assert_well_formed(small_study.report)
    for row in small_study.results["results"]:
        assert f"{100 * row['tuned']['test_score']['middle']:.1f} %" in small_study.report
    assert small_study.report.count('role="region" aria-label="Formula') == 3
    assert "A run has diverged when" in small_study.report


@pytest.mark.parametrize("place", [0, 2])
def test_an_optimiser_that_was_never_scored_stands_among_the_others(place):
    """It diverged at every learning rate, or ctrl-C came before its fresh seeds."""
    made = synthetic.document(3, 2)
    for row in made["results"][place::3]:
        row.update(tuned=None, default=None, lr=None)
        row["runs"] = [run for run in row["runs"] if run["phase"] == "tuning"]
    check(made)
    text = page(made)
    assert text.count(f"{synthetic.key(place)} in 0 of 0 runs") == 2
    out = io.StringIO()
    terminal.show(Console(file=out, width=80), made)
    assert synthetic.key(place) in out.getvalue()


def test_a_target_that_every_run_has_met_before_it_began_has_an_axis():
    (chapter,) = chapters(synthetic.document(2, 1))
    for cell in chapter.cells:
        for run in cell.result["runs"]:
            run["curve"]["score"] = [1.0 for _ in run["curve"]["score"]]
            run["epochs"] = 0.0
    assert "in 5 of 5 runs" in charts.targets(chapter, "t")


def test_without_a_grid_nothing_was_tried():
    made = synthetic.document(2, 1)
    made["protocol"]["grids"] = {}
    assert "Trials an optimiser" in page(made)


def test_theory_is_drawn_as_far_as_optimisers_come():
    (chapter,) = (chapter for chapter in chapters(synthetic.document(3, 7)) if chapter.task["theory"])
    quantity = next(quantity for quantity in quantities(chapter) if quantity.name == "training_loss")
    drawn = charts.curves(chapter, quantity, "iteration", "t")
    numbers = re.findall(r"<text[^>]*>([^<]*)", drawn)
    assert {"0.2", "0.5", "1", "2"} < set(numbers)
    assert not [number for number in numbers if "e-" in number]
