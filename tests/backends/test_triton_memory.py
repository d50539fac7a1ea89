"""GPU kernels touch what they were given and nothing else, no place twice in a launch, and use nothing from last time.

A GPU goes wrong there where the interpreter goes on: so it is watched.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from test_chunks import Device, at_once, moving
from watched import Watch, watched

import steprule as sr
from steprule import slot
from steprule.backends.triton_build import Build, building
from steprule.backends.triton_dialect import TABLES
from steprule.backends.triton_gpu import interpreted
from steprule.graph.evaluate import evaluate

pytestmark = [pytest.mark.interp, pytest.mark.skipif(not interpreted(), reason="only the interpreter tells addresses"),
              pytest.mark.usefixtures("small_chunks")]  # fmt: skip
SCRATCH = ("host", "partial", "reduced", "total")


class Watched(Device):
    """A batch whose kernels find NaN in what every step computes anew, and may touch nothing but tables and arrays."""

    def step(self, gradients: list[np.ndarray] | None = None) -> Watch:  # type: ignore[override]
        tables = dict(zip(TABLES, self.batch._tables, strict=True))
        for table in (*(tables[name] for name in SCRATCH), self.batch._room):
            table.fill_(np.nan)
        with watched(
            [*tables.values(), self.batch._room, *(tensor for own in self.tensors.values() for tensor in own)]
        ) as watch:
            super().step(gradients)
        return watch

    def kept(self, row: int) -> list[torch.Tensor]:
        """List what a training step keeps of a tensor."""
        return [*(tensors[row] for name, tensors in self.tensors.items() if name != "g"), self.counts[row]]

    def expect_of(self, rows: list[int]) -> None:
        """Take the step of some tensors in the interpreter."""
        arrays, numbers = [self.arrays[row] for row in rows], [self.numbers[row] for row in rows]
        for own, number, new in zip(arrays, numbers, evaluate(self.program.graph, arrays, numbers), strict=True):
            own |= new
            number |= {name: float(new[name]) for name in self.hosts if name != "t"} | {"t": number["t"] + 1}


SHAPES = [(2, 1, 2, 2), (0, 3), (17, 8), (20, 9), ()]
"""In tiles of 16 rows by 8: several bands and pieces, of which the last may be short, and none."""


@sr.rule
def in_lines(
    theta, g, m, r=slot(rank="row"), c=slot(rank="column", init=0.5), k=slot(rank="tensor"), h=slot(rank="host"), *,
    lr=0.1, beta=0.5, t
):  # fmt: skip
    """Rows and columns reduced of elements in either pass, and reduced themselves beside numbers of the host."""
    r = r / t + sr.mean(g**2, axis=1)
    far = sr.max(g, axis=0)
    m = beta * m + sr.where((r > 1) & (far > 0), g * r, far) / (1 + sr.mean(r * t) + sr.global_norm(r * beta))
    return theta - lr * m, m, r, c + far + sr.sum(m, axis=0), k + sr.max(c) + sr.rows(g), h + t


@pytest.mark.parametrize(
    ("program", "misaligned", "shapes"),
    [(moving, range(5), None), (at_once, (), None), (in_lines, (0,), SHAPES)],
    ids=["moving", "at once", "in lines"],
)
def test_kernels_touch_what_they_were_given_and_use_nothing_from_last_time(
    program: Any, misaligned: Any, shapes: Any
) -> None:
    """Whole steps, steps in which some have no gradient, and steps that are left out, in which nothing is written."""
    with building(Build(chunk=16, block=16, rows=2)) if shapes else nullcontext():
        device = Watched(program, *([shapes] if shapes else []), guarded=True, misaligned=misaligned)
    everyone = list(range(len(device.arrays)))
    for absent in ([], [0, 1, 4], [2, 3]):
        device.batch.set_gradients([None if row in absent else device.tensors["g"][row] for row in everyone])
        watch = device.step()
        device.expect_of([row for row in everyone if row not in absent])
        device.compare()
        for row in everyone:
            wrote = [watch.wrote(tensor) for tensor in device.kept(row) if tensor.numel()]
            assert wrote == [row not in absent] * len(wrote)
    device.batch.set_gradients(device.tensors["g"])
    bad = [own["g"].copy() for own in device.arrays]
    bad[-1].reshape(-1)[-1] = np.nan
    for found, gradients in ((1.0, None), (0.0, bad)):
        device.batch.leave_out_if(torch.tensor(found))
        watch = device.step(gradients)
        assert watch.written, "scratch"
        assert not any(watch.wrote(tensor) for row in everyone for tensor in device.kept(row))
        device.compare()
