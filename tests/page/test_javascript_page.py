"""Files of JavaScript in a browser without a network: they step there as they do in V8 alone."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import steprule as sr
from javascript_operations import holds
from steprule import board, chain
from steprule.backends.javascript import SPELLING
from steprule.zoo import factored, free, papers
from v8 import NUMBERS, classic, v8, value

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RULES = {
    "adam": board.adam, "clipped": chain(board.clip_norm, board.clip_component, board.momentum),
    "nesterov": board.nesterov, "lamb": papers.lamb, "dog": free.dog, "sgld": papers.sgld, "came": factored.came,
}  # fmt: skip
RUN = """
  const theta = [Float64Array.from({ length: 6 }, (_, i) => Math.sin(i)), Float64Array.of(2)];
  const arrays = { theta, g: theta, ...start(theta) };
  for (let t = 1; t <= 50; t++) {
    arrays.g = theta.map((x) => x.map((y, i) => (i + 1) * y));
    step(arrays, defaults, t);
  }
  return Object.values(arrays).flatMap((own) => own.flatMap((x) => Array.from(x)));
"""

pytestmark = pytest.mark.slow
sync = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-page")


@pytest.fixture(scope="module")
def page():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    v8()  # which would else live in Playwright's loop, and end with it
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_context(offline=True).new_page()
        browser.close()


@pytest.mark.parametrize("name", RULES)
def test_fifty_steps_in_the_browser_are_those_of_v8(page, name):
    text = sr.export(RULES[name], to="javascript")
    found = page.evaluate(f"() => {{ {classic(text)}\n{RUN} }}")
    alone = value(f"(() => {{ {classic(text)}\n{RUN} }})()")
    units = 1e-13 if name == "sgld" else 0  # which takes logarithms; engines round them as they like
    np.testing.assert_allclose(np.array(found, float), np.array(alone, float), rtol=units, atol=0)
    assert np.isfinite(found).all()


def test_every_operation_of_the_browser_means_what_the_interpreter_says(page):
    page.add_script_tag(content=NUMBERS)
    for name in SPELLING:
        holds(name, page.evaluate)


def test_a_browser_imports_a_file_as_a_module(page):
    text = sr.export(board.adam, to="javascript")
    names = page.evaluate(
        """async (text) => {
          const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
          return Object.keys(await import(url));
        }""",
        text,
    )
    assert names == ["defaults", "hypers", "names", "start", "step"]
