"""The interpreter, and after it the definitions of how 16 bits are stored: what an optimiser holds, bit for bit.

`graph.evaluate` says what a rule means in float64, and nothing of memory. Here each new value is made float32 and goes
through NumPy's formulas of `plan.rounding`, by the parameter's format and the rounding; the next step begins with what
was stored. A backend agrees to the last bit wherever float32 arithmetic is exact, and to a rounding elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from truth import Truth, as_array

import steprule as sr
from steprule.graph import chance
from steprule.graph.bounds import never_negative
from steprule.graph.node import Rank
from steprule.plan import groups, rounding

HALF = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
CODES = {torch.int8: "int8", torch.uint8: "uint8"}


def formula(verb: str, dtype: torch.dtype) -> Any:
    return rounding.FORMULAS[f"{verb}_{HALF[dtype]}"]


def halves(tensor: torch.Tensor) -> np.ndarray:
    """Return the bits of a tensor of 16 bits."""
    return tensor.detach().contiguous().view(torch.int16).numpy().view(np.uint16)


def master(parameter: torch.Tensor, remainder: torch.Tensor) -> np.ndarray:
    """Return the float32 numbers that a parameter and its remainder are."""
    flat = halves(parameter).reshape(-1), remainder.contiguous().numpy().reshape(-1)
    verb = "joined8" if remainder.dtype == torch.int8 else "joined"
    return formula(verb, parameter.dtype)(*flat).reshape(parameter.shape)


def coded(x: np.ndarray, kind: str, random: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return an array in 8 bits, and the exponents of its groups."""
    length, say = groups.row_length(x.shape), rounding.FORMULAS
    rows, group = x.reshape(-1, length), groups.group_of(length)
    kept = say[f"kept_{kind}"](rows.astype(np.float32))
    greatest = np.zeros((len(rows), groups.units(rows.shape[1])), np.uint32)
    np.maximum.at(greatest, (slice(None), group), say["magnitude"](kept))
    exponents = say[f"exponent_{kind}"](greatest)
    given = () if random is None else (random.reshape(kept.shape),)
    verb = "nearest" if random is None else "stochastic"
    codes = say[f"{verb}_{kind}"](kept, say["inverse"](exponents)[:, group], *given)
    return codes.reshape(x.shape), exponents


def decoded(codes: np.ndarray, exponents: np.ndarray, kind: str) -> np.ndarray:
    """Return the numbers of an array in 8 bits."""
    length = groups.row_length(codes.shape)
    group = groups.group_of(length)
    unit = rounding.FORMULAS["unit"](exponents)[:, group]
    return rounding.FORMULAS[f"widen_{kind}"](codes.reshape(-1, length), unit).reshape(codes.shape)


def draws(seed: int, position: int, t: int, number: int, places: np.ndarray) -> np.ndarray:
    """Return the 16 random bits of elements by their places in the whole tensor."""
    start = chance.parameter_seed(np.array([seed], np.uint64), np.array([position]))
    found = chance.draw(np.zeros(1, np.int64), places.reshape(-1), chance.key(start, np.array([t]), number // 2))
    return rounding.high_bits(found) if number % 2 else rounding.low_bits(found)


class StoredTruth(Truth):
    """What an optimiser holds; make it before the first step."""

    def __init__(self, optimizer: sr.Optimizer) -> None:
        super().__init__(optimizer)
        self.stored: dict[torch.Tensor, dict[str, np.ndarray]] = {}

    def step(self) -> None:
        """Take the step that the optimiser is about to take, and store its results."""
        before = dict(self.steps)
        super().step()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for position, parameter in enumerate(parameters):
            if self.steps[parameter] != before.get(parameter, 0):
                self.stored[parameter] = self._store(parameter, position)

    def _dtypes(self, parameter: torch.Tensor) -> dict[str, torch.dtype]:
        """Return the types of the arrays: those that are there, or that a first step makes."""
        self.shape = parameter.shape
        made = {slot.name: torch.float32 if slot.rank is Rank.TENSOR else self._wish(slot.name) or parameter.dtype
                for slot in self.graph.slots}  # fmt: skip
        there = self.optimizer.state.get(parameter, {})
        slots = {name: there[name].dtype if name in there else dtype for name, dtype in made.items()}
        return {self.graph.parameter: parameter.dtype, **slots}

    def _wish(self, name: str) -> torch.dtype | None:
        """Return the type that the optimiser asks for a slot."""
        asked = self.optimizer.state_dtype
        form = asked.get(name) if isinstance(asked, dict) else asked
        if form in groups.WORDS:
            roots = name in never_negative(self.graph)
            return (torch.uint8 if roots else torch.int8) if form in groups.words_of(self.shape) else torch.float32
        return getattr(torch, form) if form else None

    def _store(self, parameter: torch.Tensor, position: int) -> dict[str, np.ndarray]:
        options, t, number = self.optimizer, self.steps[parameter], 0
        held: dict[str, np.ndarray] = {}
        for name, dtype in self._dtypes(parameter).items():
            x = np.asarray(self.arrays[parameter][name]).astype(np.float32)
            flat = x.reshape(-1)
            if dtype in CODES:
                given = draws(options.seed, position, t, number, np.arange(x.size))
                held[name], held[f"{name}_scale"] = coded(x, CODES[dtype], given)
                loaded, number = decoded(held[name], held[f"{name}_scale"], CODES[dtype]), number + 1
                self.arrays[parameter][name] = loaded.astype(np.float64)
                continue
            if dtype not in HALF:
                held[name] = x
                continue
            if options.rounding.startswith("compensated") and name == self.graph.parameter:
                more = options.rounding.removeprefix("compensated")
                held["remainder"] = formula(f"remainder{more}", dtype)(flat).reshape(x.shape)
                held[name] = formula(f"compensated{more}", dtype)(flat).reshape(x.shape)
                loaded = formula(f"joined{more}", dtype)(held[name].reshape(-1), held["remainder"].reshape(-1))
            else:
                given = (draws(options.seed, position, t, number, np.arange(x.size)),)
                random = options.rounding == "stochastic" or (name != self.graph.parameter and self._wish(name) in HALF)
                number += random
                bits = formula("stochastic" if random else "nearest", dtype)(flat, *given[:random])
                held[name], loaded = bits.reshape(x.shape), formula("widen", dtype)(bits)
            self.arrays[parameter][name] = loaded.reshape(x.shape).astype(np.float64)
        return held

    def agrees(self) -> None:
        """Compare every bit of parameters, slots and remainders."""
        for parameter, held in self.stored.items():
            state: Any = {self.graph.parameter: parameter, **self.optimizer.state[parameter]}
            for name, value in held.items():
                own = halves(state[name]) if state[name].dtype in HALF else state[name].detach().numpy()
                own = own.view(value.dtype) if own.dtype == np.int8 else own
                np.testing.assert_array_equal(own, value, err_msg=name)
            assert ("remainder" in state) == ("remainder" in held)
            assert as_array(parameter).shape == parameter.shape
