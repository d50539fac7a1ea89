"""Rules that run in the browser go where the library goes: every step in float64, to a part in 10¹²."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine import ask

import steprule as sr
from steprule.play.library import entries
from steprule.rule import Formula

pytestmark = pytest.mark.cpu

EDITED = {
    "signed": """
from steprule import rule, sign, where, hyper, minimum, norm

@rule
def signed(theta, g, m, *, lr=hyper(0.002, low=0), beta=0.9, t):
    m = beta * m + (1 - beta) * g
    step = where(t < 20, g / (1 + norm(g)), sign(m))
    return theta - lr * step * minimum(1, 10 / t), m
""",
    "clipped": """
import steprule as sr

@sr.rule
def half(theta, g, s, k=sr.slot(rank="tensor", init=1.0), h=sr.slot(rank="host"), *, lr=0.001, eps=1e-8, loss):
    s = 0.99 * s + (1 - 0.99) * g**2
    k = sr.maximum(k * 0.999, sr.mean(abs(g)))
    return theta - lr * sr.minimum(loss, 1) * g / k / sr.sqrt(s + eps) ** 0.5, s, k, h + 1

sr.chain(sr.board.clip_component(limit=2.0), sr.clip_global_norm(max_norm=0.5), sr.weight_decay(0.01), half)
""",
    "averaged": """
from steprule import board, cautious, chain, clip_norm, ema, lookahead, rule, slot

@rule(evaluate_at=lambda theta, m, *, lr, beta, t: theta - lr * beta / (1 + t) * m)
def ahead(theta, g, m, far=slot(init="theta"), *, lr=2e-4, beta=0.9, t):
    m = beta * m + g
    return theta - lr * m + 1e-5 * (far - theta), m, far

chain(clip_norm(max_norm=3.0), ahead, cautious, lookahead(every=4), ema(decay=0.9))
""",
}
"""Rules as someone edits them: choices among numbers, reductions, slots of all kinds, the loss, points, chains."""


def board() -> list[tuple[str, str, dict[str, Any]]]:
    """List the board's rows: its rules, each variant of Nesterov's momentum, and both clippings before the momentum."""
    rows = [(name, entry.source, {}) for name, entry in entries().items() if name.startswith("board.")]
    rules = [row for row in rows if isinstance(entries()[row[0]].value, sr.rule(_any).__class__)]
    points = [
        ("board.nesterov", entries()["board.nesterov"].source, {"look_ahead": one}) for one in ("board", "implicit")
    ]
    clipped = [
        (f"{name}+momentum", f"import steprule as sr\nsr.chain(sr.board.{name}, sr.board.momentum)", {})
        for name in ("clip_norm", "clip_component")
    ]
    others = [("sam", "import steprule as sr\nsr.sam(sr.board.momentum, rho=0.01)", {}),
              ("mars_exact", "import steprule as sr\nsr.mars_exact(lr=0.002)", {})]  # fmt: skip
    return [*rules, *points, *clipped, *others, *((name, text, {}) for name, text in EDITED.items())]


def _any(theta, g):
    return theta - g


def made(source: str, choices: dict[str, Any]) -> Formula:
    """Return the program that a text ends in, as Python reads it."""
    body, _, last = source.rstrip().rpartition("\n")
    names: dict[str, Any] = {}
    if last.startswith(("sr.", "chain(")):
        exec(compile(body, "rule.py", "exec"), names)  # noqa: S102
        found = eval(last, names)  # noqa: S307
    else:
        exec(compile(source, "rule.py", "exec"), names)  # noqa: S102
        found = [value for value in names.values() if isinstance(value, Formula)][-1]
    return found(**choices) if choices else found


def loss_of(problem: str, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return a problem's loss and gradients, in the order of operations of engine.js."""
    if problem == "quadratic":
        return 0.5 * (x * x) + 5 * (y * y), [x, 10 * y]
    a, b = 1 - x, y - x * x
    return a * a + 100 * (b * b), [-2 * a - 400 * (x * b), 200 * b]


def path(program: Formula, problem: str, hypers: dict[str, float], *, apart: bool, backend: str) -> np.ndarray:
    """Return the parameters after each of 200 steps of the library."""
    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    given = [one.clone() for one in (start.split(1) if apart else [start])]
    parameters = [torch.nn.Parameter(one) for one in given]
    optimizer = program.optimizer(parameters, backend=backend, **hypers)

    def closure() -> float:
        flat = torch.cat([p.detach() for p in parameters])
        loss, gradients = loss_of(problem, flat[0], flat[1])
        together = torch.stack(gradients)
        for parameter, own in zip(parameters, together.split(1) if apart else [together], strict=True):
            parameter.grad = own.clone()
        return float(loss)

    points = []
    for _ in range(200):
        optimizer.step(closure)
        points.append(torch.cat([p.detach() for p in parameters]).numpy().copy())
    return np.array(points)


CASES = board()


@pytest.mark.parametrize("problem", ["rosenbrock", "quadratic"])
@pytest.mark.parametrize(
    ("name", "source", "choices"), CASES, ids=[f"{name} {list(own.values())}" for name, _, own in CASES]
)
def test_two_hundred_steps_go_where_the_library_goes(
    name: str, source: str, choices: dict[str, Any], problem: str
) -> None:
    program = made(source, choices)
    hypers = {"lr": 1e-4} if name.startswith(("board.gd", "board.sgd", "board.m", "board.n", "sam", "clip")) else {}
    hypers |= {"beta": 1e-4} if choices.get("look_ahead") == "board" else {}  # βm/(1−β) without η is far away
    apart = len(name) % 2 == 0  # a half of them as two tensors
    expected = path(program, problem, hypers, apart=apart, backend="eager")
    found = ask("steps", source, choices, problem, [-1.2, 1.0], 200, hypers, apart)
    assert found["errors"] == []
    np.testing.assert_allclose(np.array(found["path"], dtype=np.float64), expected, rtol=1e-12, atol=1e-12)
    assert np.abs(expected[-1] - expected[0]).max() > 1e-3  # it went somewhere


ALONE = [case for case in CASES if case[2].get("look_ahead") != "implicit"]


@pytest.mark.parametrize(
    ("name", "source", "choices"), ALONE, ids=[f"{name} {list(own.values())}" for name, _, own in ALONE]
)
def test_the_file_of_a_rule_takes_the_same_steps(name: str, source: str, choices: dict[str, Any]) -> None:
    hypers = {"lr": 1e-4}
    if choices:
        source += "".join(f"\n{name.partition('.')[2]}({key}={value!r})" for key, value in choices.items())
        hypers["beta"] = 1e-4
    found = ask("exported", source, "rosenbrock", [-1.2, 1.0], 100, hypers)
    expected = ask("steps", source, {}, "rosenbrock", [-1.2, 1.0], 100, hypers, True)
    np.testing.assert_allclose(
        np.array(found["end"], dtype=np.float64), np.array(expected["path"][-1], dtype=np.float64), rtol=1e-13
    )
    assert "import" not in found["text"].replace("imports nothing", "")


def test_the_compiled_kernel_goes_there_too() -> None:
    program = made(EDITED["averaged"], {})
    expected = path(program, "rosenbrock", {}, apart=False, backend="numba_cpu")
    found = ask("steps", EDITED["averaged"], {}, "rosenbrock", [-1.2, 1.0], 200, {}, False)
    np.testing.assert_allclose(np.array(found["path"], dtype=np.float64), expected, rtol=1e-12, atol=1e-12)
