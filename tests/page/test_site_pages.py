"""The site, built as `make docs` builds it: without a warning, with links that lead somewhere, for all to use.

Chromium looks at it, offline: no axe-core finding, nothing fetched, no sideways scroll, no script for formulas.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from steprule.play.page import page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs/_ext"))

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOOKED_AT = ("index", "look-up/optimisers/adamw", "look-up/conventions", "playground")
WIDTHS = (390, 1024, 1440)

pytestmark = pytest.mark.slow
pytest.importorskip("sphinx", reason="needs Sphinx: make test-page")
links = pytest.importorskip("links")
formulas = pytest.importorskip("formulas")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site; `--fail-on-warning` makes a warning an error."""
    folder = tmp_path_factory.mktemp("site")
    line = ["-m", "sphinx", "-b", "html", "-E", "-n", "-W", "--keep-going", "-q", "-d", folder / "trees"]
    built = subprocess.run([sys.executable, *line, ROOT / "docs", folder / "html"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]
    assert built.stderr == ""
    return folder / "html"


def test_a_link_or_anchor_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">1</a><a href="b.html#gone">2</a><a href="c.html">3</a><a href="#own">4</a>'
        '<p id="own"><a href="http://nowhere">5</a><a href="https://example.org/x">6</a><img src="https://example.org/x.png">'
        '<a href="/b.html">7</a><a href="../out.html">8</a>'
    )
    (tmp_path / "b.html").write_text('<p id="there">')
    found = [told for _, told in links.wrong_links(tmp_path)]
    assert found == [
        "b.html#gone has no such anchor",
        "c.html is not there",
        "http://nowhere is no well-formed address",
        "https://example.org/x.png is fetched from elsewhere",
        "/b.html is absolute, and the site may stand in any folder",
        "../out.html is not there",
    ]


def test_a_formula_that_cannot_be_read_is_refused():
    katex = formulas.KaTeX()
    try:
        assert 'class="katex"' in katex.draw(r"\theta_t", block=False)
        with pytest.raises(ValueError, match="Undefined control sequence"):
            katex.draw(r"\thet", block=False)
    finally:
        katex.close()


def test_every_page_is_listed_and_its_links_lead_somewhere(site):
    assert links.wrong_links(site) == []
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {"index.html", "404.html", "search.html", "look-up/optimisers/muon.html", "mend.html", "play.html"} <= pages
    assert (site / "play.html").read_text(encoding="utf-8") == page()
    first = (site / "index.html").read_text(encoding="utf-8")
    sections = ("Learn", "Look up", "Understand", "Move", "Mend")
    places = [first.index(f'<span class="caption-text">{name}</span>') for name in sections]
    assert places == sorted(places)


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-page")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    with sync.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_is_fetched_and_nothing_overflows(browser, site, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core: make test-page")
    context = browser.new_context(color_scheme=scheme, offline=True)
    view, wrong, asked = context.new_page(), [], []
    view.on("console", lambda told: wrong.append(told.text) if told.type in {"error", "warning"} else None)
    view.on("pageerror", lambda error: wrong.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    found = []
    for name in LOOKED_AT:
        view.goto((site / f"{name}.html").as_uri())
        found += [(name, told) for told in wrong]
        for width in WIDTHS:
            view.set_viewport_size({"width": width, "height": 900})
            over = view.evaluate("document.documentElement.scrollWidth - innerWidth")
            found += [(name, width, "overflows")] if over > 0 else []
            for one in axe.Axe().run(view).response["violations"]:
                found += [(name, width, one["id"], node["html"][:120]) for node in one["nodes"]]
        wrong.clear()  # axe-core reads style sheets again, which a file may not
    assert found == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()


def test_formulas_need_no_script_and_the_search_finds_a_public_name(browser, site):
    still = browser.new_context(java_script_enabled=False, offline=True).new_page()
    still.goto((site / "look-up/optimisers/adamw.html").as_uri())
    assert still.locator(".katex-html").count() >= 1
    assert still.locator("math").count() >= 1
    still.context.close()
    view = browser.new_context(offline=True).new_page()
    view.goto((site / "search.html").as_uri() + "?q=AdEMAMix")
    view.wait_for_selector("#search-results li a")
    assert "ademamix.html" in view.locator("#search-results li a").first.get_attribute("href")
    view.context.close()


def test_no_page_is_wider_than_its_window(browser, site):
    """Whatever its tables and code, also where the theme folds its columns away."""
    view, found = browser.new_page(), []
    for file in sorted(site.rglob("*.html")):
        view.goto(file.as_uri(), wait_until="domcontentloaded")
        for width in (*WIDTHS, 1200):
            view.set_viewport_size({"width": width, "height": 900})
            if view.evaluate("document.documentElement.scrollWidth - innerWidth") > 0:
                found.append((file.relative_to(site).as_posix(), width))
    assert found == []
    view.close()
