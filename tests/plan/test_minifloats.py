"""Eight bits: what codes stand for, and what becomes of any number in them, by the definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from steprule.plan import groups, minifloats, rounding

pytestmark = pytest.mark.null

KINDS = minifloats.GROUPED
FINEST = {"int8": (8, 2.0**-16), "uint8": (16, 2.0**-17)}
"""The bounds that are documented: a share of the number (its root) itself, and of the greatest of the group."""
say: Any = rounding.FORMULAS
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Let NumPy say nothing about infinity and NaN."""
    with np.errstate(all="ignore"):
        yield


def code(x: Any, kind: str, random: Any = 0x8000) -> tuple[Any, Any]:
    """Return the codes and the exponent of one group."""
    with np.errstate(all="ignore"):
        kept = say[f"kept_{kind}"](np.asarray(x, np.float32))
        exponent = say[f"exponent_{kind}"](np.array([say["magnitude"](kept).max(initial=0)], np.uint32))
        bits = np.broadcast_to(np.asarray(random, np.uint32), kept.shape)
        return say[f"stochastic_{kind}"](kept, say["inverse"](exponent), bits), exponent


def there_and_back(x: Any, kind: str, random: Any = 0x8000) -> Any:
    """Return what becomes of a group."""
    with np.errstate(all="ignore"):
        codes, exponent = code(x, kind, random)
        return say[f"widen_{kind}"](codes, say["unit"](exponent))


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
near = st.floats(-10, 10, width=32)
a_group = arrays.arrays(np.float32, st.integers(1, 32), elements=st.one_of(floats, near, st.just(0.0)))
random_bits = st.integers(0, 0xFFFF)


def of_kind(x: Any, kind: str) -> Any:
    return np.abs(x) if kind == "uint8" else x


@every_kind
@settings(max_examples=150, deadline=None)
@given(x=a_group, random=random_bits)
def test_a_number_comes_back_within_the_documented_bound(kind: str, x: Any, random: int) -> None:
    """Zeros, denormals, the largest and one huge number among small ones too; a root that was 0 is the smallest."""
    x = of_kind(x, kind).astype(np.float32)
    found, share, least = there_and_back(x, kind, random), *FINEST[kind]
    size, came = (np.abs(v.astype(np.float64)) for v in (x, found))
    if kind == "uint8":
        size, came = np.sqrt(size), np.sqrt(came)
    floor = 2.0**-72 if kind == "uint8" else 2.0**-143
    bound = np.maximum(size / share, least * size.max()) + (floor if size.max() else 0)
    over = size * (1 + 2 / share) > 2.0**64 if kind == "uint8" else np.zeros(size.shape, bool)  # its square may be ∞
    assert np.all((np.abs(came - size) <= bound * (1 + 1e-6)) | (over & np.isinf(came)))
    assert np.all(np.sign(found) * np.sign(x) >= 0)
    nearest = np.abs(there_and_back(x, "int8").astype(np.float64) - x)
    assert np.all(nearest <= np.maximum(np.abs(x) / 16.0, 2.0**-17 * np.abs(x).max()) * (1 + 1e-6) + 2.0**-143)


@every_kind
@settings(max_examples=100, deadline=None)
@given(x=a_group, random=random_bits, again=random_bits)
def test_what_was_coded_once_is_kept_bit_for_bit(kind: str, x: Any, random: int, again: int) -> None:
    """Whatever is drawn, though the unit may be a smaller one by then."""
    once = there_and_back(of_kind(x, kind), kind, random)
    assert there_and_back(once, kind, again).tobytes() == once.tobytes()


@every_kind
@settings(max_examples=100, deadline=None)
@given(x=a_group, random=random_bits)
def test_codes_keep_the_order_of_numbers(kind: str, x: Any, random: int) -> None:
    x = np.sort(of_kind(x, kind))
    assert np.all(np.diff(there_and_back(x, kind, random).astype(np.float64)) >= 0)


def test_zero_is_exact_and_keeps_its_sign() -> None:
    found = there_and_back([0.0, -0.0, 1e30, 0.0], "int8", 0xFFFF)
    assert found[:2].tolist() == [0.0, 0.0]
    assert np.signbit(found).tolist() == [False, True, False, False]
    for kind in KINDS:
        assert not there_and_back(np.zeros(7), kind, 0xFFFF).any()
        assert there_and_back(np.zeros(0), kind).shape == (0,)
        assert not say[f"widen_{kind}"](np.zeros(3, np.uint8), say["unit"](np.zeros(3, np.uint8))).any()


@every_kind
def test_nan_and_infinity_make_their_group_nan_and_the_largest_number_does_not(kind: str) -> None:
    for bad in (np.nan, np.inf):
        assert np.isnan(there_and_back([1.0, bad, 0.0], kind)).all()
    assert np.isnan(there_and_back([-np.inf, 1.0], "int8")).all()
    assert np.isnan(there_and_back([1.0, -1e-9], "uint8")).all()  # it has no root, and says so
    most = np.float32(3.4028235e38 if kind == "int8" else 3e38)  # infinity is the upper neighbour of the largest
    found = there_and_back([most, most / 2, 0.0], kind, 0xFFFF)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:2], [most, most / 2], rtol=1 / 8)


def test_a_root_beside_others_is_never_zero() -> None:
    """A first moment under a second one of 0 would move the parameter by m/ε."""
    for greatest in (1e-40, 1e-30, 1.0, 1e38):
        for random in (0, 0xFFFF):
            assert (there_and_back([greatest, 0.0, greatest * 1e-20], "uint8", random) > 0).all()


@every_kind
def test_codes_stand_for_numbers_that_rise_with_them(kind: str) -> None:
    codes = np.arange(128 if kind == "int8" else 256, dtype=np.uint8)
    found = say[f"widen_{kind}"](codes, say["unit"](np.full(codes.shape, 127, np.uint8))).astype(np.float64)
    root = np.sqrt(found) if kind == "uint8" else found
    assert np.all(np.diff(found) > 0)
    mantissa = 3 if kind == "int8" else 4
    told = [m * 2.0 ** (-13 - mantissa - 1) if e == 0 else (1 + m / 2**mantissa) * 2.0 ** (e - 15)
            for e, m in (divmod(int(own), 2**mantissa) for own in codes)]  # fmt: skip
    assert root.tolist() == told


@every_kind
def test_a_code_is_right_on_average(kind: str) -> None:
    """Over all random bits: the number, or the root; to 1/65,536 of the distance of neighbours."""
    random = np.arange(1 << 16, dtype=np.uint32)
    for x in (1.001, 0.3333, 1e-3, 7.7e-5, 3.1e-5, 2e-6, -0.77 if kind == "int8" else 0.5):
        given = np.full(1 << 16, x, np.float32)
        given[0] = 1.3
        found = there_and_back(given, kind, random)[1:].astype(np.float64)
        own, told = (np.sqrt(found), np.sqrt(given[1])) if kind == "uint8" else (found, given[1])
        distance = np.ptp(own)
        assert abs(own.mean() - float(told)) <= distance / 65536 + 1e-9 * abs(x), x
        assert distance > 0


@every_kind
def test_the_greatest_of_a_group_is_right_on_average(kind: str) -> None:
    """Wherever it lies between two powers of two: rounded up, it still has a code."""
    random = np.arange(1 << 16, dtype=np.uint32)
    for kept in (1.0, 1.8, 1.88, 1.95, 1.99, 1.9999):
        kept = np.float32(kept)
        codes, exponent = code(np.full(1 << 16, kept if kind == "int8" else kept**2), kind, random)
        found = say[f"widen_{kind}"](codes, say["unit"](exponent)).astype(np.float64)
        told = np.sqrt(found) if kind == "uint8" else found
        assert abs(told.mean() - float(kept)) < 1e-5, kept


def test_one_huge_number_costs_others_what_the_bound_says() -> None:
    found = there_and_back([1e4, 1.0, 0.01, -0.3], "int8")
    np.testing.assert_allclose(found, [1e4, 1.0, 0.01, -0.3], rtol=1 / 16, atol=2.0**-17 * 1e4)


# Which elements are a group ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 3000))
def test_groups_have_32_elements_at_most_and_lie_within_their_block(length: int) -> None:
    group = groups.group_of(length)
    sizes = np.bincount(group, minlength=groups.units(length))
    assert len(sizes) == groups.units(length)
    assert sizes.min() >= 1
    assert sizes.max() <= groups.GROUP
    for own in range(len(sizes)):
        assert len(set(np.flatnonzero(group == own) // groups.BLOCK)) == 1
    full = group[: length // groups.BLOCK * groups.BLOCK]
    assert np.array_equal(full % groups.LANES, np.arange(len(full)) % groups.LANES)


def test_whether_a_tensor_has_groups_depends_on_its_shape() -> None:
    asked = [(), (0,), (10**6,), (64, 63), (64, 64), (4096, 1), (2, 3, 1000), (0, 5), (5000, 0)]
    found = [groups.words_of(shape) for shape in asked]
    assert ["8bit" in words for words in found] == [False, False, False, False, True, True, True, False, False]
    assert ["8bit-all" in words for words in found] == [True, False, True, True, True, True, True, False, False]
    rows = [(groups.row_count(shape), groups.row_length(shape)) for shape in asked]
    assert rows == [(1, 1), (1, 0), (1, 10**6), (64, 63), (64, 64), (4096, 1), (2, 3000), (0, 5), (5000, 0)]
