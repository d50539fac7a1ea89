"""Which convention each library follows, found by numbers: `python benchmarks/conventions.py [--record]`.

One formula has a switch for every convention. Each optimiser takes ten steps of the same gradients in float64, the
second half with another learning rate, beside every setting of the switches; the setting that gives its numbers is its
convention, and exactly one must. Nothing is taken from a library's documentation; names of arguments come from
signatures. A library that is not installed is left out; `--record` needs them all:

    pip install -c constraints.txt -e . optax timm pytorch-optimizer "keras>=3.15"
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import steprule as sr

RECORD = Path(__file__).parent / "records" / "conventions.json"
STEPS, RATES, NEAR = 10, (0.02, 0.05), 1e-6
EPS, DECAY, BETA, BETA2 = 3e-3, 0.1, 0.8, 0.9
"""So large that each place of ε, and each decay, leaves its mark in ten steps."""

OUTSIDE, INSIDE, BEFORE = "√s + ε", "√(s + ε)", "√s + ε, and s is corrected after that"
HEAVY, AVERAGE, WITH_RATE = "m = β m + g", "m = β m + (1 − β) g", "m = β m + η g"
COUPLED, DECOUPLED, APART = "g + λ θ", "θ − η λ θ", "θ − λ θ"

Array = np.ndarray
Step = Callable[[dict[str, Any], Array, Array, float, int], Array]


def gradients() -> Array:
    """Return the gradients of all steps, of very different size, so that ε counts for some elements."""
    return np.random.default_rng(7).standard_normal((STEPS, 4, 3)) * np.array([1.0, 0.1, 0.01])


def rate(step: int) -> float:
    """Return a step's learning rate, counted from 0."""
    return RATES[step >= STEPS // 2]


def walked(step: Step) -> Array:
    """Return the parameters after every step of a formula."""
    theta, state, found = start(), {}, []
    for count, g in enumerate(gradients()):
        theta = theta - step(state, theta, g, rate(count), count + 1)
        found.append(theta)
    return np.stack(found)


def start() -> Array:
    """Return the parameters at first."""
    return np.random.default_rng(8).standard_normal((4, 3))


# The formulas, with their switches -----------------------------------------------------------------------


def momentum(form: str, ahead: bool) -> Step:
    def step(state: dict[str, Any], _: Array, g: Array, lr: float, __: int) -> Array:
        scale = {HEAVY: 1.0, AVERAGE: 1 - BETA, WITH_RATE: lr}[form]
        m = state["m"] = BETA * state.get("m", 0.0) + scale * g
        moved = BETA * m + scale * g if ahead else m
        return moved if form == WITH_RATE else lr * moved

    return step


def scaled(kept: float, new: float, place: str, begin: float) -> Step:
    def step(state: dict[str, Any], _: Array, g: Array, lr: float, __: int) -> Array:
        s = state["s"] = kept * state.get("s", begin) + new * g * g
        return lr * g / (np.sqrt(s + EPS) if place == INSIDE else np.sqrt(s) + EPS)

    return step


def adam(corrected: bool, place: str, coupling: str = "") -> Step:
    def step(state: dict[str, Any], theta: Array, g: Array, lr: float, t: int) -> Array:
        g = g + DECAY * theta if coupling == COUPLED else g
        m = state["m"] = BETA * state.get("m", 0.0) + (1 - BETA) * g
        s = state["s"] = BETA2 * state.get("s", 0.0) + (1 - BETA2) * g * g
        one, two = (1 - BETA**t, 1 - BETA2**t) if corrected else (1.0, 1.0)
        if place == BEFORE:
            moved = lr * np.sqrt(two) / one * m / (np.sqrt(s) + EPS)
        else:
            moved = lr * m / one / (np.sqrt(s / two + EPS) if place == INSIDE else np.sqrt(s / two) + EPS)
        return moved + {DECOUPLED: lr * DECAY, APART: DECAY}.get(coupling, 0.0) * theta

    return step


def settings(family: str) -> Iterator[tuple[str, Step]]:
    """Return every setting of a family's switches, in words, with its formula."""
    if family in {"SGD with momentum", "Nesterov"}:
        yield from ((form, momentum(form, family == "Nesterov")) for form in (HEAVY, AVERAGE, WITH_RATE))
    elif family in {"AdaGrad", "RMSProp"}:
        kept, new = (1.0, 1.0) if family == "AdaGrad" else (BETA2, 1 - BETA2)
        for place, begin in itertools.product((OUTSIDE, INSIDE), (0.0, 0.1, 1.0)):
            yield f"{place}; s starts at {begin:g}", scaled(kept, new, place, begin)
    else:
        couplings = (COUPLED, DECOUPLED, APART) if family == "AdamW" else ("",)
        for corrected, place, coupling in itertools.product((True, False), (OUTSIDE, INSIDE, BEFORE), couplings):
            if corrected or place != BEFORE:
                words = f"{'' if corrected else 'not '}bias-corrected; {place}" + (f"; {coupling}" if coupling else "")
                yield words, adam(corrected, place, coupling)


# The libraries -------------------------------------------------------------------------------------------


def of_torch(make: Callable[[Any], Any]) -> Array:
    """Run an optimiser with torch's face."""
    p = torch.nn.Parameter(torch.tensor(start()))
    opt, found = make([p]), []
    for count, g in enumerate(gradients()):
        opt.param_groups[0]["lr"] = rate(count)
        p.grad = torch.tensor(g)
        opt.step()
        found.append(p.detach().numpy().copy())
    return np.stack(found)


def of_optax(make: Callable[[Any], Any]) -> Array:
    """Run an optax transformation; its learning rate is a schedule."""
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    optax, jnp = importlib.import_module("optax"), jax.numpy
    opt = make(lambda count: jnp.where(count < STEPS // 2, *RATES))
    theta, found = jnp.asarray(start()), []
    state = opt.init(theta)
    for g in gradients():
        update, state = opt.update(jnp.asarray(g), state, theta)
        theta = optax.apply_updates(theta, update)
        found.append(np.asarray(theta))
    return np.stack(found)


def of_keras(make: Callable[[], Any]) -> Array:
    """Run a Keras optimiser on torch's backend."""
    keras = importlib.import_module("keras")
    p, opt, found = keras.Variable(start(), dtype="float64"), make(), []
    opt.build([p])
    for count, g in enumerate(gradients()):
        opt.learning_rate = rate(count)
        opt.apply([torch.tensor(g)], [p])
        found.append(keras.ops.convert_to_numpy(p).copy())
    return np.stack(found)


@dataclass(frozen=True)
class Arm:
    """One optimiser of one library: its name there, and how it is made of a class and what the library wants first."""

    name: str
    given: dict[str, Any]


B, BB = {"momentum": BETA}, {"betas": (BETA, BETA2), "eps": EPS, "weight_decay": 0.0}
D = {**BB, "weight_decay": DECAY}
K = {"beta_1": BETA, "beta_2": BETA2, "epsilon": EPS}
X = {"b1": BETA, "b2": BETA2, "eps": EPS}
TORCH = {
    "SGD with momentum": Arm("SGD", B), "Nesterov": Arm("SGD", {**B, "nesterov": True}),
    "AdaGrad": Arm("Adagrad", {"eps": EPS}), "RMSProp": Arm("RMSprop", {"alpha": BETA2, "eps": EPS}),
    "Adam": Arm("Adam", BB), "AdamW": Arm("AdamW", D),
}  # fmt: skip
LIBRARIES: dict[str, tuple[str, str, dict[str, Arm]]] = {
    "steprule.board": ("steprule", "board", {
        "SGD with momentum": Arm("momentum", {"beta": BETA}), "AdaGrad": Arm("adagrad", {"eps": EPS}),
        "RMSProp": Arm("rmsprop", {"beta": BETA2, "eps": EPS}),
        "Adam": Arm("adam", {"beta1": BETA, "beta2": BETA2, "eps": EPS}),
    }),
    "steprule.optim": ("steprule", "torch", TORCH),
    "torch.optim": ("torch", "torch", TORCH),
    "optax": ("optax", "optax", {
        "SGD with momentum": Arm("sgd", B), "Nesterov": Arm("sgd", {**B, "nesterov": True}),
        "AdaGrad": Arm("adagrad", {"eps": EPS}), "RMSProp": Arm("rmsprop", {"decay": BETA2, "eps": EPS}),
        "Adam": Arm("adam", X), "AdamW": Arm("adamw", {**X, "weight_decay": DECAY}),
    }),
    "keras.optimizers": ("keras", "keras", {
        "SGD with momentum": Arm("SGD", B), "Nesterov": Arm("SGD", {**B, "nesterov": True}),
        "AdaGrad": Arm("Adagrad", {"epsilon": EPS}), "RMSProp": Arm("RMSprop", {"rho": BETA2, "epsilon": EPS}),
        "Adam": Arm("Adam", K), "AdamW": Arm("AdamW", {**K, "weight_decay": DECAY}),
    }),
    "timm.optim": ("timm", "torch", {
        "SGD with momentum": Arm("SGDW", B), "Nesterov": Arm("SGDW", {**B, "nesterov": True}),
        "RMSProp": Arm("RMSpropTF", {"alpha": BETA2, "eps": EPS}), "AdamW": Arm("AdamWLegacy", D),
    }),
    "pytorch_optimizer": ("pytorch-optimizer", "torch", {
        "SGD with momentum": Arm("SGDW", {**B, "weight_decay": 0.0}),
        "Nesterov": Arm("SGDW", {**B, "weight_decay": 0.0, "nesterov": True}),
    }),
}  # fmt: skip


def walk(library: str, kind: str, arm: Arm) -> tuple[Array, Any]:
    """Return what a library's optimiser did, and the class or function whose signature names its arguments."""
    if kind == "board":
        rule = getattr(sr.board, arm.name)
        return of_torch(lambda p: rule.optimizer(p, lr=RATES[0], **arm.given)), rule
    made = getattr(importlib.import_module(library), arm.name)
    if kind == "optax":
        return of_optax(lambda schedule: made(schedule, **arm.given)), made
    if kind == "keras":
        return of_keras(lambda: made(learning_rate=RATES[0], **arm.given)), made
    return of_torch(lambda p: made(p, lr=RATES[0], **arm.given)), made


def convention(family: str, found: Array) -> str:
    """Return the one setting that gives these numbers; raise if none does, or several."""
    fits = [words for words, step in settings(family) if np.abs(walked(step) - found).max() < NEAR]
    if len(fits) != 1:
        least = min((float(np.abs(walked(step) - found).max()), words) for words, step in settings(family))
        raise ValueError(f"{len(fits)} settings fit; the nearest is {least}")
    return fits[0]


def names(made: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that count here, with the defaults of their library."""
    known = inspect.signature(made).parameters
    rate_ = next(name for name in ("lr", "learning_rate") if name in known)
    wanted = dict.fromkeys([rate_, *given])
    plain = {name: known[name].default for name in wanted if name in known}
    return {name: None if value is inspect.Parameter.empty else value for name, value in plain.items()}


def measure() -> dict[str, Any]:
    """Return every convention that was found, with versions."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    rows: dict[str, dict[str, Any]] = {}
    versions: dict[str, str] = {}
    for library, (package, kind, arms) in LIBRARIES.items():
        try:
            importlib.import_module("steprule" if kind == "board" else library)
        except ImportError:
            print(f"{library} is not installed", file=sys.stderr)
            continue
        versions[package] = sr.__version__ if package == "steprule" else version(package).split("+")[0]
        for family, arm in arms.items():
            found, made = walk(library, kind, arm)
            told = convention(family, found)
            rows.setdefault(family, {})[library] = {
                "name": arm.name, "convention": told, "arguments": names(made, arm.given)
            }  # fmt: skip
            print(f"{family:18} {library:18} {arm.name:12} {told}")
    return {"versions": versions, "rows": rows}


def main() -> int:
    """Measure, print, and write the record if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    given = parser.parse_args()
    found = measure()
    if given.record:
        packages = {package for package, _, _ in LIBRARIES.values()}
        if missing := packages - found["versions"].keys():
            print(f"install {', '.join(sorted(missing))} first", file=sys.stderr)
            return 1
        RECORD.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
