"""Every class and every rule of the board through the GPU kernels; without a GPU, Triton's interpreter runs them.

The truth is the same optimiser with parameters in float64 under the eager backend, which is held against torch.optim
and the papers elsewhere. Flags that choose another formula each have a case of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from truth import fill_gradients, make

import steprule as sr
from steprule import board, chain
from steprule.backends.triton_build import Build, building
from steprule.backends.triton_gpu import interpreted

HERE = torch.cuda.is_available()
DEVICE = "cuda" if HERE else "cpu"
pytestmark = [
    pytest.mark.gpu if HERE else pytest.mark.interp,
    pytest.mark.skipif(not (HERE or interpreted()), reason="needs a GPU, or Triton to interpret kernels"),
]
GPU, TRUTH = "triton_gpu", "eager"
SHAPES = [(), (0,), (7,), (3, 5), (Build().chunk + Build().block + 3,)]
STEPS = 3
LOSS = 1e4  # about the squared length of the gradient
CLOSE = {torch.float64: (1e-11, 1e-12), torch.float32: (2e-5, 2e-6), torch.float16: (5e-3, 5e-3)}

DECAY, UP = {"weight_decay": 0.1}, {"maximize": True}
ZOO: list[tuple[str, Mapping[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, **DECAY}),
    ("SGD", {"momentum": 0.9, "nesterov": True, **DECAY, **UP}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5, **DECAY}),
    ("RMSprop", {**DECAY, **UP}),
    ("RMSprop", {"momentum": 0.9, "alpha": 0.9}),
    ("RMSprop", {"centered": True, "alpha": 0.9}),
    ("RMSprop", {"centered": True, "momentum": 0.9, "alpha": 0.9, **DECAY}),
    ("Adam", {**DECAY, **UP}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, **UP}),
    ("NAdam", DECAY),
    ("NAdam", {"decoupled_weight_decay": True, **DECAY}),
    ("RAdam", {"betas": (0.9, 0.9), **DECAY}),  # the rectified branch begins at the sixth step
    ("RAdam", {"decoupled_weight_decay": True, **DECAY}),
    ("Adamax", DECAY),
    ("Adadelta", {"lr": 1.0, "eps": 0.1, **DECAY}),
    ("ASGD", {"t0": 1, **DECAY}),
    ("Rprop", UP),
    ("Lion", {**DECAY, **UP}),
    ("AdaBelief", DECAY),
    ("Yogi", DECAY),
    *(("ADOPT", {"decouple": decouple, "clipped": clipped, **DECAY}) for decouple in (False, True)
      for clipped in (False, True)),
    ("AdEMAMix", {"alpha_warmup": 4, "beta3_warmup": 4, **DECAY}),
    ("AdEMAMix", {}),
    ("Adan", DECAY),
    ("LAMB", UP),
    ("LARS", {"trust_coefficient": 0.5, **DECAY}),
    ("MARS", DECAY),
    ("SGLD", DECAY),
    ("Signum", {**DECAY, **UP}),
    ("StableAdamW", DECAY),
    ("DoG", {"lr": 1.0, "first": 0.1, **DECAY}),
    ("Prodigy", {"lr": 1.0, "d0": 0.1, **DECAY}),
    ("Polyak", {"lr": 9.0, "least": 1.0, **DECAY}),
    ("Muon", DECAY),
    ("Shampoo", {"precondition_frequency": 2, **DECAY}),
    ("SOAP", {"precondition_frequency": 2, **DECAY}),
]  # fmt: skip
OF_ROWS: list[tuple[str, Mapping[str, Any]]] = [
    ("Adafactor", {**DECAY, **UP}), ("AdamMini", DECAY), ("CAME", DECAY), ("NorMuon", DECAY), ("SM3", UP),
]  # fmt: skip
"""Classes whose rules keep numbers of rows or columns."""
MATRICES = {"Muon": [(3, 5), (70, 40)], "NorMuon": [(3, 5), (20, 9)], "Shampoo": [(3, 5), (7,)], "SOAP": [(5, 5), (7,)]}
"""Classes with functions of matrices, and tensors for them; what has no full rank has more than one basis."""
IN_OTHER_DTYPES = [
    ("SGD", {"momentum": 0.9, **DECAY}),
    ("AdamW", {"betas": (0.9, 0.9)}),
    ("LARS", {"trust_coefficient": 0.5, **DECAY}),
]


def of_class(name: str, options: Mapping[str, Any]) -> Callable[..., sr.Optimizer]:
    """Return a maker of optimisers; steps are long, so that rounding the parameter hides no error in the update."""
    return partial(getattr(sr.optim, name), **{"lr": 0.1, **options})


def told(case: Any) -> str:
    """Name a case by its class and options."""
    return ",".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


def pair(
    make_one: Callable[..., sr.Optimizer], dtype: torch.dtype, shapes: Sequence[tuple[int, ...]] = SHAPES
) -> list[sr.Optimizer]:
    """Make the optimiser on GPU kernels, and the same in float64 on torch's own operations."""
    drawn = make(*shapes, dtype=dtype)
    parameters = [torch.nn.Parameter(parameter.detach().to(DEVICE, copy=True)) for parameter in drawn]
    wide = [torch.nn.Parameter(parameter.detach().double()) for parameter in drawn]
    return [make_one(parameters, backend=GPU), make_one(wide, backend=TRUTH)]


def agree(mine: sr.Optimizer, truth: sr.Optimizer, dtype: torch.dtype) -> None:
    """Compare every parameter and everything in its state."""
    rtol, atol = CLOSE[dtype]
    for own, other in zip(mine.param_groups[0]["params"], truth.param_groups[0]["params"], strict=True):
        assert mine.state[own].keys() == truth.state[other].keys()
        held = [(own.detach(), other.detach())]
        held += [(mine.state[own][key], truth.state[other][key]) for key in truth.state[other]]
        for found, right in held:
            torch.testing.assert_close(found.cpu().double(), right.double(), rtol=rtol, atol=atol)


def follow(
    make_one: Callable[..., sr.Optimizer],
    dtype: torch.dtype,
    steps: int = STEPS,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
) -> None:
    """Take the same steps with both, and compare after each."""
    mine, truth = pair(make_one, dtype, shapes)
    start = [parameter.detach().clone() for parameter in mine.param_groups[0]["params"]]
    for number in range(steps):
        fill_gradients(truth.param_groups[0]["params"], scale=1.0 / (1 + number))
        for own, other in zip(mine.param_groups[0]["params"], truth.param_groups[0]["params"], strict=True):
            own.grad = other.grad.to(own)
            other.grad = own.grad.cpu().double()
        mine.step(loss=LOSS)
        truth.step(loss=LOSS)
        agree(mine, truth, dtype)
    assert (sr.explain(mine).backend, sr.explain(truth).backend) == (GPU, TRUTH)
    moved = [not torch.equal(a, b) for a, b in zip(start, mine.param_groups[0]["params"], strict=True) if a.numel()]
    assert all(moved)


@pytest.mark.parametrize("case", ZOO, ids=told)
def test_every_class_follows_the_truth(case: tuple[str, Mapping[str, Any]]) -> None:
    shapes = MATRICES.get(case[0], SHAPES)
    follow(of_class(*case), computed_in(case[0]), 7 if case[0] == "RAdam" else STEPS, shapes)


def computed_in(name: str) -> torch.dtype:
    """Return float64 for classes with functions of matrices: Muon iterates in bfloat16, but for float64."""
    return torch.float64 if name in MATRICES else torch.float32


@pytest.mark.parametrize("case", OF_ROWS, ids=told)
def test_every_class_that_keeps_rows_or_columns_follows_the_truth(case: tuple[str, Mapping[str, Any]]) -> None:
    """In tiles of 16 rows by 8, on a GPU of 64 by 256; vectors too, for which some have another rule."""
    shapes = [(70, 300) if HERE else (20, 9), (7,), (), (2, 2, 3)]
    with nullcontext() if HERE else building(Build(chunk=16, block=16, rows=2)):
        follow(of_class(*case), computed_in(case[0]), 2, MATRICES.get(case[0], shapes))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("case", IN_OTHER_DTYPES, ids=told)
def test_other_dtypes_follow_the_truth(case: tuple[str, Mapping[str, Any]], dtype: torch.dtype) -> None:
    follow(of_class(*case), dtype)


def test_no_class_is_left_out() -> None:
    assert {name for name, _ in (*ZOO, *OF_ROWS)} == set(sr.optim.__all__) - {"Optimizer", "Explanation", "explain"}


@pytest.mark.parametrize("name", ["AdamW", "LAMB"])
def test_a_clipping_before_a_class_follows_the_truth(name: str) -> None:
    """LAMB takes norms of its own after it."""
    follow(of_class(name, {"clip": 0.5}), torch.float32)


RULES = [board.gd, board.sgd, board.momentum, board.nesterov, board.nesterov(look_ahead="board"), board.adagrad,
         board.rmsprop, board.adam]  # fmt: skip
TRANSFORMS = [board.clip_norm, board.clip_component]
ON_THE_BOARD = [*RULES, *(chain(transform, board.momentum) for transform in TRANSFORMS)]


@pytest.mark.parametrize("program", ON_THE_BOARD, ids=lambda program: repr(program)[:40])
def test_every_rule_of_the_board_follows_the_truth(program: Any) -> None:
    follow(partial(sr.Optimizer, rule=program, lr=0.1), torch.float32)
