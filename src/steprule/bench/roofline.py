"""The roofline: a kernel of ours that moves a formula's bytes, with next to no arithmetic.

It reads and writes as many arrays as the formula's last pass, and reads the gradient once more for every pass before
that. Where memory is the limit, nothing that computes the formula with these passes can be faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import steprule as sr

_LR: Any = 0.0


@sr.rule
def streams_0(theta: Any, g: Any, *, lr: Any = _LR) -> Any:
    """Read two arrays, write one."""
    return theta + lr * g


@sr.rule
def streams_1(theta: Any, g: Any, a: Any, *, lr: Any = _LR) -> Any:
    """Read three arrays, write two."""
    return theta + lr * g, a + lr * g


@sr.rule
def streams_2(theta: Any, g: Any, a: Any, b: Any, *, lr: Any = _LR) -> Any:
    """Read four arrays, write three."""
    return theta + lr * g, a + lr * g, b + lr * g


@sr.rule
def streams_3(theta: Any, g: Any, a: Any, b: Any, c: Any, *, lr: Any = _LR) -> Any:
    """Read five arrays, write four."""
    return theta + lr * g, a + lr * g, b + lr * g, c + lr * g


@sr.transform
def read_once(theta: Any, g: Any) -> Any:  # noqa: ARG001
    """Read every gradient once more, as a norm must."""
    return sr.where(sr.global_sum(g) == 12345.678, 0 * g, g)


_STREAMS = (streams_0, streams_1, streams_2, streams_3)


def roofline(passes: Sequence[Mapping[str, Any]]) -> Any:
    """Return the program that moves the bytes of these passes, as `steprule.explain` counts them."""
    *before, last = passes
    if any(len(item["reads"]) != 1 for item in before) or len(last["reads"]) != len(last["writes"]) + 1:
        raise ValueError(f"no roofline for {[(item['reads'], item['writes']) for item in passes]}")
    return sr.chain(*[read_once] * len(before), _STREAMS[len(last["writes"]) - 1])


def traffic(passes: Sequence[Mapping[str, Any]]) -> int:
    """Return the bytes that these passes move a parameter."""
    return sum(item["bytes_per_parameter"] for item in passes)
