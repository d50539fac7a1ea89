"""Look up says of every public name what it does, shows it in use, and says what it raises: read from the code.

`tests/page/test_site_pages.py` builds the site and looks at it; this needs none of its tools.
"""

from __future__ import annotations

import doctest
import io
import re
import sys
from pathlib import Path

import pytest
import torch

import steprule as sr

sys.path.insert(0, str(Path(__file__).parent.parent / "docs/_ext"))
import entries

pytestmark = pytest.mark.null

ROOT = Path(__file__).parent.parent
NAMES = [f"{module}.{name}" for module, names in entries.public().items() for name in names]
PAGES = [*(ROOT / "docs/look-up").glob("*.md")]


def test_every_public_name_is_on_a_page_of_look_up_once() -> None:
    listed: list[str] = []
    for page in PAGES:
        for module, names in re.findall(r"```\{names\} (\S+)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            listed += [f"{module}.{name}" for name in names.split() or entries.public()[module]]
    classes = [f"steprule.optim.{name}" for name in entries.public()["steprule.optim"]]  # each has a page of its own
    assert sorted(listed + classes) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_a_sentence_an_example_its_errors_and_its_source(name: str) -> None:
    entry = entries.entry_of(name)
    assert re.fullmatch(r"\S.*[.?:]", entry.sentence), entry.sentence
    assert ">>>" in entry.words + entry.example
    assert entry.place.startswith("steprule/")
    assert entry.source.strip()
    silent = entry.kind == "exception" or name in CANNOT_FAIL
    assert silent or "aises" in entry.words + entry.raises or "refused" in entry.words, entry.words
    if entry.example:
        space = {"sr": sr, "torch": torch}
        test = doctest.DocTestParser().get_doctest(entry.example + "\n", space, name, None, 0)
        told = io.StringIO()
        assert doctest.DocTestRunner(verbose=False).run(test, out=told.write).failed == 0, told.getvalue()


CANNOT_FAIL = {"steprule.Explanation", "steprule.Gauges", "steprule.TensorBoardGauges", "steprule.lab.Exhibit",
               "steprule.lab.Split", "steprule.lab.Data", "steprule.lab.Metric"}  # fmt: skip
"""What only holds what it is given."""


def test_a_rule_tells_each_hyperparameter_with_its_range_and_each_slot() -> None:
    entry = entries.entry_of("steprule.board.adam")
    assert entry.hypers[1] == ("beta1", r"\beta_{1}", "0.9", "[0, 1]")
    assert [row[0] for row in entry.slots] == ["m", "s"]
    assert entry.formula == sr.explain(sr.board.adam).latex
    assert entry.source.startswith("@rule\ndef adam(")


def test_a_function_of_the_language_is_found_in_its_row() -> None:
    entry = entries.entry_of("steprule.mean")
    assert entry.source.startswith('reduction("mean"')
    assert "one a row" in entry.shapes
    assert "sr.mean(g, axis=1)" in entry.example
