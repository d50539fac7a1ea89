"""The playground under rough hands: what is too long, not a rule, far out of range or not to be run is said, not shown.

One page is kept; each test sets the state it needs, and nothing may be complained of in all of them.
"""

import pytest
from test_playground import browser, file, kept, put, run, state, sync, view, write

__all__ = ["browser", "file", "kept", "sync", "view"]
pytestmark = pytest.mark.slow
ROUGH = """@rule
def mine(theta, g, *, η=0.1, шаг=hyper(1.0, low=0), constructor=0.5, __proto__=0.7):
    return theta - η * шаг * constructor * __proto__ * g
"""


def entry(rule, hypers=None, choices=None):
    return {"rule": rule, "clip": "none", "hypers": hypers or {}, "choices": choices or {}}


def numbers(view):
    """Return the numbers of the rule in the editor; as a list, since no name is safe on its way out of a page."""
    return view.evaluate("Object.values(steprule.app.trajectories().find((one) => one.key === 'mine').hypers)")


def told(view):
    return view.locator(".board .error").all_inner_texts()


def test_a_text_that_is_too_long_is_not_written(view):
    before = state(view)["text"]
    write(view, before + "#" * 8000)
    assert "too long" in view.locator("#told").text_content()
    assert state(view)["text"] == before
    assert "######" not in view.locator(".cm-content").inner_text()
    write(view, before.replace("0.8", "0.7"))
    assert view.locator("#told").text_content() == ""
    assert run(view, "mine")["hypers"]["beta"] == 0.7


@pytest.mark.parametrize("text", ["def mine(theta, g):\n    return theta - g\n", "# later\n", " "])
def test_a_text_without_a_rule_says_so(view, text):
    write(view, text)
    assert view.locator(".formula.stale").count() == 1
    assert [one.count("@rule") for one in told(view)] == [1]


def test_a_transform_alone_is_told_where_it_belongs(view):
    write(view, "@transform\ndef half(theta, g, *, by=0.5):\n    return g * by\n")
    assert ["chain(" in one for one in told(view)] == [True]


def test_a_rule_that_is_read_and_cannot_run_says_why(view):
    put(view, text="@rule\ndef mine(theta, g, *, lr=0.1):\n    return theta - lr * orthogonalize(g)\n")
    assert ["orthogonalize" in one for one in told(view)] == [True]
    assert view.locator("#number-lr").count() == 1
    put(view, picked=[entry("constructor")], focus="constructor")
    assert ["constructor" in one for one in told(view)] == [True]


def test_a_step_without_an_end_is_told_and_its_numbers_can_be_mended(view):
    put(view, picked=[entry("nesterov", {}, {"look_ahead": "implicit"})], focus="nesterov:implicit")
    assert "∞" in view.locator(".theory dl").inner_text()
    view.locator("#number-lr").fill("500")
    assert ["contract" in one for one in told(view)] == [True]
    view.locator("#number-lr").fill("0.3")
    assert told(view) == []
    assert run(view, "nesterov:implicit")["end"] == 120


def test_a_formula_that_cannot_be_drawn_is_not_shown_as_code(view):
    loop = "    for i in range(60):\n        g = g * g + g\n"
    put(view, text=f"@rule\ndef mine(theta, g, *, lr=0.1):\n{loop}    return theta - lr * g\n")
    shown = view.locator(".formula").inner_text()
    assert "too long" in shown
    assert "\\" not in shown


def test_a_message_that_quotes_a_long_list_stays_short(view):
    put(view, text="@rule\ndef mine(theta, g):\n    return theta - g * sum([i for i in range(5000)])\n")
    assert [len(one) < 1500 for one in told(view)] == [True]


def test_numbers_of_any_name_are_moved_and_carried(view):
    put(view, text=ROUGH)
    assert numbers(view) == [0.1, 1, 0.5, 0.7]
    for name in ("η", "шаг", "constructor", "__proto__"):
        view.get_by_role("slider", name=name, exact=True).focus()
        view.keyboard.press("ArrowRight")
    moved = numbers(view)
    assert all(new > old for new, old in zip(moved, [0.1, 1, 0.5, 0.7], strict=True))
    sent = view.evaluate("Object.values(steprule.decoded(steprule.encoded(steprule.app.state)).picked.at(-1).hypers)")
    assert sent == moved


def test_a_number_of_any_size_in_its_range_is_taken(view):
    put(view, text="@rule\ndef mine(theta, g, *, c=2.0, lr=0.1):\n    return theta - lr * g + 0 * c\n")
    view.locator("#number-c").fill("1e300")
    assert run(view, "mine")["hypers"]["c"] == 1e300


def test_a_link_cannot_set_a_number_out_of_its_range(view):
    put(view, picked=[entry("adam", {"lr": -5, "beta1": 7, "eps": 0.5})], focus="adam")
    assert run(view, "adam")["hypers"] == {"lr": 0.12, "beta1": 0.9, "beta2": 0.99, "eps": 0.5}


def test_a_variant_leaves_with_its_python_file(view, capsys):
    put(view, steps=40, start=[0.123456789, 1.5])
    put(view, picked=[entry("nesterov", {}, {"look_ahead": "implicit"})], focus="nesterov:implicit")
    with view.expect_download() as saved:
        view.locator("#as-python").click()
    names = {"__name__": "downloaded"}
    exec(compile(saved.value.path().read_text(encoding="utf-8"), "downloaded.py", "exec"), names)  # noqa: S102
    assert names["main"]() == pytest.approx(run(view, "nesterov:implicit")["at"][-2:], rel=1e-9, abs=1e-12)
    assert capsys.readouterr().out


def test_the_words_at_the_vectors_stay_within_the_picture(view):
    view.evaluate("""() => {
        globalThis.words = [];
        const draw = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
            const { width } = this.measureText(text);
            if (this.canvas.parentNode?.className === "picture")
                words.push(this.textAlign === "right" ? [x - width, x] : [x, x + width]);
            draw.call(this, text, x, y);
        };
    }""")
    view.set_viewport_size({"width": 390, "height": 844})
    put(view, lang="ru", focus="nesterov", picked=[entry("nesterov", {"lr": 0.5, "beta": 0.8})], kappa=8)
    for t in range(1, 120, 4):
        put(view, t=t)
    wide = view.evaluate("document.querySelector('.picture canvas').clientWidth")
    places = view.evaluate("words")
    view.set_viewport_size({"width": 1440, "height": 900})
    assert len(places) > 3
    assert all(left >= 0 and right <= wide for left, right in places)


def test_figures_of_a_study_before_a_change_are_told_to_be_old(view):
    view.locator('[data-view="data"]').click()
    put(view, data={"model": "logreg", "epochs": 1, "batch": 1077}, picked=[entry("mine")], focus="mine")
    view.locator("#data-start").click()
    assert view.locator("#data-past").text_content() == ""
    put(view, text=state(view)["text"].replace("theta - lr", "theta - 2 * lr"))
    assert "train again" in view.locator("#data-past").text_content()
