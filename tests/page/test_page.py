"""The page in a browser without a network: no axe-core finding, no error, no sideways scroll, charts that answer.

`make test-page` installs what this needs besides Chromium, which is the system's.
"""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "lab"))
import synthetic

from steprule.__main__ import main
from steprule.lab.report.page import page as html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"laptop": (1280, 900), "phone": (360, 740)}
SHAPES = {"one": (1, 1), "twelve": (12, 1), "seven tasks": (7, 7)}

pytestmark = pytest.mark.slow
sync = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-page")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core: make test-page")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    with sync.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    made = {}
    for name, (optimizers, tasks) in SHAPES.items():
        made[name] = tmp_path_factory.mktemp("page") / "report.html"
        made[name].write_text(html(synthetic.document(optimizers, tasks)), encoding="utf-8")
    return made


def visit(browser, file, size, scheme="light", scripts=True):
    """Open a page; return it with the list of what went wrong and of what it asked for."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True, java_script_enabled=scripts
    )
    view, wrong, asked = context.new_page(), [], []
    view.on("console", lambda told: wrong.append(told.text) if told.type in {"error", "warning"} else None)
    view.on("pageerror", lambda error: wrong.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(file.as_uri())
    return view, wrong, asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_axe_finds_nothing_and_nothing_is_fetched_and_nothing_overflows(browser, files, shape, size, scheme):
    view, wrong, asked = visit(browser, files[shape], size, scheme)
    assert view.locator(".plot canvas").count() == SHAPES[shape][1]
    assert view.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    found = [(one["id"], one["nodes"][0]["html"]) for one in axe.Axe().run(view).response["violations"]]
    assert found == []
    assert wrong == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    view.context.close()


def test_a_hidden_optimiser_leaves_every_chart_and_comes_back(browser, files):
    view, wrong, _ = visit(browser, files["twelve"], "laptop")
    still = view.locator(".grid:not(.still) svg .of-3").first
    assert still.is_visible()
    view.locator('[data-arm="3"]').uncheck()
    assert still.is_hidden()
    view.locator('[data-do="all"]').click()
    assert still.is_visible()
    assert wrong == []


def test_every_quantity_axis_scale_and_phase_can_be_drawn(browser, files):
    view, wrong, _ = visit(browser, files["seven tasks"], "laptop")
    for control in view.locator("[data-set]").all():
        for value in control.evaluate("node => [...node.options].map(option => option.value)"):
            control.select_option(value)
    assert view.locator(".plot canvas").count() == 7
    assert wrong == []


def test_pointing_at_a_chart_tells_its_values_and_the_switch_turns_the_page_dark(browser, files):
    view, wrong, _ = visit(browser, files["twelve"], "laptop")
    view.locator(".u-over").hover()
    assert view.locator(".key output").first.text_content()
    before = view.evaluate("getComputedStyle(document.body).backgroundColor")
    view.locator("#scheme").click()
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert wrong == []


def test_without_scripts_the_still_charts_are_shown(browser, files):
    view, _, _ = visit(browser, files["twelve"], "phone", scripts=False)
    assert view.locator(".still svg").first.is_visible()
    assert view.locator(".explorer").is_hidden()


def test_a_real_comparison_is_drawn_whole(browser, tmp_path):
    """Convex tasks, whose losses fall by many powers of ten while theory's fall further."""
    command = (
        "compare --tasks quadratic,cancer-logreg --optimizers gd,nesterov,adam --trials 3 --tuning-seeds 1 --seeds 3 "
        f"--workers 2 --no-progress --out {tmp_path}"
    )
    assert main(command.split()) == 0
    view, wrong, _ = visit(browser, tmp_path / "report.html", "laptop")
    for control in view.locator("[data-set]").all():
        for value in control.evaluate("node => [...node.options].map(option => option.value)"):
            control.select_option(value)
    assert view.locator(".plot canvas").count() == 2
    assert wrong == []
