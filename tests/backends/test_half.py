"""Sixteen bits: what they stand for, how numbers are rounded to them, the random bits; in every language the same."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from steprule.backends import cache as kernels
from steprule.backends import half, half_torch, lanes, memory
from steprule.graph import chance
from steprule.graph import words as plan_words
from steprule.plan import float16, minifloats, rounding

WORDS = np.arange(1 << 16, dtype=np.uint16)
FORMATS = rounding.FORMATS
DTYPE = {"bfloat16": torch.bfloat16, "float16": torch.float16}
NAN = {"bfloat16": 0x7FC0, "float16": 0x7E00}
INFINITY = {"bfloat16": 0x7F80, "float16": 0x7C00}
KEY = chance.key(chance.parameter_seed(np.array([3]), np.array([1])), np.array([2]), np.array([0]))
formula = SimpleNamespace(**rounding.FORMULAS)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let NumPy say nothing about infinity and NaN."""
    with np.errstate(all="ignore"):
        yield


def words(values: Any) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


def hard() -> NDArray[np.float32]:
    """List the numbers of both formats, what lies halfway between two, the neighbours of those, and any others."""
    wide = np.concatenate([formula.widen_bfloat16(WORDS).view(np.uint32), formula.widen_float16(WORDS).view(np.uint32)])
    halfway = np.concatenate([wide + half for half in (0x8000, 0x1000)])
    small = words(np.arange(2050) * 2.0**-25)  # all halves of float16's smallest numbers
    exact = np.concatenate([wide, halfway, small, small | 0x80000000, np.array([1, 0x7F7FFFFF, 0x80000001], np.uint32)])
    any_ = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    few = any_ % (0x47800000 - 0x33000000) + 0x33000000  # where float16 has numbers
    return np.concatenate([exact, exact + 1, exact - 1, any_, few, few | 0x80000000]).astype(np.uint32).view(np.float32)


HARD = hard()
RANDOM = np.random.default_rng(1).integers(0, 1 << 16, HARD.size, dtype=np.uint32)
RANDOM[::7], RANDOM[1::7] = 0, 0xFFFF


# What the definition says -----------------------------------------------------------------------------


@pytest.mark.null
@pytest.mark.parametrize("name", FORMATS)
def test_sixteen_bits_stand_for_what_torch_says(name: str) -> None:
    told = torch.from_numpy(WORDS.view(np.int16)).view(DTYPE[name]).float().numpy()
    found = getattr(formula, f"widen_{name}")(WORDS)
    assert np.array_equal(np.isnan(found), np.isnan(told))
    assert np.array_equal(words(found)[~np.isnan(told)], words(told)[~np.isnan(told)])


@pytest.mark.null
@pytest.mark.parametrize("name", FORMATS)
def test_nearest_is_what_torch_rounds_to_and_nan_is_one_nan(name: str) -> None:
    found = getattr(formula, f"nearest_{name}")(HARD)
    told = torch.from_numpy(HARD).to(DTYPE[name]).view(torch.int16).numpy().view(np.uint16)
    ordinary = ~np.isnan(HARD)
    assert np.array_equal(found[ordinary], told[ordinary])
    for verb in ("nearest", "compensated"):
        assert set(getattr(formula, f"{verb}_{name}")(HARD)[~ordinary]) == {NAN[name]}
    assert set(getattr(formula, f"stochastic_{name}")(HARD, RANDOM)[~ordinary]) == {NAN[name]}


@pytest.mark.null
@pytest.mark.parametrize("name", FORMATS)
def test_stochastic_rounding_keeps_what_can_be_held_and_else_takes_a_neighbour(name: str) -> None:
    widen, rounded = (getattr(formula, f"{verb}_{name}") for verb in ("widen", "stochastic"))
    x = widen(WORDS)
    for random in (0, 1, 0x7FFF, 0xFFFF):
        kept = rounded(x, np.full(x.shape, random, np.uint32))
        assert np.array_equal(kept[~np.isnan(x)], WORDS[~np.isnan(x)])
    inside = np.abs(HARD) < (np.inf if name == "bfloat16" else 65536)
    finite = HARD[inside]
    low = rounded(finite, np.zeros(finite.shape, np.uint32))
    high = rounded(finite, np.full(finite.shape, 0xFFFF, np.uint32))
    aligned = 2.0**-38 if name == "float16" else 0  # half of what is below 13 bits of its smallest unit
    assert np.all(np.abs(widen(low)).astype(np.float64) <= np.abs(finite).astype(np.float64) + aligned)
    assert np.all((high == low) | (high == low + 1))
    some = rounded(HARD, RANDOM)[inside]
    assert np.all((some == low) | (some == high))
    sign = rounded(-HARD, RANDOM) ^ rounded(HARD, RANDOM)
    assert set(sign[~np.isnan(HARD)]) == {0x8000}


@pytest.mark.null
@pytest.mark.parametrize("name", FORMATS)
def test_the_mean_over_all_random_bits_is_the_number_itself(name: str) -> None:
    """Exactly, but for what of float16 is below 1/8,192 of its unit."""
    random = np.arange(1 << 16, dtype=np.uint32)
    numbers = [1.001, -1 / 3, 1e-3, 3.14159, 60000.7, 2.0**-14 * 1.0003, 1e-5, -7e-8, 3e-9, 2.0**-14 - 2.0**-30]
    for x in np.array(numbers, np.float32):
        found = getattr(formula, f"widen_{name}")(getattr(formula, f"stochastic_{name}")(np.full(1 << 16, x), random))
        unit = np.ptp(found)
        allowed = 0 if name == "bfloat16" or (abs(x) >= 2.0**-14 and abs(x) < 6e4) else 2.0**-14
        assert abs(found.astype(np.float64).mean() - np.float64(x)) <= allowed * unit, x


@pytest.mark.null
@pytest.mark.parametrize("name", FORMATS)
def test_numbers_too_large_become_infinity(name: str) -> None:
    most = getattr(formula, f"widen_{name}")(np.array([INFINITY[name] - 1], np.uint16))
    unit = most - getattr(formula, f"widen_{name}")(np.array([INFINITY[name] - 2], np.uint16))
    beyond = np.concatenate([most + unit * np.float32(share) for share in (0.25, 0.49, 0.5, 0.75)])
    nearest = [INFINITY[name] - 1] * 2 + [INFINITY[name]] * 2
    assert getattr(formula, f"nearest_{name}")(beyond).tolist() == nearest
    assert getattr(formula, f"nearest_{name}")(-beyond).tolist() == [word | 0x8000 for word in nearest]
    rounded = getattr(formula, f"stochastic_{name}")
    last = [rounded(beyond[:1], np.array([random], np.uint32))[0] for random in (0xBFFF, 0xC000)]
    assert last == [INFINITY[name] - 1, INFINITY[name]]  # infinity is the upper neighbour of the largest
    huge = np.array([np.inf] if name == "bfloat16" else [65536, 1e30, np.inf], np.float32)
    for random in (0, 0xFFFF):
        found = rounded(np.concatenate([huge, -huge]), np.full(2 * huge.size, random, np.uint32))
        assert set(found.tolist()) == {INFINITY[name], INFINITY[name] | 0x8000}


@pytest.mark.null
def test_bfloat16_and_its_remainder_are_every_float32_bit_for_bit() -> None:
    stored, rest = formula.compensated_bfloat16(HARD), formula.remainder_bfloat16(HARD)
    again = formula.joined_bfloat16(stored, rest)
    ordinary = ~np.isnan(HARD)
    assert np.array_equal(words(again)[ordinary], words(HARD)[ordinary])
    assert np.isnan(again[~ordinary]).all()
    assert rest.dtype == np.int16
    nearest = formula.nearest_bfloat16(HARD)
    tie = (words(HARD) & 0xFFFF) == 0x8000
    assert np.array_equal(stored[~tie], nearest[~tie])


@pytest.mark.null
def test_bfloat16_and_8_bits_are_the_nearest_24_bits() -> None:
    stored, rest = formula.compensated8_bfloat16(HARD), formula.remainder8_bfloat16(HARD)
    again = formula.joined8_bfloat16(stored, rest)
    ordinary = ~np.isnan(HARD)
    nearest = (words(HARD) + np.uint32(0x80)) & np.uint32(0xFFFFFF00)
    assert np.array_equal(words(again)[ordinary], nearest[ordinary])
    assert np.isnan(again[~ordinary]).all()
    kept = formula.joined8_bfloat16(formula.compensated8_bfloat16(again), formula.remainder8_bfloat16(again))
    assert np.array_equal(words(kept)[ordinary], words(again)[ordinary])
    every = np.arange(256).astype(np.uint8)
    assert np.all(np.abs(formula.joined8_bfloat16(np.zeros(256, np.uint16), every)) < 1e-38)


@pytest.mark.null
def test_float16_and_8_bits_are_256_times_as_exact() -> None:
    inside = HARD[(np.abs(HARD) < 60000) & (np.abs(HARD) >= 2.0**-14)]
    again = formula.joined8_float16(formula.compensated8_float16(inside), formula.remainder8_float16(inside))
    assert np.all(np.abs(again.astype(np.float64) - inside) <= np.abs(inside) * 2.0**-18)


@pytest.mark.null
def test_float16_and_its_remainder_are_every_float32_that_is_normal_and_nearly_every_other() -> None:
    stored, rest = formula.compensated_float16(HARD), formula.remainder_float16(HARD)
    again = formula.joined_float16(stored, rest)
    assert np.array_equal(stored, formula.nearest_float16(HARD))
    inside = np.isfinite(formula.widen_float16(stored))
    normal = inside & (np.abs(formula.widen_float16(stored)) >= 2.0**-14)
    assert np.array_equal(words(again)[normal], words(HARD)[normal])
    assert np.max(np.abs(again[inside].astype(np.float64) - HARD[inside])) <= 2.0**-40
    assert np.array_equal(np.signbit(again[HARD == 0]), np.signbit(HARD[HARD == 0]))
    assert set(rest[~inside]) == {0}
    assert np.isinf(again[~inside & ~np.isnan(HARD)]).all()
    kept = formula.joined_float16(formula.compensated_float16(again), formula.remainder_float16(again))
    assert np.array_equal(words(kept)[inside], words(again)[inside])


@pytest.mark.null
@pytest.mark.parametrize("name", FORMATS)
def test_a_zero_written_over_a_parameter_is_zero_whatever_remainder_is_left(name: str) -> None:
    every = np.arange(-(1 << 15), 1 << 15).astype(np.int16)
    for zero in (0, 0x8000):
        found = getattr(formula, f"joined_{name}")(np.full(every.shape, zero, np.uint16), every)
        assert np.all(np.abs(found) <= 2.0**-24)


# The random bits --------------------------------------------------------------------------------------


def bits_of(seed: int = 0, t: int = 1, parameter: int = 0, array: int = 0, first: int = 0) -> NDArray[np.float64]:
    """Draw what a step draws for one array; centred, in units of its deviation."""
    key = chance.key(chance.parameter_seed([seed], [parameter]), [t], [array // 2])
    found = formula.draw(first, np.arange(1 << 15), key)
    found = formula.high_bits(found) if array % 2 else formula.low_bits(found)
    return (found - 32767.5) / (65536 / 12**0.5)


@pytest.mark.null
def test_draws_of_alike_seeds_steps_parameters_arrays_and_places_are_independent() -> None:
    drawn = [bits_of()]
    drawn += [bits_of(**{name: 1 << power}) for name in ("seed", "parameter") for power in (0, 1, 2, 8, 16, 31)]
    drawn += [bits_of(t=1 + (1 << power)) for power in (0, 1, 2, 8, 16, 31)]
    drawn += [bits_of(array=array) for array in (1, 2, 3, 4)] + [bits_of(first=1 << power) for power in (0, 1, 5, 15)]
    table = np.array(drawn)
    size = table.shape[1]
    sigmas = (table @ table.T / size)[np.triu_indices(len(drawn), 1)] * size**0.5
    assert np.max(np.abs(sigmas)) < 4.5  # of some 300 pairs
    signs = np.where(table > 0, 1.0, -1.0)  # the uppermost bit alone
    assert np.max(np.abs((signs @ signs.T / size)[np.triu_indices(len(drawn), 1)])) * size**0.5 < 4.5
    assert np.max(np.abs(table.mean(axis=1))) * size**0.5 < 4.5
    assert np.max(np.abs((table**2).mean(axis=1) - 1)) * (size / 0.8) ** 0.5 < 4.5


@pytest.mark.null
def test_every_random_bit_is_as_often_one_as_zero() -> None:
    found = formula.draw(0, np.arange(1 << 18), KEY)
    for place in range(32):
        share = ((found >> place) & 1).mean()
        assert abs(share - 0.5) * 2 * (1 << 9) < 4.5


@pytest.mark.null
@pytest.mark.parametrize("name", FORMATS)
def test_rounding_by_what_is_drawn_is_right_on_average(name: str) -> None:
    x = np.random.default_rng(2).normal(0, 0.02, 1 << 18).astype(np.float32)
    random = formula.low_bits(formula.draw(0, np.arange(x.size), KEY))
    found = getattr(formula, f"widen_{name}")(getattr(formula, f"stochastic_{name}")(x, random))
    error = found.astype(np.float64) - x
    assert abs(error.mean()) < 4.5 * error.std() / x.size**0.5


@pytest.mark.null
def test_draws_are_what_they_were() -> None:
    """A training run that goes on draws as it did before: these numbers never change."""
    first = chance.parameter_seed(np.array([0, 7]), np.array([0, 3]))
    keys = chance.key(first, np.array([1, 1000]), np.array([0, 1]))
    assert [hex(int(one)) for one in (*first, *keys)] == GOLDEN_KEYS
    drawn = [formula.draw(start, np.arange(2), keys[1:]) for start in (0, (1 << 32) + 5)]
    assert [hex(int(one)) for one in np.concatenate(drawn)] == GOLDEN_DRAWS
    assert np.array_equal(formula.draw(5, np.arange(2), keys[1:]), drawn[1])  # places count modulo 2³²


GOLDEN_KEYS = ["0xa706dd2f4d197e6f", "0x9aaf21d8296e1e3d", "0x6073a59b34576c40", "0x2c6315b32626a177"]
GOLDEN_DRAWS = ["0x8853b55b", "0x9175f81f", "0xff069b62", "0x66e349dd"]


# Every language ---------------------------------------------------------------------------------------

X, R = HARD[::5].copy(), RANDOM[::5].copy()
R[::7], R[1::7] = 0, 0xFFFF
REST = np.resize(RANDOM, WORDS.size).astype(np.uint16).view(np.int16)


@cache
def told(name: str) -> dict[str, Any]:
    """Return what the definition makes of hard cases in a format."""
    with np.errstate(all="ignore"):
        return {
            "widen": getattr(formula, f"widen_{name}")(WORDS),
            "nearest": getattr(formula, f"nearest_{name}")(X),
            "stochastic": getattr(formula, f"stochastic_{name}")(X, R),
            "compensated": getattr(formula, f"compensated_{name}")(X),
            "remainder": getattr(formula, f"remainder_{name}")(X),
            "joined": getattr(formula, f"joined_{name}")(WORDS, REST),
            "draw": formula.draw(1 << 31, np.arange(4096), KEY),
        }


def agree(found: dict[str, Any], name: str) -> None:
    for verb, right in told(name).items():
        got = np.asarray(found[verb])
        if right.dtype == np.float32:
            assert np.array_equal(np.isnan(got), np.isnan(right)), verb
            got, right = words(got)[~np.isnan(right)], words(right)[~np.isnan(right)]
        assert np.array_equal(got, right), verb


LOOP = """
import numpy as np
from steprule.backends.half import draw, key, parameter_seed, {names}

def kernel(x, random, words, rest, widen, nearest, stochastic, compensated, remainder, joined, drawn):
    for i in range(x.size):
        nearest[i] = nearest_{name}(x[i])
        stochastic[i] = stochastic_{name}(x[i], random[i])
        compensated[i] = compensated_{name}(x[i])
        remainder[i] = remainder_{name}(x[i])
    for i in range(words.size):
        widen[i] = widen_{name}(words[i])
        joined[i] = joined_{name}(words[i], rest[i])
    own = key(parameter_seed(3, 1), 2, 0)
    for i in range(drawn.size):
        drawn[i] = draw(1 << 31, i, own)
"""


def loop(name: str) -> Any:
    verbs = ("widen", "nearest", "stochastic", "compensated", "remainder", "joined")
    return kernels.execute(LOOP.format(name=name, names=", ".join(f"{verb}_{name}" for verb in verbs)), "half")[
        "kernel"
    ]


def run(kernel: Any, name: str) -> dict[str, Any]:
    kinds = {"widen": np.float32, "nearest": np.uint16, "stochastic": np.uint16, "compensated": np.uint16,
             "remainder": np.int16, "joined": np.float32, "draw": np.uint32}  # fmt: skip
    found = {verb: np.zeros(right.shape, kinds[verb]) for verb, right in told(name).items()}
    kernel(X, R, WORDS, REST, *found.values())
    return found


@pytest.mark.cpu
@pytest.mark.parametrize("converts", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_compiled_kernels_round_bit_for_bit_as_defined(
    name: str, converts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not converts:
        monkeypatch.setattr(half, "converts", lambda target: False)
    agree(run(numba.njit(**memory.EXACT)(loop(name)), name), name)


@pytest.mark.cpu
def test_float16_is_converted_by_an_instruction_only_where_there_is_one() -> None:
    x86, arm = "x86_64-unknown-linux-gnu", "aarch64-apple-darwin"
    assert half.converts((x86, "skylake", "+avx2,+f16c,+fma"))
    assert not half.converts((x86, "x86-64", "+sse2,-f16c"))
    assert not half.converts((x86, "x86-64", ""))
    assert half.converts((arm, "apple-m1", ""))


@pytest.mark.cpu
def test_words_of_32_bits_stay_so_wide_in_the_loops_of_kernels() -> None:
    """In words of 64 bits, as Numba has it, the same would take twice the time."""

    source = """
from steprule.backends.half import draw, high_bits, key, low_bits, parameter_seed, stochastic_bfloat16, widen_bfloat16
from steprule.backends.memory import int64_at, uint16_at

def kernel(lo, hi, directory):
    of = int64_at(directory)
    p, m, start = uint16_at(of[0]), uint16_at(of[1]), of[2]
    own = key(parameter_seed(of[3], 1), of[4], 0)
    for i in range(lo, hi):
        x = widen_bfloat16(p[i]) + widen_bfloat16(m[i])
        drawn = draw(start, i, own)
        p[i] = stochastic_bfloat16(x, low_bits(drawn))
        m[i] = stochastic_bfloat16(x * x, high_bits(drawn))
"""
    kernel = numba.cfunc(numba.void(*[numba.int64] * 3), **memory.EXACT)(kernels.execute(source, "wide")["kernel"])
    text = kernel._library.get_llvm_str()
    assert "mul <" in text
    assert not [line for line in text.splitlines() if "mul <" in line and "x i64>" in line]
    tables = np.array([3, 5], np.uint16), np.array([4, 6], np.uint16)
    addresses = np.array([*(table.ctypes.data for table in tables), 9, 0, 1], np.int64)
    plain = [table.copy() for table in tables]
    kernels.plain(source)(0, 2, np.array([*(t.ctypes.data for t in plain), 9, 0, 1], np.int64).ctypes.data)
    kernel.ctypes(0, 2, addresses.ctypes.data)
    assert all(map(np.array_equal, tables, plain))


@pytest.mark.cpu
@pytest.mark.parametrize("module", [rounding, half, lanes, memory, float16, minifloats, chance, plan_words])
def test_a_formula_that_changes_makes_other_kernels(
    module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = kernels.digest("kernel")
    changed = tmp_path / "changed.py"
    changed.write_text(Path(module.__file__).read_text(encoding="utf-8") + "\n", encoding="utf-8")
    monkeypatch.setattr(module, "__file__", str(changed))
    assert kernels.digest("kernel") != before


@pytest.mark.null
@pytest.mark.parametrize("name", FORMATS)
def test_torch_rounds_bit_for_bit_as_defined(name: str) -> None:
    dtype, x, random = DTYPE[name], torch.from_numpy(X), torch.from_numpy(R.astype(np.int64))
    stored = torch.from_numpy(WORDS.view(np.int16)).view(dtype)
    found = {verb: half_torch.rounded(x, dtype, verb).view(torch.int16) for verb in ("nearest", "compensated")}
    found["stochastic"] = half_torch.rounded(x, dtype, "stochastic", random).view(torch.int16)
    drawn = half_torch.draws((1 << 31) + torch.arange(64 * 64).view(64, 64), int(KEY[0]))
    both = (drawn[0] | drawn[1] << 16).flatten().numpy().astype(np.uint32)
    agree(
        {verb: word.numpy().view(np.uint16) for verb, word in found.items()}
        | {"widen": stored.float(), "remainder": half_torch.remainder(x, dtype), "draw": both}
        | {"joined": half_torch.joined(stored, torch.from_numpy(REST))},
        name,
    )


@pytest.mark.interp
@pytest.mark.parametrize("name", FORMATS)
def test_triton_rounds_bit_for_bit_as_defined(name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled, for tensors on a device")
    from half_kernel import every

    def on(values: Any, *shape: int) -> torch.Tensor:
        return torch.zeros(shape or values.shape, dtype=getattr(torch, str(values.dtype)))

    right = told(name)
    found = {verb: on(values) for verb, values in right.items()}
    given = [torch.from_numpy(values) for values in (X, R, WORDS, REST)]
    every[(-(-X.size // BLOCK),)](
        *given, *found.values(), X.size, WORDS.size, right["draw"].size, 3, 2, name == "float16", BLOCK
    )
    agree({verb: values.numpy() for verb, values in found.items()}, name)


BLOCK = 1 << 17
