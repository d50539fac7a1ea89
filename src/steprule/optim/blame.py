"""Whose gradient is not finite: what `nonfinite="raise"` says."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import NonFiniteError
from .shards import local

_FIX = 'lower the learning rate, clip, or pass nonfinite="skip" to leave such steps out'


def blame(named: Sequence[tuple[str, torch.Tensor]]) -> NonFiniteError:
    """Return the error that names the first of some parameters whose gradient is not finite, or another process."""
    now = [(label, parameter, parameter.grad) for label, parameter in named]
    culprits = [(label, p) for label, p, g in now if g is not None and not bool(torch.isfinite(local(g)).all())]
    if not culprits:
        return NonFiniteError(
            "a part of a gradient that another process has is not finite; nothing was updated",
            where="  not on this one, whose parts are finite: the error of that process names the parameter",
            fix=_FIX,
        )
    more = f" (and of {len(culprits) - 1} more)" if len(culprits) > 1 else ""
    return NonFiniteError(
        f"the gradient of {culprits[0][0]}{more} is not finite; nothing was updated",
        where=f"  shape {tuple(culprits[0][1].shape)}",
        fix=_FIX,
    )
