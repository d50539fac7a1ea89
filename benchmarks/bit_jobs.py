"""The jobs of same_bits.py: every rule, transform and class with every flag, and random rules as text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def named_jobs(offered: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a job for every rule, transform and class, and every flag of it."""
    for name, choices in offered["rules"].items():
        for values in product(*choices.values()):
            chosen = dict(zip(choices, values, strict=True))
            closures = [True] if "implicit" in values else [False, True] if "look_ahead" in chosen else [False]
            for closure in closures:
                yield {"rule": name, "options": chosen, "closure": closure}
    yield from ({"transform": name, "options": {}} for name in offered["transforms"])
    for name, signature in offered["classes"].items():
        flags = [{key: not value} for key, value in signature.items() if isinstance(value, bool)]
        flags = [{**flag, "momentum": 0.9} if "nesterov" in flag or "centered" in flag else flag for flag in flags]
        extra = [{key: value} for key, value in EXTRA.items() if key in signature]
        every = {key: value for option in (*flags, *extra) for key, value in option.items()}
        if "nesterov" in every:
            every["dampening"] = 0.0
        for options in ({}, *flags, *extra, {"clip": 1.0}, {"nonfinite": "skip"}, {**every, "clip": 0.5}):
            yield {"class": name, "options": options}


EXTRA = {"weight_decay": 0.1, "momentum": 0.9, "dampening": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5}
"""Arguments whose default leaves a part of the formula out."""
INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**",
         "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}  # fmt: skip
HEAD = """import steprule as sr


@sr.rule
def drawn(theta, g, m, s=sr.slot(init=0.25), k=sr.slot(rank="tensor", init=1.0), h=sr.slot(rank="host", init=2.0), *,
          lr=0.1, beta=0.9, gamma=1.7, t):
"""


def as_text(graph: Any) -> str:
    """Return a drawn graph as a rule in the public language, a line for each operation."""
    names: dict[Any, str] = {}
    lines: list[str] = []
    for node in graph.nodes:
        inputs = [names[child] for child in node.inputs]
        if node.op == "const":
            names[node] = repr(node.attr)
        elif node.op == "step":
            names[node] = "t"
        elif node.op in {"read", "hyper"}:
            names[node] = node.attr[0] if node.op == "read" else node.attr
        else:
            spelled = f" {INFIX[node.op]} ".join(inputs) if node.op in INFIX else f"sr.{node.op}({', '.join(inputs)})"
            names[node] = f"v{len(lines)}"
            lines.append(f"    {names[node]} = {f'-{inputs[0]}' if node.op == 'neg' else spelled}\n")
    return "".join((HEAD, *lines, f"    return {', '.join(names[node] for _, node in graph.outputs)}\n"))


def random_jobs(count: int, seed: int) -> list[dict[str, Any]]:
    """Draw a number of different rules by the strategy of this tree's tests."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    import hypothesis

    from strategies import graphs

    found: dict[str, int] = {}

    def draw(graph: Any) -> None:
        found.setdefault(as_text(graph), len(found))

    while len(found) < count:
        few = hypothesis.settings(
            max_examples=count, phases=[hypothesis.Phase.generate], database=None, deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        hypothesis.seed(seed)(few(hypothesis.given(graphs())(draw)))()
        seed += 1
    return [{"text": text, "number": number} for text, number in list(found.items())[:count]]
