"""What tests of exported files share: subjects, a loader that forbids imports, and runs side by side with `eager`."""

from __future__ import annotations

import builtins
import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

import steprule as sr
from steprule import board
from steprule.rule import Formula, Transform
from steprule.zoo import adam, adaptive, descent, factored, free, matrices, papers

ALLOWED = {"torch", "math"}
SHAPES = [(7,), (1,), (33, 5, 2)]
MATRICES = [(5, 3), (4, 8), (4, 8)]
STEPS = 200


def rules() -> dict[str, Formula]:
    """List the rules of the board and the zoo, and some chains."""
    found: dict[str, Formula] = {}
    for module in (board, descent, adaptive, adam, papers, free, factored, matrices):
        for name, value in sorted(vars(module).items()):
            if isinstance(value, Formula) and not isinstance(value, Transform) and value.name == name:
                found[f"{module.__name__.rpartition('.')[2]}.{name}"] = value
    return found | {
        "clipped": sr.chain(sr.clip_global_norm(max_norm=0.5), board.momentum),
        "both_clips": sr.chain(board.clip_norm, board.clip_component, board.adam),
        "cautious": sr.cautious(board.adam),
        "lookahead": sr.lookahead(board.adam),
        "board_point": board.nesterov(look_ahead="board"),
        "adagc": sr.chain(sr.adagc, board.adam),
    }


def classes() -> dict[str, type[sr.Optimizer]]:
    """List the classes of `steprule.optim`."""
    names = [name for name in sr.optim.__all__ if name not in {"Optimizer", "Explanation", "explain"}]
    return {f"class.{name}": getattr(sr.optim, name) for name in names}


def loaded(text: str) -> type[torch.optim.Optimizer]:
    """Execute a file where nothing but torch and `math` can be imported; return its class."""
    real = builtins.__import__

    def only(name: str, *rest: Any, **options: Any) -> Any:
        if name.partition(".")[0] not in ALLOWED:
            raise ImportError(f"{name} is forbidden")
        return real(name, *rest, **options)

    # What torch itself imports goes its own way: this is what the file's own import statements use.
    space: dict[str, Any] = {"__name__": "exported", "__builtins__": {**vars(builtins), "__import__": only}}
    exec(compile(text, "exported.py", "exec"), space)  # noqa: S102
    (found,) = [own for own in space.values() if isinstance(own, type) and issubclass(own, torch.optim.Optimizer)]
    return found


def parameters(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    """Return parameters, the same each time."""
    source = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(*shape, generator=source).to(dtype)) for shape in shapes]


def two_groups(own: Iterable[torch.nn.Parameter]) -> list[dict[str, Any]]:
    """Put parameters into two groups of different rates."""
    tensors = list(own)
    return [{"params": tensors[:2]}, {"params": tensors[2:], "lr": 0.003}]


def stepped(
    optimizer: torch.optim.Optimizer, steps: int, *, loss: bool = False, first: int = 0, all_present: bool = False
) -> None:
    """Take steps with gradients that depend on the parameters; one is absent now and then."""
    for step in range(first, first + steps):
        source = torch.Generator().manual_seed(100 + step)
        own = [p for group in optimizer.param_groups for p in group["params"]]
        for place, p in enumerate(own):
            noise = torch.randn(p.shape, generator=source)
            absent = place == 1 and step % 3 == 1 and not all_present
            p.grad = None if absent else (0.5 * noise + 0.3 * p.detach().float()).to(p.dtype)
        optimizer.step(**({"loss": 1.0 / (step + 1)} if loss else {}))  # type: ignore[arg-type]


def with_closure(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Take steps with a closure, of a loss that is no quadratic."""
    own = [p for group in optimizer.param_groups for p in group["params"]]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum(((p - 1) ** 2).sum() + p.sin().sum() for p in own[:-1])
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)  # type: ignore[arg-type]


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same numbers in the same type; NaN is NaN."""
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.double().nan_to_num(7), b.double().nan_to_num(7))


def differences(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> list[str]:
    """List what differs between two optimisers: parameters, keys and values of state, bit for bit.

    Host numbers in float64 may differ in their last bits, since NumPy's powers and C's do.
    """
    found: list[str] = []
    pairs = [
        (a, b)
        for one, other in zip(ours.param_groups, theirs.param_groups, strict=True)
        for a, b in zip(one["params"], other["params"], strict=True)
    ]
    for place, (a, b) in enumerate(pairs):
        mine, its = ours.state.get(a, {}), theirs.state.get(b, {})
        found += [] if same(a.detach(), b.detach()) else [f"parameter {place}"]
        found += [f"keys {mine.keys() ^ its.keys()}"] if list(mine) != list(its) else []
        for name in mine.keys() & its.keys():
            host = mine[name].dim() == 0 and mine[name].dtype == its[name].dtype == torch.float64
            near = host and torch.allclose(mine[name], its[name], rtol=1e-13, atol=0)
            found += [] if near or same(mine[name], its[name]) else [f"{name} of {place}"]
    return found


Make = Callable[[list[dict[str, Any]]], sr.Optimizer]


def twin(make: Make, text: str, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> tuple[Any, Any]:
    """Return an optimiser of ours on `eager`, and the exported one, on equal parameters."""
    return make(two_groups(parameters(shapes, dtype))), loaded(text)(two_groups(parameters(shapes, dtype)))  # type: ignore[call-arg]


def fresh(optimizer: Any) -> Any:
    """Return a copy."""
    return copy.deepcopy(optimizer)
