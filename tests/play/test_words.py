"""Every word of the page is shown by something, in both languages alike."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from py_mini_racer import MiniRacer

import steprule.play

pytestmark = pytest.mark.null
WEB = Path(steprule.play.__file__).parent / "web"
TABLES = ("words.js", "words-data.js")


@pytest.fixture(scope="module")
def words() -> dict[str, dict[str, str]]:
    engine = MiniRacer()
    for name in TABLES:
        engine.eval((WEB / name).read_text(encoding="utf-8"))
    found = json.loads(engine.eval("JSON.stringify(steprule.words)"))
    engine.close()
    return found


def test_every_word_is_asked_for(words: dict[str, dict[str, str]]) -> None:
    """By its key, or by one that is put together: a key's `-fix`, a clipping's `clip-`."""
    shown = "\n".join(file.read_text(encoding="utf-8") for file in WEB.glob("*") if file.name not in TABLES)
    asked = set(re.findall(r"[\w-]+", shown))
    for key in words["en"]:
        assert {key, key.removesuffix("-fix"), key.removeprefix("clip-")} & asked, key


def test_both_languages_have_the_same_words_with_the_same_places(words: dict[str, dict[str, str]]) -> None:
    assert words["en"].keys() == words["ru"].keys()
    for key, english in words["en"].items():
        places = [Counter(re.findall(r"\{\d\}", text)) for text in (english, words["ru"][key])]
        assert set(places[0]) == set(places[1]), key
        assert english.strip(), key
