"""What one step must do: torch's own loop or the interpreter, in float64, from the very tensors we start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import steprule as sr
from steprule.backends.half_torch import joined
from steprule.graph.evaluate import evaluate
from steprule.graph.node import Rank

Expected = list[tuple[torch.Tensor, dict[str, np.ndarray]]]
"""For every parameter: its new value under "" and that of every key of its state."""

Gradients = Mapping[torch.Tensor, torch.Tensor]
"""The gradient of every parameter that has one, in float64."""

SETTINGS = {"foreach", "fused", "capturable", "differentiable"}


def _wide(value: torch.Tensor) -> torch.Tensor:
    return value.detach().resolve_neg().to(torch.float64).clone(memory_format=torch.contiguous_format)


def _whole(optimizer: sr.Optimizer, parameter: torch.Tensor) -> torch.Tensor:
    """Return a parameter, with its remainder if there is one."""
    left = optimizer.state.get(parameter, {}).get("remainder")
    return _wide(parameter if left is None else joined(parameter.detach(), left))


def gradients(optimizer: sr.Optimizer, nudge: float = 0.0) -> dict[torch.Tensor, torch.Tensor]:
    """Return all gradients; nudged, each number is changed by that share of itself, up or down.

    What a nudge does to the result is what rounding may do to it, where sums cancel or a sign turns.
    """
    found: dict[torch.Tensor, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(1)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                wide = _wide(parameter.grad)
                signs = torch.randint(0, 2, wide.shape, generator=generator).double() * 2 - 1
                found[parameter] = wide * (1 + nudge * signs)
    return found


def by_torch(optimizer: sr.Optimizer, given: Gradients, clip: float | None) -> Expected:
    """Take the step with the torch.optim class of the same name, on float64 copies."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # step counts and the like too
    try:
        peer, pairs = _peer(optimizer, given)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([copy for _, copy in pairs], clip)
        peer.step()
    finally:
        torch.set_default_dtype(default)
    return [
        (parameter, {"": copy.detach().numpy(), **{k: v.double().numpy() for k, v in peer.state[copy].items()}})
        for parameter, copy in pairs
    ]


def _peer(
    optimizer: sr.Optimizer, given: Gradients
) -> tuple[torch.optim.Optimizer, list[tuple[torch.Tensor, torch.nn.Parameter]]]:
    """Make torch's optimiser of the same class, parameters and state."""
    groups: list[dict[str, Any]] = []
    pairs: list[tuple[torch.Tensor, torch.nn.Parameter]] = []
    for group in optimizer.param_groups:
        copies = []
        for parameter in group["params"]:
            copy = torch.nn.Parameter(_whole(optimizer, parameter))
            copy.grad = given.get(parameter)
            copies.append(copy)
            pairs.append((parameter, copy))
        options = {key: value for key, value in group.items() if key in optimizer.defaults and key not in SETTINGS}
        options["lr"] = float(options["lr"])  # torch multiplies a float32 tensor by others in float32
        groups.append({**options, "params": copies})
    peer = getattr(torch.optim, type(optimizer).__name__)(groups, foreach=False)
    for group in peer.param_groups:
        for copy in group["params"]:
            if "initial_accumulator_value" in group:  # torch reads the constructor's in every group; we, the group's
                peer.state[copy]["sum"].fill_(group["initial_accumulator_value"])
    for parameter, copy in pairs:
        peer.state[copy].update((key, _wide(value)) for key, value in optimizer.state.get(parameter, {}).items())
    return peer, pairs


def by_interpreter(optimizer: sr.Optimizer, given: Gradients) -> Expected:
    """Take the step with the interpreter; all groups have one formula."""
    graph = optimizer._choose(optimizer.param_groups[0]).plan.graph
    arrays: list[Mapping[str, Any]] = []
    numbers: list[dict[str, float]] = []
    stepped: list[torch.Tensor] = []
    for group in optimizer.param_groups:
        kernels = optimizer._choose(group)
        values = {h.name: float(read(group)) for h, read in zip(graph.hypers, kernels.readers, strict=True)}
        for parameter in group["params"]:
            if parameter not in given:
                continue
            state = optimizer.state.get(parameter, {})
            own = {graph.parameter: _whole(optimizer, parameter).numpy(), graph.gradient: given[parameter].numpy()}
            for slot in graph.slots:
                shape = parameter.shape if slot.rank is Rank.ELEMENT else ()
                init = float(kernels.inits[slot.name](group)) if slot.name in kernels.inits else slot.init
                fresh = torch.full(shape, init, dtype=parameter.dtype)  # as it can be stored: 1e-6 in float16 is not
                own[slot.name] = _wide(state.get(slot.name, fresh)).numpy()
            hosts = {slot.name: float(own[slot.name]) for slot in graph.slots if slot.rank is Rank.HOST}
            count = float(state["step"]) + 1 if "step" in state else 1.0
            arrays.append(own)
            numbers.append({**values, **hosts, "t": count})
            stepped.append(parameter)
    answer: Expected = []
    for parameter, new, number in zip(stepped, evaluate(graph, arrays, numbers), numbers, strict=True):
        keys = {"": new[graph.parameter], **{slot.name: new[slot.name] for slot in graph.slots}}
        answer.append((parameter, keys | ({"step": np.asarray(number["t"])} if graph.uses_step else {})))
    return answer


# What rounding may do -----------------------------------------------------------------------------------

PRECISION = {torch.float64: 1e-11, torch.float32: 3e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SMALLEST = {torch.float64: 1e-30, torch.float32: 1e-30, torch.float16: 1e-6, torch.bfloat16: 1e-30}


NUDGE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-6, torch.bfloat16: 1e-6}


def deviates(got: torch.Tensor, expected: np.ndarray, nudged: list[np.ndarray], before: Any, dtype: torch.dtype) -> str:
    """Say how a result differs from the truth by more than rounding.

    Rounding is measured on what a number was made from: itself, what it was before, a hundredth of the tensor's
    largest number, and what nudged gradients would make of it. What is not finite need only be so in both.
    """
    have = got.detach().resolve_neg().double().numpy()
    if have.shape != np.shape(expected):
        return f"has shape {have.shape}, not {np.shape(expected)}"
    with np.errstate(all="ignore"):
        largest = torch.finfo(dtype).max
        want = np.where(np.abs(expected) > largest, np.sign(expected) * np.inf, expected)
        old = np.where(np.isfinite(before), before, 0.0)
        overall = np.abs(want[np.isfinite(want)]).max(initial=0.0)
        scale = np.maximum(np.maximum(np.abs(want), np.abs(old)), overall / 100)
        slack = 3 * sum(np.abs(np.where(np.isfinite(other), other, want) - want) for other in nudged)
        wrong = ~(np.abs(have - want) <= PRECISION[dtype] * scale + slack + SMALLEST[dtype])
        wrong &= ~(~np.isfinite(have) & ~np.isfinite(want))
        wrong &= ~(np.isinf(have) & (np.abs(want) > 0.99 * largest))
    if not wrong.any():
        return ""
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"is {have[place]!r} at {place}, not {want[place]!r} ({int(wrong.sum())} of {wrong.size} are off)"
