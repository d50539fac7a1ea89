"""What Python refuses the browser refuses, in the same words: what is wrong, where, and what to do.

The texts are those with which the language itself is tested: whoever adds an error there asks for it here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import HEADER, texts
from told_twice import by_browser, by_python, same_error, showing

from steprule.errors import StepruleError

pytestmark = pytest.mark.null

COMPARED = ("name", "graph", "slots", "hypers", "text", "latex")
APART = {
    "torch.tensor(": "tensors are torch's, which no page has",
    "torch.ones(": "tensors are torch's, which no page has",
    "torch.fft.fft": "torch calls it fft_fft inside",
    "f\"{g}\"": "texts with values in them are no part of formulas, and the page reads none",
    "yield": "generators are no part of formulas, and the page reads none",
    "g.node.op": "a symbol of the page has no insides to be taken out",
    "__class__": "a symbol of the page has no class to be climbed to",
    "return lambda": "Python spells a function by its address in memory",
    "g * sqrt\n": "Python spells a function by its address in memory",
    **dict.fromkeys(("np.random.", "torch.rand(", "torch.randint", "np.float32"), "no page has NumPy or torch"),
    **dict.fromkeys(("secrets.", "uuid.", "time.perf_counter", "time.localtime", "as clock", "id(object"),
                    "chance, clocks and addresses are Python's, and the page has none to be asked"),
    **dict.fromkeys(("next(", "getattr(", "nonlocal"), "iterators, attributes and closures that change are Python's"),
    "choice(text)": "a piece of a test that is no text by itself",
    "rank=declared": "a piece of a test that is no text by itself",
}  # fmt: skip
"""What the two say differently, by words of the text, and why."""
TEXTS = texts()


def apart(text: str) -> bool:
    """Whether a text is one of those about which the two differ."""
    return any(words in text.removeprefix(HEADER) for words in APART)


def test_every_text_of_the_languages_tests_is_refused_or_read_alike(tmp_path: Path) -> None:
    refused = read = 0
    for name, source in TEXTS.items():
        if apart(source):
            continue
        expected, found = by_python(source, tmp_path), by_browser(source)
        with showing(f"{name}\n{source}"):
            assert ("told" in expected) == ("told" in found)
            if "told" in expected:
                assert same_error(expected["told"], found["told"]), (expected["told"], found["told"])
                assert found["line"] >= 1 <= found["endColumn"]
                refused += 1
            else:
                assert {part: found[part] for part in COMPARED} == {part: expected[part] for part in COMPARED}
                read += 1
    assert refused > 180, refused
    assert read > 70, read


@pytest.mark.parametrize("words", APART)
def test_texts_that_are_told_apart_are_still_there_and_still_differ(words: str, tmp_path: Path) -> None:
    source = next(text for text in TEXTS.values() if words in text.removeprefix(HEADER))
    found = by_browser(source)
    assert found["what"]
    assert found["fix"]
    try:
        expected = by_python(source, tmp_path)
    except (NameError, SyntaxError):
        return
    assert not ("told" in expected and same_error(expected["told"], found["told"]))


def test_the_line_and_the_columns_are_those_of_the_caret(tmp_path: Path) -> None:
    """Lines count from 1, columns from 0; offsets are those of JavaScript, in which some letters are two units."""
    source = HEADER + "@rule\ndef 𝛼lpha(θ, g, *, lr=0.1):\n    return θ - lr * g.ψ\n"
    found = by_browser(source)
    assert same_error(by_python(source, tmp_path)["told"], found["told"])
    line = source.splitlines()[found["line"] - 1]
    assert line[found["column"] : found["endColumn"]] == "g.ψ"
    units = source.encode("utf-16-le")
    assert units[2 * found["from"] : 2 * found["to"]].decode("utf-16-le") == "g.ψ"


def test_text_that_is_no_python_yet_is_told_where_it_breaks() -> None:
    for source, line in (("@rule\ndef f(theta, g:\n    return theta\n", 2), ("x = (1 +\n", 1), ("def f(:\n  pass", 1)):
        found = by_browser(source)
        assert found["what"] == "this is not Python yet"
        assert found["line"] == line, found


def test_every_rule_tells_its_error(tmp_path: Path) -> None:
    """A text of several rules has all that can be read, and the errors of the others."""
    from engine import ask

    source = "@rule\ndef bad(theta, g):\n    return g.mean()\n\n@rule\ndef good(theta, g):\n    return theta - g\n"
    found = ask("built", source, {})
    assert [error["line"] for error in found["errors"]] == [3]
    assert [rule["name"] for rule in found["rules"]] == ["good"]
    assert found["program"]["name"] == "good"


HOSTILE = [
    "constructor(1)", "__proto__", "g.constructor", "g.__proto__", "{}['__proto__']", "sr.constructor", "sr.__proto__",
    "toString", "math.constructor('return 1')()", "hasOwnProperty", "globalThis", "eval('1')",
    "[].constructor", "sr.zoo.__proto__",
    "'a'.constructor", "board.__proto__", "valueOf", "__defineGetter__",
]  # fmt: skip


def test_no_name_of_javascripts_own_means_anything(tmp_path: Path) -> None:
    """Names are looked up in maps, so those that every object of JavaScript has are unknown as in Python."""
    for words in HOSTILE:
        source = f"{HEADER}@rule\ndef f(theta, g, *, lr=0.1):\n    return theta - {words}\n"
        found = by_browser(source)
        assert "told" in found, words
        try:
            expected = by_python(source, tmp_path)
        except StepruleError:
            continue
        if "told" in expected and "__" not in words and "eval" not in words:
            assert found["told"][0].partition("'")[0] == expected["told"][0].partition("'")[0], words


def test_names_of_javascripts_own_name_arguments() -> None:
    """Such a name may be an array or a hyperparameter like any other."""
    from engine import ask

    names = ("constructor", "__proto__", "prototype", "toString", "hasOwnProperty", "valueOf")
    slots, hypers = names[::2], names[1::2]
    news = ", ".join(f"{name} + g" for name in slots)
    total = " + ".join(names)
    source = (
        f"from steprule import rule\n@rule\ndef f(theta, g, {', '.join(slots)}, *, "
        f"{', '.join(f'{name}=0.5' for name in hypers)}):\n    return theta - ({total}) * g, {news}\n"
    )
    found = ask("steps", source, {}, "quadratic", [1.0, 1.0], 2, {}, False)
    assert found["errors"] == []
    assert set(found["slots"]) == set(slots)
