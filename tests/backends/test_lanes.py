"""Units of 16 groups at once: compiled, the same as by the definition, and nothing beside a block's own is touched."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from steprule.backends import cache as kernels
from steprule.backends import memory
from steprule.plan import rounding
from steprule.plan.groups import LANES

pytestmark = pytest.mark.cpu

SOURCE = """
from steprule.backends.lanes import close_groups_int8, close_groups_uint8, open_groups
from steprule.backends.memory import float32_at, int64_at, lane_room, uint8_at, word_room

def kernel(lo, hi, directory):
    of = int64_at(directory)
    scales, units, inverses, bits, sizes = (
        uint8_at(of[0]), float32_at(of[1]), float32_at(of[2]), int64_at(of[3]), int64_at(of[4]))
    unit, inverse, most = lane_room(), lane_room(), word_room()
    for case in range(lo, hi):
        lanes = sizes[case]
        open_groups(unit, most, scales, case * 32 + 3, lanes)
        for lane in range(16):
            units[case * 16 + lane] = unit[lane]
            most[lane] = max(most[lane], bits[case * 16 + lane] if lane < max(lanes, sizes[case + hi]) else most[lane])
        if case % 2:
            close_groups_int8(most, inverse, scales, case * 32 + 3, lanes)
        else:
            close_groups_uint8(most, inverse, scales, case * 32 + 3, lanes)
        for lane in range(16):
            inverses[case * 16 + lane] = inverse[lane]
"""
WIDE = [(16, 16), (8, 16), (4, 16), (2, 16), (1, 16), (13, 13), (8, 8), (5, 5), (3, 3), (1, 1)]
"""Groups of a block, and the lanes that are walked over: 16 where these are powers of two."""


@pytest.fixture(scope="module")
def compiled() -> Any:
    signature = numba.void(*[numba.int64] * 3)
    return numba.cfunc(signature, **memory.EXACT)(kernels.execute(SOURCE, "lanes")["kernel"]).ctypes


def tables() -> dict[str, Any]:
    dice = np.random.default_rng(0)
    sizes = [size for size in WIDE for _ in range(2)]
    magnitudes = (10.0 ** dice.uniform(-44, 38, (len(sizes), LANES))).astype(np.float32)
    magnitudes[3, 5], magnitudes[5, 9], magnitudes[7] = np.nan, np.inf, 0
    return {
        "scales": dice.integers(0, 256, (len(sizes), 32)).astype(np.uint8),
        "units": np.zeros((len(sizes), LANES), np.float32),
        "inverses": np.zeros((len(sizes), LANES), np.float32),
        "bits": magnitudes.view(np.uint32).astype(np.int64),
        "sizes": np.array([[lanes for lanes, _ in sizes], [walked for _, walked in sizes]], np.int64),
    }


def run(kernel: Any) -> dict[str, Any]:
    own = tables()
    kernel(0, 2 * len(WIDE), np.array([table.ctypes.data for table in own.values()], np.int64).ctypes.data)
    return own


def test_lanes_have_the_units_of_their_groups_and_groups_the_exponent_of_their_greatest(compiled: Any) -> None:
    before, found = tables(), run(compiled)
    for case, (lanes, walked) in enumerate(zip(*before["sizes"], strict=True)):
        group = np.arange(LANES) % lanes
        form = "int8" if case % 2 else "uint8"
        own = rounding.FORMULAS["unit"](before["scales"][case, 3 + group])
        assert np.array_equal(found["units"][case, :walked], own[:walked], equal_nan=True)
        greatest = np.array([before["bits"][case, :walked][group[:walked] == one].max() for one in range(lanes)])
        exponents = rounding.FORMULAS[f"exponent_{form}"](greatest.astype(np.uint32))
        assert found["scales"][case, 3 : 3 + lanes].tolist() == exponents.tolist()
        rest = np.delete(np.arange(32), np.s_[3 : 3 + lanes])
        assert np.array_equal(found["scales"][case, rest], before["scales"][case, rest])
        told = rounding.FORMULAS["inverse"](exponents[group[:walked]])
        assert np.array_equal(found["inverses"][case, :walked], told)


def test_without_a_compiler_they_are_the_same(compiled: Any) -> None:
    one, other = run(compiled), run(kernels.plain(SOURCE))
    for case, (_, walked) in enumerate(zip(*one["sizes"], strict=True)):
        assert np.array_equal(one["scales"][case], other["scales"][case])
        for name in ("units", "inverses"):
            assert np.array_equal(one[name][case, :walked], other[name][case, :walked], equal_nan=True)
