"""The digits and the lecture in a browser without a network: a worker learns as `steprule train` does, scenes play."""

import shutil

import pytest

from steprule.lab.budget import Budget
from steprule.lab.methods import Method
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TaskSpec
from steprule.lab.training import train
from steprule.play.page import page as html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"phone": (390, 844), "projector": (1024, 768), "desk": (1440, 900)}

pytestmark = pytest.mark.slow
sync = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-page")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core: make test-page")


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    """One page for all tests here; at the end nothing has been complained of or asked for."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    file, wrong = tmp_path_factory.mktemp("play") / "play.html", []
    file.write_text(html(), encoding="utf-8")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": 1024, "height": 768}, offline=True, locale="en-GB", reduced_motion="reduce"
        )
        made = context.new_page()
        made.on("console", lambda told: wrong.append(told.text) if told.type in {"error", "warning"} else None)
        made.on("pageerror", lambda error: wrong.append(str(error)))
        known = ("file:", "data:", "blob:")
        made.on("request", lambda one: None if one.url.startswith(known) else wrong.append(one.url))
        made.goto(file.as_uri())
        made.wait_for_selector("html[data-ready]")
        yield made
        browser.close()
    assert wrong == []


def put(to, /, **patch):
    to.evaluate("patch => steprule.app.set(patch)", patch)


def entry(rule, **hypers):
    return {"rule": rule, "clip": "none", "hypers": hypers, "choices": {}}


def status(view):
    return view.evaluate("steprule.data.view.results.status")


def until(view, wanted, seconds=60):
    for _ in range(20 * seconds):
        if status(view) == wanted:
            return
        view.wait_for_timeout(50)
    pytest.fail(f"it never was {wanted}")


def learnt(view, key):
    found = "key => { const one = steprule.data.view.results.runs.get(key); return [one.losses, one.end]; }"
    return view.evaluate(found, key)


def test_the_worker_learns_an_epoch_as_steprule_train_does(view):
    data = {"model": "mlp", "hidden": 16, "epochs": 1, "seed": 0, "final": False}
    picked = [entry("momentum", beta=0.9), entry("gd"), entry("mine", lr=0.1)]
    put(view, view="data", picked=picked, focus="momentum", data={**data, "lr_momentum": 0.5})
    assert "an epoch has 34 iterations" in view.locator("#data-counts").inner_text()
    view.locator("#data-start").click()
    until(view, "done")
    losses, end = learnt(view, "momentum")
    method = Method("momentum", (("beta", 0.9), ("backend", "eager")), parameters="float64")
    spec = RunSpec(TaskSpec("digits-mlp", hidden=(16,)), method, 0.5, 0, Budget(epochs=1))
    result = train(spec)
    assert len(losses) == 34
    gaps = [abs(losses[point.iteration - 1] - point.training_loss) for point in result.curve[1:]]
    assert max(gaps) < 1e-9
    assert end["accuracy"] == result.test_score
    assert abs(end["training"] - result.final_loss) < 1e-9
    assert len(learnt(view, "gd")[0]) == 1
    # The rule of the editor was read anew in the worker; it has β = 0.8.
    assert len(learnt(view, "mine")[0]) == 34
    row = view.locator(".data-methods tbody tr", has_text="momentum").inner_text()
    assert f"{100 * result.test_score:.1f}" in row
    shown = view.locator("#data-shown")
    shown.select_option("momentum")
    right = view.locator(".digits li:not(.wrong)").count()
    assert f"{right} of 24 right" in view.locator(".data-digits").inner_text()


def test_a_study_can_be_paused_continued_and_stopped(view):
    put(view, data={"model": "mlp", "hidden": 256, "epochs": 100}, picked=[entry("sgd")], focus="sgd")
    view.locator("#data-start").click()
    view.wait_for_timeout(300)
    view.locator("#data-pause").click()
    view.wait_for_timeout(300)
    first = len(learnt(view, "sgd")[0])
    view.wait_for_timeout(300)
    assert len(learnt(view, "sgd")[0]) == first > 0
    view.locator("#data-pause").click()
    view.wait_for_timeout(500)
    assert len(learnt(view, "sgd")[0]) > first
    view.locator("#data-stop").click()
    assert status(view) == "stopped"


def test_what_cannot_be_is_told_and_changes_nothing(view):
    put(view, data={}, picked=[entry("sgd")], focus="sgd")
    field = view.locator("#data-batch")
    field.fill("0")
    field.press("Tab")
    assert "from 1 to 1077" in view.locator("#data-told").inner_text()
    assert field.get_attribute("aria-invalid") == "true"
    assert view.evaluate("steprule.app.state.data.batch") is None
    rate = view.locator(".data-methods .rate")
    rate.fill("-1")
    rate.press("Tab")
    assert "not negative" in view.locator("#data-told").inner_text()
    rate.fill("0.25")
    rate.press("Tab")
    assert view.evaluate("steprule.app.state.data.lr_sgd") == 0.25


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_digits(view, size, scheme):
    width, height = SIZES[size]
    view.set_viewport_size({"width": width, "height": height})
    put(view, view="data", scheme=scheme, lang="en", picked=[entry("sgd"), entry("adam")], data={"epochs": 1})
    view.locator("#data-start").click()
    until(view, "done")
    view.wait_for_timeout(100)
    assert view.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    found = [(one["id"], one["nodes"][0]["html"]) for one in axe.Axe().run(view).response["violations"]]
    assert found == []
    view.set_viewport_size({"width": 1024, "height": 768})
    put(view, scheme="")


@pytest.mark.parametrize("lang", ["en", "ru"])
def test_every_scene_can_be_set_and_tried_in_both_languages(view, lang):
    put(view, view="lecture", lang=lang)
    for place, scene in enumerate(view.evaluate("JSON.parse(JSON.stringify(steprule.scenes))")):
        view.locator(f"#scene-{scene['id']}").click()
        assert view.locator("#scene-title").inner_text() == scene["title"][lang]
        assert scene["watch"][lang] in view.locator("#lecture").inner_text()
        assert view.evaluate("steprule.app.state.scene") == place
        assert view.locator(".board .katex").count() > 0
        if scene["setup"]["view"] == "data":
            until(view, "done")
        for button in scene["buttons"]:
            view.get_by_role("button", name=button["label"][lang], exact=True).click()
            if scene["setup"]["view"] == "data":
                until(view, "done")
        assert view.evaluate("steprule.app.trajectories().every((one) => one.rule)")
