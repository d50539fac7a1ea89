"""Random rules, written down: both readers make one graph of a text, and one step is what the interpreter says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import ask
from hypothesis import given, settings
from hypothesis import strategies as st
from told_twice import by_browser, by_python, same_error, showing

from steprule.graph.evaluate import evaluate
from steprule.graph.graph import Graph
from steprule.graph.node import Node
from steprule.graph.ops import OPS
from strategies import HYPERS, graphs, problem

pytestmark = pytest.mark.null

SIGNS = {
    "truediv": "/", "mul": "*", "add": "+", "sub": "-", "pow": "**", "mod": "%", "matmul": "@", "lt": "<", "le": "<=",
    "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "and": "&", "or": "|",
}  # fmt: skip
HEADER = "import steprule as sr\nfrom steprule import rule, slot\n\n\n"


def spelled(node: Node, names: dict[Node, str]) -> str:
    """Write a node's operation as an author does."""
    if node.op == "const":
        value = float(node.attr)  # type: ignore[arg-type]
        return repr(value) if value % 1 else repr(int(value))
    if node.op in {"hyper", "step"} or node.array:
        return node.array or str(node.attr or "t")
    row, texts = OPS[node.op], [f"({names[child]})" if OPS[child.op].truth else names[child] for child in node.inputs]
    if row.kind in {"chance", "size"}:
        return f"sr.{node.op}({'g' if row.kind == 'size' else ''})"
    if row.operator in SIGNS:
        return f"{texts[0]} {SIGNS[row.operator]} {texts[1]}"
    if row.operator in {"neg", "invert"}:
        return f"{'-' if node.op == 'neg' else '~'}{texts[0]}"
    if node.op.startswith("orthogonalize"):
        *first, eps, steps = texts
        return f"sr.orthogonalize({', '.join(first)}, eps={eps}, steps={steps}, gram={node.op.endswith('gram')})"
    if node.op == "inverse_root":
        return f"sr.inverse_root({texts[0]}, {texts[1]}, eps={texts[2]})"
    return f"sr.{node.op}({', '.join(texts)}{'' if node.axis is None else f', axis={node.axis}'})"


def written(graph: Graph) -> str:
    """Write a graph down as a rule, a line a node."""
    names: dict[Node, str] = {}
    lines = []
    for node in graph.nodes:
        text = spelled(node, names)
        if node.inputs or OPS[node.op].kind in {"chance", "size"}:
            names[node] = f"x{len(lines)}"
            lines.append(f"    {names[node]} = {text}")
        else:
            names[node] = f"({text})" if text.startswith("-") else text
    slots = [f"{one.name}=slot(rank={one.rank.word!r}, init={one.init!r})" for one in graph.slots]
    hypers = [f"{one.name}={one.value!r}" for one in graph.hypers]
    news = ", ".join(names[root] for _, root in graph.outputs)
    head = f"@rule\ndef drawn(theta, g, {', '.join(slots)}, *, {', '.join(hypers)}, t):"
    return HEADER + "\n".join([head, *lines, f"    return {news}", ""])


@settings(max_examples=40)
@given(graph=graphs(), seed=st.integers(0, 1000))
def test_random_rules_are_read_and_run_alike(tmp_path_factory: pytest.TempPathFactory, graph: Graph, seed: int) -> None:
    source = written(graph)
    expected, found = by_python(source, folder(tmp_path_factory)), by_browser(source)
    with showing(source):
        assert ("told" in expected) == ("told" in found), (expected.get("told"), found.get("told"))
        if "told" in expected:
            assert same_error(expected["told"], found["told"]), (expected["told"], found["told"])
            return
        assert found["graph"] == expected["graph"]
        assert found["latex"] == expected["latex"]
        if not any(node.kind == "matrix" or node.rank.apart for node in graph.nodes):
            names: dict[str, Any] = {}
            exec(compile(source, "rule.py", "exec"), names)  # noqa: S102
            run_alike(names["drawn"].graph, source, seed)  # its calls that draw are counted from 0


def folder(factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all texts."""
    return factory.getbasetemp()


def run_alike(graph: Graph, source: str, seed: int) -> None:
    """Assert that one step on two tensors is that of the interpreter, to a few roundings."""
    shapes: list[tuple[int, ...]] = [(3, 2), (4,)]
    data = problem(seed, shapes)
    names = ["theta", "g", *(slot.name for slot in graph.slots)]
    for index, arrays in enumerate(data.arrays):
        arrays["h"] = np.array(data.numbers[index]["h"])
    numbers = [{**HYPERS, "t": 3.0} for _ in shapes]
    expected = evaluate(graph, data.arrays, numbers)
    given = [{name: np.asarray(one[name]).ravel().tolist() for name in names} for one in data.arrays]
    found = ask("once", source, given, shapes, HYPERS, 3)["found"]
    for index, own in enumerate(expected):
        for name, value in own.items():
            got = np.array(found[name][index], dtype=np.float64)
            np.testing.assert_allclose(got, np.ravel(value), rtol=1e-9, atol=1e-12, err_msg=f"{name} of {index}")
