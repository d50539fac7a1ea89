"""The arm of another library: optax under `jax.jit`, with donated buffers and XLA's own threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from steprule.bench.rules import BOUND, GLOBAL_NORM, NO_CLIP, VALUE, TimedRule
from steprule.bench.units import Gradients, Unit, Values

_OTHER_FORMULA = {"NAdam": "optax's nadam is another formula: it has no schedule of the momentum"}


def missing(rule: TimedRule, threads: int, cores: int) -> str | None:
    """Return why optax cannot take part, if so."""
    absent = [name for name in ("jax", "optax") if find_spec(name) is None]
    if absent:
        return f'{" and ".join(absent)} not installed: pip install "steprule[bench]"'
    if threads != cores:
        return f"XLA takes all {cores} cores: its number of threads is fixed when the process starts"
    return _OTHER_FORMULA.get(rule.name)


def _rule(optax: Any, rule: TimedRule) -> Any:
    """Return optax's rule with the conventions of torch's: from where accumulators start, where ε stands."""
    lr, options = rule.lr, rule.options
    momentum = options.get("momentum")
    make: dict[str, Callable[[], Any]] = {
        "SGD": lambda: optax.sgd(lr, momentum=momentum, nesterov=options.get("nesterov", False)),
        "Adagrad": lambda: optax.adagrad(lr, initial_accumulator_value=0.0, eps=0.0),
        "RMSprop": lambda: optax.rmsprop(lr, decay=options["alpha"], eps=1e-8, eps_in_sqrt=False,
                                         centered=options.get("centered", False), momentum=momentum),
        "Adam": lambda: optax.adam(lr, b1=0.9, b2=0.999, eps=1e-8),
        "AdamW": lambda: optax.adamw(lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=options["weight_decay"]),
        "Lion": lambda: optax.lion(lr, b1=0.9, b2=0.99, weight_decay=0.0),
    }  # fmt: skip
    return make[rule.ours]()


def _clip(jax: Any, optax: Any, clip: str) -> list[Any]:
    def shorten(gradient: Any) -> Any:
        norm = jax.numpy.linalg.norm(gradient.ravel())
        return gradient * jax.numpy.minimum(1.0, BOUND / (norm + 1e-6))

    if clip == NO_CLIP:
        return []
    if clip == GLOBAL_NORM:
        return [optax.clip_by_global_norm(BOUND)]
    if clip == VALUE:
        return [optax.clip(BOUND)]
    return [optax.stateless(lambda updates, _: jax.tree.map(shorten, updates))]


@lru_cache(maxsize=4)
def _jitted(rule: TimedRule, clip: str) -> tuple[Any, Any]:
    """Return the initialiser and the update; kept, since tracing a thousand tensors takes many seconds."""
    jax, library = import_module("jax"), import_module("optax")
    chain = library.chain(*_clip(jax, library, clip), _rule(library, rule))

    def update(parameters: Any, state: Any, gradients: Any) -> Any:
        updates, state = chain.update(gradients, state, parameters)
        return library.apply_updates(parameters, updates), state

    return chain.init, jax.jit(update, donate_argnums=(0, 1))


class _Unit(Unit):
    """Parameters and state as jax arrays, which every step gives away and gets back."""

    def __init__(self, rule: TimedRule, clip: str, parameters: Sequence[torch.Tensor]) -> None:
        super().__init__(self._step, parameters)
        self._jax: Any = import_module("jax")
        begin, self._update = _jitted(rule, clip)
        self._held = [self._jax.numpy.array(parameter.detach().numpy(), copy=True) for parameter in parameters]
        self._state = begin(self._held)
        self._gradients: Any = None

    def _step(self) -> None:
        self._held, self._state = self._update(self._held, self._state, self._gradients)
        self._jax.block_until_ready(self._held)

    def prepare(self, gradients: Gradients) -> Any:
        """Return the gradients as jax arrays that share torch's memory."""
        return [self._jax.dlpack.from_dlpack(gradient) for gradient in gradients]

    def place(self, prepared: Any) -> None:
        """Make these the gradients of the next steps."""
        self._gradients = prepared

    refill = place

    def values(self) -> Values:
        """Return the parameters as they are now, in float64."""
        return [np.asarray(value, dtype=np.float64) for value in self._held]


def optax_unit(rule: TimedRule, clip: str, parameters: Sequence[torch.Tensor]) -> Unit:
    """Return one working set of the arm."""
    return _Unit(rule, clip, parameters)
