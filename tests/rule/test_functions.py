"""The functions of the language come from the op table. `python tests/rule/test_functions.py` writes their stub."""

from __future__ import annotations

import builtins
import inspect
import pickle
import pydoc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from told import refused

import steprule as sr
from steprule import rule
from steprule.graph.evaluate import evaluate
from steprule.graph.ops import ANY, OPS, Op
from steprule.graph.show import formula
from steprule.rule import advice, functions

pytestmark = pytest.mark.null

STUB = Path(functions.__file__).with_suffix(".pyi")


def written() -> str:
    """Return the stub of the language's functions."""
    names = sorted(functions.__all__)
    head = f'"""{functions.__doc__.splitlines()[0]}"""\n\nfrom typing import Any\n\n__all__ = {names}\n'
    body = []
    for name in names:
        one = getattr(functions, name)
        arguments = str(inspect.signature(one, eval_str=True)).replace("typing.", "")
        body.append(f'def {name}{arguments}:\n    """{one.__doc__}"""\n')
    return head + "\n" + "\n".join(body)


def test_editors_read_what_the_table_says() -> None:
    assert STUB.read_text(encoding="utf-8") == written(), "run python tests/rule/test_functions.py"


@pytest.mark.parametrize("name", functions.__all__)
def test_a_function_of_the_language_is_one_to_python(name: str) -> None:
    one = getattr(sr, name)
    assert one.__name__ == name
    assert one.__module__ == "steprule.rule.functions"
    assert pickle.loads(pickle.dumps(one)) is one  # noqa: S301
    assert (inspect.getdoc(one) or "").endswith(".")
    shown = pydoc.render_doc(one, renderer=pydoc.plaintext)
    assert one.__doc__.splitlines()[0] in shown
    first = next(iter(inspect.signature(one).parameters), None)
    assert (f"{name}({first}: " if first else f"{name}()") in shown
    assert name in advice.FUNCTIONS
    assert (name in sr.__all__) == (not hasattr(builtins, name))


def test_every_row_with_a_sentence_is_a_function_and_no_other() -> None:
    assert {*functions.__all__} == {name for name, row in OPS.items() if row.doc} | {
        "clamp",
        "inverse_root",
        "orthogonalize",
    }


def test_functions_take_their_arguments_by_name_too() -> None:
    def named(theta: Any, g: Any, *, lr: Any = 0.1) -> Any:
        return theta - lr * sr.where(condition=g > 0, a=sr.minimum(a=g, b=1), b=sr.clamp(x=g, low=-1, high=0))

    assert rule(named).graph.new_parameter
    assert sr.where(True, 1.0, 2.0) == 1.0
    assert sr.sqrt(x=4.0) == 2.0
    with pytest.raises(TypeError, match=r"^sqrt\(\) got an unexpected keyword argument 'y'"):
        sr.sqrt(4.0, y=4.0)
    error = refused(lambda: rule(lambda theta, g, *, lr=0.1: theta - lr * sr.norm(g, g)).graph)
    assert "norm() too many positional arguments" in error.what


def test_a_row_that_is_added_is_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Op("cosh", "pointwise", (ANY,), np.cosh, "cosh", "cosh({})", "", doc="Return the hyperbolic cosine.")
    monkeypatch.setitem(OPS, "cosh", row)
    cosh = functions.function(row)
    assert cosh(0.0) == 1.0
    graph = rule(lambda theta, g, *, lr=0.1: theta - lr * cosh(g)).graph
    (new,) = evaluate(graph, [{"theta": np.zeros(1), "g": np.ones(1)}], [{"lr": 1.0}])
    assert new["theta"] == -np.cosh(1.0)
    assert "cosh(g)" in formula(graph)


def test_operators_are_those_of_the_table() -> None:
    """Each writes its operation from either side, except where Python turns a comparison round itself."""

    def left(theta: Any, g: Any) -> Any:
        return ((theta + 2 - 3) * 4 / 5) ** 6

    def right(theta: Any, g: Any) -> Any:
        return 2 ** (3 / (4 * (5 - (6 + theta))))

    assert str(sr.explain(rule(left)).formula) == "θₜ = ((θₜ₋₁ + 2 − 3) 4 / 5)⁶"
    assert str(sr.explain(rule(right)).formula) == "θₜ = 2^(3 / (4 (5 − (6 + θₜ₋₁))))"


if __name__ == "__main__":
    STUB.write_text(written(), encoding="utf-8")
