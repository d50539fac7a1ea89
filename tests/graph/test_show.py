"""The printer: the board's rules as the board writes them, and no expression that reads as another."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.mathtext
import pytest

import steprule as sr
from steprule import board, chain, rule
from steprule.graph.node import const, hyper, make, read
from steprule.graph.show import LONGEST, equations, formula, latex, one_line, symbol

pytestmark = pytest.mark.null

PLAIN = ("θₜ = θₜ₋₁ − η g", r"\theta_{t} &= \theta_{t-1} - \eta \, g")
SMOOTH = ("mₜ = (1 − β) g + β mₜ₋₁", r"m_{t} &= \left( 1 - \beta \right) \, g + \beta \, m_{t-1}")
MOVED = ("θₜ = θₜ₋₁ − η mₜ", r"\theta_{t} &= \theta_{t-1} - \eta \, m_{t}")
AHEAD = ("g = ∇L(θₜ₋₁ − η β mₜ₋₁)", r"g &= \nabla L\left(\theta_{t-1} - \eta \, \beta \, m_{t-1}\right)")
LITERAL = (
    "g = ∇L(θₜ₋₁ − (0 if mₜ₋₁ = 0, else β mₜ₋₁ / (1 − β)))",
    (
        r"g &= \nabla L\left(\theta_{t-1} - \begin{cases} 0 & \text{if } m_{t-1} = 0"
        r" \\ \frac{\beta \, m_{t-1}}{1 - \beta} & \text{otherwise} \end{cases}\right)"
    ),
)
SCALED = (
    "θₜ = θₜ₋₁ − η g / √(sₜ + ε)",
    r"\theta_{t} &= \theta_{t-1} - \frac{\eta \, g}{\sqrt{s_{t} + \varepsilon}}",
)
SUMMED = ("sₜ = sₜ₋₁ + g²", r"s_{t} &= s_{t-1} + {g}^{2}")
AVERAGED = (
    "sₜ = β sₜ₋₁ + (1 − β) g²",
    r"s_{t} &= \beta \, s_{t-1} + \left( 1 - \beta \right) \, {g}^{2}",
)
ADAM = (
    ("mₜ = (1 − β₁) g + β₁ mₜ₋₁", r"m_{t} &= \left( 1 - \beta_{1} \right) \, g + \beta_{1} \, m_{t-1}"),
    (
        "sₜ = β₂ sₜ₋₁ + (1 − β₂) g²",
        r"s_{t} &= \beta_{2} \, s_{t-1} + \left( 1 - \beta_{2} \right) \, {g}^{2}",
    ),
    (
        "θₜ = θₜ₋₁ − η mₜ / √(sₜ + ε)",
        r"\theta_{t} &= \theta_{t-1} - \frac{\eta \, m_{t}}{\sqrt{s_{t} + \varepsilon}}",
    ),
)
NORMED = (
    "g* = (g if ‖g‖ = 0, else g / ‖g‖ · S_g)",
    (
        r"g^{*} &= \begin{cases} g & \text{if } \left\Vert g \right\Vert = 0"
        r" \\ \frac{g}{\left\Vert g \right\Vert} \, S_g & \text{otherwise} \end{cases}"
    ),
)
CUT = (
    "g* = (g if g ≤ L_g, else L_g)",
    r"g^{*} &= \begin{cases} g & \text{if } g \leq L_g \\ L_g & \text{otherwise} \end{cases}",
)
CUT_SMOOTH = (
    "mₜ = (1 − β) g* + β mₜ₋₁",
    r"m_{t} &= \left( 1 - \beta \right) \, g^{*} + \beta \, m_{t-1}",
)
BOARD: dict[str, tuple[Any, tuple[tuple[str, str], ...]]] = {
    "gd": (board.gd, (PLAIN,)),
    "sgd": (board.sgd, (PLAIN,)),
    "momentum": (board.momentum, (SMOOTH, MOVED)),
    "nesterov": (board.nesterov, (AHEAD, SMOOTH, MOVED)),
    "nesterov, literal": (board.nesterov(look_ahead="board"), (LITERAL, SMOOTH, MOVED)),
    "adagrad": (board.adagrad, (SUMMED, SCALED)),
    "rmsprop": (board.rmsprop, (AVERAGED, SCALED)),
    "adam": (board.adam, ADAM),
    "clip_norm": (board.clip_norm, (NORMED,)),
    "clip_component": (board.clip_component, (CUT,)),
    "clipped momentum": (chain(board.clip_component, board.momentum), (CUT, CUT_SMOOTH, MOVED)),
}
"""The board's rows that are formulas, each as (text, LaTeX) lines; its other rows are the trainer's."""
CHAINS = {
    "twice clipped": chain(sr.clip_value, sr.clip_global_norm, board.adagrad),
    "decayed": chain(sr.weight_decay(0.1), board.adam),
    "coupled": chain(sr.weight_decay(0.1, decoupled=False), sr.clip_norm, board.nesterov),
}


@pytest.mark.parametrize("name", BOARD)
def test_the_board_prints_as_the_board_reads(name: str) -> None:
    program, lines = BOARD[name]
    assert formula(program.graph).splitlines() == [text for text, _ in lines]
    body = " \\\\\n".join(f"  {tex}" for _, tex in lines)
    assert latex(program.graph) == "\\begin{align*}\n" + body + "\n\\end{align*}"


def test_every_rule_of_the_board_is_printed_above() -> None:
    assert set(board.__all__) <= set(BOARD)


def test_chains_print_each_gradient_with_one_more_star() -> None:
    assert formula(CHAINS["twice clipped"].graph).splitlines() == [
        "g* = min(max(g, −L_g), L_g)",
        "g** = g* min(1, S_g / (‖g*‖ + 1e-6))",
        "sₜ = sₜ₋₁ + g**²",
        "θₜ = θₜ₋₁ − η g** / √(sₜ + ε)",
    ]
    assert formula(CHAINS["decayed"].graph).endswith("θₜ = θₜ₋₁ (1 − η λ) − η mₜ / √(sₜ + ε)")


@rule
def conditional(theta, g, m, *, lr=0.1, k=10, t):
    inside = (sr.abs(g) < 1) & ((theta > 0) | ~(m >= sr.floor(g))) & (t % k == 0) | (m > 2)
    return sr.where(inside, theta - lr * sr.tanh(g), sr.atan2(g, m)), m


def test_conditions_have_brackets_where_or_stands_in_and() -> None:
    assert formula(conditional.graph).splitlines()[-1] == (
        "θₜ = (θₜ₋₁ − η tanh(g) if |g| < 1 ∧ (θₜ₋₁ > 0 ∨ ¬(mₜ₋₁ ≥ ⌊g⌋)) ∧ mod(t, k) = 0 ∨ mₜ₋₁ > 2, "
        "else atan2(g, mₜ₋₁))"
    )


def everything() -> list[tuple[str, Any]]:
    others = [*CHAINS.items(), ("conditional", conditional)]
    return [(name, item[0]) for name, item in BOARD.items()] + others


@pytest.mark.parametrize(("name", "program"), everything(), ids=lambda item: item if isinstance(item, str) else "")
def test_every_equation_is_latex_that_two_readers_accept(name: str, program: Any) -> None:
    """Balanced braces and pairs of \\left and \\right, and matplotlib's mathtext draws each line."""
    parser = matplotlib.mathtext.MathTextParser("path")
    for line in (*equations(program.graph), *latex(program.graph).splitlines()):
        depth = 0
        for brace in re.findall(r"(?<!\\)[{}]", line):
            depth += 1 if brace == "{" else -1
            assert depth >= 0, line
        assert depth == 0, line
        assert line.count(r"\left") == line.count(r"\right"), line
    for line in equations(program.graph):
        assert "\n" not in line
        parser.parse(f"${line}$")


@pytest.mark.slow
def test_latex_itself_sets_the_whole_board(tmp_path: Path) -> None:
    """Environments open and close in order everywhere; where pdflatex is installed, it sets every page."""
    awkward = rule(lambda θ, g, _, m2_hat, *, γ3=1.0, __x=2.0: (θ - γ3 * g**-2 * __x, _ * -1e-9, m2_hat))
    bodies = "\n".join(latex(program.graph) for _, program in [*everything(), ("awkward", awkward)])
    text = rf"\documentclass{{article}}\usepackage{{amsmath}}\begin{{document}}{bodies}\end{{document}}"
    (tmp_path / "board.tex").write_text(text, encoding="utf-8")
    open_ones: list[str] = []
    for kind, environment in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if kind == "begin":
            open_ones.append(environment)
        else:
            assert open_ones.pop() == environment
    assert not open_ones
    if (tex := shutil.which("pdflatex")) is not None:
        command = [tex, "-interaction=nonstopmode", "-halt-on-error", "board.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
        assert done.returncode == 0, done.stdout[-2000:]


# Expressions -------------------------------------------------------------------------------------------

A, B, C, LR = read("a"), read("b"), read("c"), hyper("lr")


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (make("sub", A, make("sub", B, C)), "aₜ₋₁ − (bₜ₋₁ − cₜ₋₁)"),
        (make("sub", make("sub", A, B), C), "aₜ₋₁ − bₜ₋₁ − cₜ₋₁"),
        (make("sub", A, make("add", B, C)), "aₜ₋₁ − (bₜ₋₁ + cₜ₋₁)"),
        (make("mul", make("add", A, B), C), "(aₜ₋₁ + bₜ₋₁) cₜ₋₁"),
        (make("div", A, make("mul", B, C)), "aₜ₋₁ / (bₜ₋₁ cₜ₋₁)"),
        (make("div", A, make("div", B, C)), "aₜ₋₁ / (bₜ₋₁ / cₜ₋₁)"),
        (make("mul", make("div", A, B), C), "aₜ₋₁ / bₜ₋₁ · cₜ₋₁"),
        (make("mul", A, make("neg", B)), "aₜ₋₁ (−bₜ₋₁)"),
        (make("mul", A, const(-2)), "aₜ₋₁ (-2)"),
        (make("mul", A, make("mul", make("neg", B), C)), "aₜ₋₁ (−bₜ₋₁ cₜ₋₁)"),
        (make("sub", A, make("neg", B)), "aₜ₋₁ − (−bₜ₋₁)"),
        (make("add", A, const(-2)), "aₜ₋₁ + (-2)"),
        (make("neg", make("add", A, B)), "−(aₜ₋₁ + bₜ₋₁)"),
        (make("neg", make("neg", A)), "−(−aₜ₋₁)"),
        (make("pow", make("add", A, B), const(2)), "(aₜ₋₁ + bₜ₋₁)²"),
        (make("pow", make("neg", A), const(2)), "(−aₜ₋₁)²"),
        (make("pow", const(-2), LR), "(-2)^η"),
        (make("pow", make("pow", A, const(2)), const(3)), "(aₜ₋₁²)³"),
        (make("pow", A, make("neg", LR)), "aₜ₋₁^(−η)"),
        (make("pow", A, const(-1)), "aₜ₋₁^(-1)"),
        (make("pow", A, const(0.5)), "aₜ₋₁^0.5"),
        (make("sqrt", make("add", A, const(1e-8))), "√(aₜ₋₁ + 1e-8)"),
        (make("abs", make("sub", A, B)), "|aₜ₋₁ − bₜ₋₁|"),
        (make("where", make("lt", A, B), A, B), "(aₜ₋₁ if aₜ₋₁ < bₜ₋₁, else bₜ₋₁)"),
        (make("global_norm", make("mul", A, B)), "‖aₜ₋₁ bₜ₋₁‖"),
        (make("norm", A), "‖aₜ₋₁‖_tensor"),
        (make("mean", A), "mean(aₜ₋₁)"),
        (const(1e22), "1e22"),
        (const(0.1), "0.1"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_an_expression_prints_so_that_it_reads_as_itself(node: Any, text: str) -> None:
    assert one_line(node, board.sgd.graph) == text


@pytest.mark.parametrize(
    ("name", "text", "tex"),
    [
        ("lr", "η", r"\eta"),
        ("beta1", "β₁", r"\beta_{1}"),
        ("beta_12", "β₁₂", r"\beta_{12}"),
        ("eps", "ε", r"\varepsilon"),
        ("weight_decay", "λ", r"\lambda"),
        ("max_norm", "S_g", "S_g"),
        ("limit", "L_g", "L_g"),
        ("θ", "θ", r"\theta"),
        ("η2", "η₂", r"\eta_{2}"),
        ("m", "m", "m"),
        ("velocity", "velocity", r"\mathrm{velocity}"),
        ("two_words", "two_words", r"\mathrm{two\_words}"),
        ("_", "_", r"\mathrm{\_}"),
        ("m2_hat", "m2_hat", r"\mathrm{m2\_hat}"),
    ],
)
def test_names_are_spelled_as_mathematics_spells_them(name: str, text: str, tex: str) -> None:
    assert symbol(name, latex=False) == text
    assert symbol(name, latex=True) == tex


# Formulas without end -----------------------------------------------------------------------------------


def test_a_formula_that_would_not_end_is_cut_into_named_lines() -> None:
    """Written out, this one has 3²⁰⁰ operations."""

    @rule
    def iterated(theta, g, *, lr=0.1):
        for _ in range(200):
            g = g * (1.5 - 0.5 * g * g)
        return theta - lr * g / sr.norm(g)

    lines = formula(iterated.graph).splitlines()
    assert lines[0].startswith("x₁ = ")
    assert lines[-1].startswith("θₜ = ")
    assert max(map(len, lines)) < 40 * LONGEST
    assert len(latex(iterated.graph).splitlines()) == len(lines) + 2
    assert "…" in sr.explain(iterated).passes[0]["reductions"][0]


def test_a_deep_formula_prints_within_pythons_stack() -> None:
    @rule
    def nested(theta, g, *, lr=0.1):
        for _ in range(480):
            g = sr.sqrt(g + theta)
        return theta - lr * g

    lines = formula(nested.graph).splitlines()
    assert sum(line.count("√") for line in lines) == 480
    assert lines[-1].startswith("θₜ = θₜ₋₁ − η ")
