"""The facts are all that the page knows of the language: one document, the same every time, and safe in a page."""

from __future__ import annotations

import json

import pytest
from engine import ask

from steprule.console.embedding import embedded
from steprule.graph.ops import OPS
from steprule.play.facts import facts, script
from steprule.play.library import entries, public
from steprule.play.scripts import LANGUAGE, reader, text
from steprule.rule.messages import MESSAGES, PHRASES, phrase, told

pytestmark = pytest.mark.null

LIMIT = 200_000


def test_facts_are_small_and_the_same_every_time() -> None:
    one = json.dumps(facts(), allow_nan=False, ensure_ascii=False)
    assert one == json.dumps(facts(), allow_nan=False, ensure_ascii=False)
    assert len(one.encode()) < LIMIT
    assert set(facts()["ops"]) == set(OPS)
    assert set(facts()["library"]) == set(entries())
    assert {public()["board"], "transforms.ema"} <= {*public().values(), "board"}


def test_nothing_in_the_facts_ends_a_script_of_a_page() -> None:
    assert "</script" not in script().lower()
    assert "<!--" not in script()
    hostile = {"a": "</script><script>", "b": "<!-- <\\/"}
    assert "</" not in embedded(hostile)
    assert "<!--" not in embedded(hostile)
    assert json.loads(embedded(hostile)) == hostile


def test_every_message_and_phrase_is_said_by_a_script() -> None:
    """None is left over: each is asked for by name, here and in Python."""
    said = "\n".join(text(name) for name in LANGUAGE)
    for name in (*MESSAGES, *PHRASES):
        assert f'"{name}"' in said, name


def test_templates_are_filled_in() -> None:
    assert told("attribute", name="mean", fix="write {x}") == ("a symbol has no `.mean`", "write {x}")
    assert phrase("spelled", text="sqrt(x)") == "write sqrt(x)"


def test_scripts_need_no_module_and_make_nothing_of_words() -> None:
    """They run from a file, under a policy that forbids `eval`; the parser stands before them."""
    assert next(iter(reader())) == "vendor/editor.js"
    for name in LANGUAGE:
        for word in ("eval(", "new Function(", "import(", "\nimport ", "innerHTML", "document."):
            assert word not in text(name), f"{name}: {word}"


def test_a_step_of_two_parameters_takes_no_time() -> None:
    """Eight trajectories, 60 frames a second, ten steps a frame: 4,800 steps a second."""
    source = entries()["board.adam"].source
    assert min(ask("timed", source, 2000) for _ in range(3)) < 100  # microseconds, on a busy machine
