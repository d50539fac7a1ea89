"""The playground in a browser without a network: it is whole, it answers, and its numbers are the library's.

One page is kept for most tests; each sets the state it needs.
"""

import shutil
from contextlib import contextmanager
from statistics import median

import pytest
import torch

import steprule as sr
from steprule.play.page import LARGEST
from steprule.play.page import page as html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"phone": (390, 844), "projector": (1024, 768), "desk": (1440, 900)}
SLOWED = 4
FRAME, COLD = 16.7, 2.0
"""Milliseconds that a frame may work, and seconds until the first trajectory of a cold page."""

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
def file(tmp_path_factory):
    place = tmp_path_factory.mktemp("play") / "play.html"
    place.write_text(html(), encoding="utf-8")
    return place


@contextmanager
def opened(browser, file, size="desk", hash_="", **options):
    """Open a page that stands still; whatever it complains of or asks for is an error."""
    width, height = SIZES[size]
    options = {"color_scheme": "light", "locale": "en-GB", "reduced_motion": "reduce"} | options
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **options)
    view, wrong = context.new_page(), []
    view.on("console", lambda told: wrong.append(told.text) if told.type in {"error", "warning"} else None)
    view.on("pageerror", lambda error: wrong.append(str(error)))
    view.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else wrong.append(request.url),
    )
    view.goto(file.as_uri() + hash_)
    view.wait_for_selector("html[data-ready]")
    yield view
    context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def kept(browser, file):
    with opened(browser, file) as view:
        yield view


@pytest.fixture
def view(kept):
    """The page that is kept, as it begins."""
    kept.evaluate("steprule.app.set({ ...steprule.beginning, lang: 'en' })")
    return kept


def state(view):
    return view.evaluate("steprule.app.state")


def put(view, **patch):
    view.evaluate("patch => steprule.app.set(patch)", patch)


def run(view, key):
    """Return a method's trajectory: its points, its losses and where it ended."""
    found = "one => ({ at: [...one.at], loss: [...one.loss], end: one.end, hypers: one.hypers, title: one.title })"
    return view.evaluate(f"key => ({found})(steprule.app.trajectories().find((one) => one.key === key))", key)


def until(view, expression, seconds=30):
    """Wait until something is so; the page lets nobody evaluate a text within it, so it is asked from outside."""
    for _ in range(20 * seconds):
        if view.evaluate(expression):
            return
        view.wait_for_timeout(50)
    pytest.fail(f"never: {expression}")


def entry(rule, clip="none", **hypers):
    return {"rule": rule, "clip": clip, "hypers": hypers, "choices": {}}


def write(view, text):
    view.locator(".cm-content").click()
    view.keyboard.press("Control+a")
    view.keyboard.insert_text(text)
    view.wait_for_timeout(250)


def test_the_page_is_small_and_lets_nothing_in(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) <= LARGEST
    policy = text.partition('Content-Security-Policy" content="')[2].partition('"')[0].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "http:" not in policy


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_at_any_size_and_nothing_overflows(browser, file, scheme):
    with opened(browser, file, color_scheme=scheme, locale="ru-RU" if scheme == "dark" else "en-GB") as view:
        for width, height in SIZES.values():
            view.set_viewport_size({"width": width, "height": height})
            for stage in ("surface", "data", "lecture"):
                view.locator(f'[data-view="{stage}"]').click()
                view.wait_for_timeout(100)
                assert view.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, (width, stage)
                found = [
                    (one["id"], one["nodes"][0]["html"][:200]) for one in axe.Axe().run(view).response["violations"]
                ]
                assert found == [], (width, stage)


def test_an_edited_rule_has_another_formula_and_another_trajectory(view):
    before, formula = run(view, "mine"), view.locator(".formula annotation").text_content()
    text = state(view)["text"].replace("theta - lr * m", "theta - 2 * lr * m")
    write(view, text)
    assert state(view)["text"] == text
    assert "2" in view.locator(".formula annotation").text_content() != formula
    assert run(view, "mine")["at"][2:6] != before["at"][2:6]
    assert run(view, "gd")["at"][:2] == before["at"][:2]


def test_an_error_is_told_at_its_line_and_column_in_three_parts(view):
    write(view, "@rule\ndef mine(theta, g, *, lr=0.1):\n    return theta - lr * h\n")
    told = view.locator(".errors .error")
    assert told.locator(".where").text_content() == "line 3, column 25"
    assert "h" in told.locator(".what").text_content()
    assert told.locator(".fix").text_content()
    assert view.locator(".cm-lintRange-error").text_content() == "h"
    assert view.locator(".formula.stale").count() == 1
    put(view, text="@rule\ndef mine(theta, g, *, lr=0.1):\n    return theta - lr * g\n")
    assert view.locator(".errors .error").count() == 0


@pytest.mark.parametrize(
    "hostile", ["<img src=x onerror=alert(1)>", "__proto__", "constructor", "'\"`${1}", "\u202e\0"]
)
def test_whatever_is_written_stays_text(view, hostile):
    put(view, text=hostile)
    assert view.locator(".errors .error").count() == 1
    assert view.locator(".errors img, .formula img").count() == 0


def test_a_slider_and_its_field_change_a_number_within_its_range(view):
    slider, field = view.get_by_role("slider", name="beta"), view.locator("#number-beta")
    slider.focus()
    view.keyboard.press("Home")
    assert run(view, "mine")["hypers"]["beta"] == 0
    assert field.input_value() == "0"
    field.fill("0.5")
    assert run(view, "mine")["hypers"]["beta"] == 0.5
    field.fill("1.5")
    assert run(view, "mine")["hypers"]["beta"] == 0.5
    assert "[0, 1]" in view.locator("#number-beta-told").text_content()
    view.locator("#reset").click()
    assert run(view, "mine")["hypers"]["beta"] == 0.8


def test_the_start_is_moved_by_keys_and_by_dragging(view):
    start = state(view)["start"]
    view.locator(".handle").focus()
    view.keyboard.press("ArrowRight")
    moved = state(view)["start"]
    assert moved[0] > start[0]
    assert moved[1] == start[1]
    box = view.locator(".picture").bounding_box()
    handle = view.locator(".handle").bounding_box()
    view.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    view.mouse.down()
    view.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    view.mouse.up()
    assert state(view)["start"] == pytest.approx([0, 0], abs=0.02)
    assert run(view, "gd")["at"][:2] == state(view)["start"]


def test_scrubbing_stepping_and_playing_move_the_iteration(view):
    view.locator("#scrub").focus()
    view.keyboard.press("End")
    assert state(view)["t"] == state(view)["steps"]
    view.locator("#back").click()
    assert view.locator("#at").text_content() == "119 of 120"
    put(view, t=0, speed=240)
    view.locator("#play").click()
    until(view, "steprule.app.state.t > 3")
    view.locator("#play").click()
    assert view.locator("#play").text_content() == "Play"
    view.wait_for_timeout(350)
    assert "loss" in view.locator("#summary").text_content()
    assert view.locator(".picture canvas").get_attribute("aria-label") == view.locator("#summary").text_content()


def test_a_link_carries_the_state_and_a_foreign_one_is_refused(browser, file, view):
    put(view, text="@rule\ndef ð(theta, g, *, lr=0.2):\n    return theta - lr * g\n", surface="himmelblau")
    put(view, picked=[entry("mine"), entry("adam", "one", lr=0.3)], focus="adam:one", start=[1, -2], t=7, lang="ru")
    link, sent = view.evaluate("steprule.encoded(steprule.app.state)"), state(view)
    with opened(browser, file, hash_=link) as other:
        assert state(other) == sent
        assert run(other, "adam:one")["hypers"]["lr"] == 0.3
    for foreign in ("#1.e30x", "#2.e30", "#<img>", "#1." + "A" * 50_000, link[:-3]):
        assert view.evaluate("steprule.decoded", foreign) is None
    bad = [
        {"surface": "x"},
        {"picked": [{"rule": "a b", "clip": "none", "hypers": {}}]},
        {"t": 1e9},
        {"text": 3},
        {"evil": 1},
    ]
    for patch in [*bad, {"data": {"__proto__x y": 1}}, {"picked": [entry("gd")] * 9}]:
        assert view.evaluate("patch => steprule.checked(patch)", patch) is None, patch


def rosenbrock(theta):
    x, y = theta.tolist()
    return torch.tensor([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)], dtype=torch.float64)


@pytest.mark.parametrize(("name", "hypers"), [("nesterov", {"lr": 2e-3, "beta": 0.9}), ("adam", {"lr": 0.01})])
def test_the_numbers_of_the_page_are_the_library_s(view, name, hypers):
    put(view, surface="rosenbrock", steps=200, picked=[entry(name, "norm", **hypers)], focus=f"{name}:norm")
    shown = run(view, f"{name}:norm")
    theta = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = sr.chain(sr.clip_global_norm, getattr(sr.board, name)).optimizer([theta], **hypers)

    def closure():
        theta.grad = rosenbrock(theta.detach())
        return torch.zeros(())

    path = [theta.tolist()]
    for _ in range(200):
        optimizer.step(closure)
        path.append(theta.tolist())
    assert shown["end"] == 200
    assert shown["at"] == pytest.approx([value for point in path for value in point], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("surface", ["quadratic", "rosenbrock", "beale", "himmelblau", "saddle", "ravine"])
def test_the_downloaded_python_runs_with_the_library_to_the_same_point(view, surface, capsys):
    put(view, surface=surface, steps=40, t=0)
    put(view, noise=0, picked=[entry("mine", "one", lr=0.01)], focus="mine:one")
    with view.expect_download() as saved:
        view.locator("#as-python").click()
    assert saved.value.suggested_filename.endswith(".py")
    text, shown = saved.value.path().read_text(encoding="utf-8"), run(view, "mine:one")
    names = {"__name__": "downloaded"}
    exec(compile(text, "downloaded.py", "exec"), names)  # noqa: S102 - our own page made it
    assert capsys.readouterr().out == "", "a script that imports the rule trains nothing"
    assert names["main"]() == pytest.approx(shown["at"][-2:], rel=1e-9, abs=1e-12)
    assert names["loss_at"](*shown["at"][:2]) == pytest.approx(shown["loss"][0], rel=1e-12)
    assert capsys.readouterr().out.count("iteration") == 10


def test_a_rule_of_the_board_leaves_as_a_file_of_torch_and_an_edited_one_as_javascript(view):
    put(view, focus="adam")
    with view.expect_download() as saved:
        view.locator("#as-file").click()
    assert saved.value.suggested_filename == "adam.py"
    assert saved.value.path().read_text(encoding="utf-8") == sr.export(
        sr.board.adam, command="steprule export board.adam --to torch"
    )
    put(view, focus="mine")
    with view.expect_download() as saved:
        view.locator("#as-file").click()
    assert saved.value.suggested_filename == "mine.js"
    assert "export" in saved.value.path().read_text(encoding="utf-8")


def test_every_rule_of_the_picker_runs_or_says_why_not(view):
    names = view.locator("#load option").evaluate_all("options => options.map((one) => one.value).filter(Boolean)")
    assert len(names) > 50
    told = view.evaluate(
        """names => names.map((rule) => {
        const one = steprule.trajectory(
            { rule, clip: "none", hypers: {}, choices: {} }, { ...steprule.app.state, steps: 12 });
        return [rule, one.rule ? "" : one.errors[0]?.what ?? one.failed?.what ?? String(one.failed)];
    })""",
        names,
    )
    silent = [(name, why) for name, why in told if why.startswith(("TypeError", "undefined", "RangeError"))]
    assert silent == []
    assert sum(why == "" for _, why in told) > 40


def test_scenes_are_set_one_after_another(view):
    view.locator('[data-view="lecture"]').click()
    titles = set()
    for _ in range(view.evaluate("steprule.scenes.length")):
        titles.add(view.locator("#scene-title").text_content())
        assert view.evaluate("steprule.app.trajectories().every((one) => one.rule)")
        for button in view.locator('[id^="scene-try-"]').all():
            button.click()
            assert view.evaluate("steprule.app.trajectories().every((one) => one.rule)")
        if view.locator("#scene-next").is_enabled():
            view.locator("#scene-next").click()
    assert len(titles) == 11


PAUSE = """
const mark = performance.mark.bind(performance);
performance.mark = (name) => { const made = mark(name); if (name === "first-trajectory") debugger; return made; };
"""


def slowed(browser, file):
    """Load the page anew in a slowed browser; return it, and the seconds its thread had worked at the first trajectory.

    That is what the page takes of a processor, however busy others keep the machine.
    """
    context = browser.new_context(viewport={"width": 1440, "height": 900}, offline=True)
    view, paused = context.new_page(), []
    view.add_init_script(PAUSE)
    session = context.new_cdp_session(view)
    session.on("Debugger.paused", lambda told: paused.append(told))
    session.send("Debugger.enable")
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWED})
    view.goto(file.as_uri(), wait_until="commit")
    while not paused:
        view.wait_for_timeout(20)
    told = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.send("Debugger.resume")
    session.send("Debugger.disable")
    view.wait_for_selector("html[data-ready]", timeout=60_000)
    return view, told["ThreadTime"]


def test_a_cold_page_draws_within_two_seconds_and_its_frames_are_short_in_a_slowed_browser(browser, file):
    view, first = slowed(browser, file)
    assert first <= COLD
    view.evaluate("""() => {
        steprule.frames = [];
        const picked = steprule.board.map((rule) => ({ rule, clip: "none", hypers: {}, choices: {} }));
        steprule.app.set({ picked, speed: 60, steps: 300, t: 0 });
    }""")
    if view.locator("#play").text_content() != "Pause":
        view.locator("#play").click()
    until(view, "steprule.frames.length > 60")
    assert view.evaluate("steprule.app.trajectories().length") == 8
    frames = view.evaluate("steprule.frames")
    print(f"first trajectory after {first:.2f} s, frames of {median(frames):.1f} ms")
    assert median(frames) <= FRAME
    view.context.close()


def test_a_method_looks_the_same_in_the_list_and_in_the_picture(view):
    put(view, picked=[entry("sgd"), entry("sgd", "two"), entry("adam.amsgrad"), entry("mine")])
    shown = "box => [box.style.color, box.querySelectorAll('path')[1].getAttribute('d')]"
    list_ = {
        place.get_attribute("id").removeprefix("run-"): place.evaluate(
            f"one => ({shown})(one.parentNode.querySelector('svg'))"
        )
        for place in view.locator(".methods input").all()
    }
    drawn = view.evaluate(f"steprule.app.trajectories().map(one => [one.key, ({shown})(steprule.sample(one.look))])")
    assert {key: list_[key] for key, _ in drawn} == dict(drawn)
    assert len({tuple(look) for look in list_.values()}) == len(list_)


def test_theory_stands_beside_what_is_seen_and_its_best_numbers_can_be_taken(view):
    put(view, kappa=25, steps=60, focus="momentum")
    view.locator("#use-best").click()
    rate = (25**0.5 - 1) / (25**0.5 + 1)
    assert run(view, "momentum")["hypers"]["beta"] == pytest.approx(rate**2)
    now, seen, _, best = view.locator(".theory dd").all_text_contents()
    assert now == best.partition(" ")[0] == f"{rate:.4g}"
    assert float(seen) == pytest.approx(rate, abs=0.01)
    put(view, focus="adam")
    assert view.locator(".theory dl").count() == 0
    put(view, surface="saddle")
    assert view.locator(".theory").is_hidden()


def test_noise_is_the_same_for_a_seed_and_spares_the_whole_gradient(view):
    still, moved = run(view, "gd")["at"], run(view, "mine")["at"]
    put(view, noise=1, seed=3)
    first = run(view, "mine")["at"]
    assert run(view, "gd")["at"] == still
    assert first != moved
    put(view, seed=4)
    assert run(view, "mine")["at"] != first
    put(view, seed=3)
    assert run(view, "mine")["at"] == first


def test_the_way_back_from_the_lecture_leads_to_what_was_on_the_board(browser, file):
    with opened(browser, file) as view:
        own = "@rule\ndef own(theta, g, *, lr=0.2):\n    return theta - lr * g\n"
        put(view, text=own)
        view.locator('[data-view="lecture"]').click()
        assert state(view)["text"] != own
        view.go_back()
        until(view, "steprule.app.state.view === 'surface'")
        assert state(view)["text"] == own
