"""What rules draw: the same numbers everywhere, however a tensor is cut, and as random as they must be."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import steprule as sr
from steprule import normal, rademacher, rule, uniform
from steprule.backends import BACKENDS, cache, numba_cpu
from steprule.backends.base import Place
from steprule.backends.half_torch import chance as by_torch
from steprule.graph import chance
from steprule.graph.evaluate import evaluate, words
from steprule.graph.node import drawn
from steprule.plan import minifloats, rounding
from steprule.plan.program import lowered
from steprule.plan.schedule import schedule

SEED, T = 11, 7
SHAPES = [(5,), (), (2, 3, 5), (0,), (23, 3)]
ULPS = {"float32": 5, "float64": 8}


@rule
def all_three(theta, g, n, u, r, *, lr=1.0):
    """Keep what is drawn."""
    return theta - lr * normal(), normal(), uniform(), rademacher()


@rule
def langevin(theta, g, *, lr=0.1):
    return theta - lr * g + sr.sqrt(2 * lr) * normal()


PLAN = schedule(all_three.graph)
NAMES = ("theta", "g", "n", "u", "r")


def places(shapes: list[tuple[int, ...]]) -> list[Place]:
    own = chance.parameter_seed(np.array([SEED], np.uint64), np.arange(len(shapes))).view(np.int64).tolist()
    return [Place(stream, shape, (0,) * len(shape)) for stream, shape in zip(own, shapes, strict=True)]


def stepped(kind: str, dtype: torch.dtype, shapes: list[tuple[int, ...]], where: list[Place]) -> list[Any]:
    """Return the slots after step T, of tensors of zeros."""
    arrays: Any = {name: [torch.zeros(shape, dtype=dtype) for shape in shapes] for name in NAMES}
    kernel: Any = BACKENDS["numba_cpu" if kind == "plain" else kind].kernel(
        lowered(PLAN, str(dtype).removeprefix("torch."))
    )
    if kind == "plain":
        kernel._function = cache.plain(kernel.source)
    counts = torch.full((len(shapes), 1), T - 1.0, dtype=torch.float64)
    batch = kernel.batch(arrays, [0] * len(shapes), counts, where)
    batch.step(np.array([[1.0]] * len(shapes) if kind == "triton_gpu" else [[1.0, T]]))
    return [{name: arrays[name][i] for name in NAMES} for i in range(len(shapes))]


def truth() -> list[dict[str, NDArray[np.float64]]]:
    zeros = [dict.fromkeys(NAMES, np.zeros(shape)) for shape in SHAPES]
    return evaluate(all_three.graph, zeros, [{"lr": 1.0, "t": T}] * len(SHAPES), seed=SEED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("eager", marks=pytest.mark.null),
        pytest.param("plain", marks=pytest.mark.null),
        pytest.param("numba_cpu", marks=pytest.mark.cpu),
        pytest.param("triton_gpu", marks=pytest.mark.interp),
    ],
)
@pytest.mark.usefixtures("small_chunks")
def test_every_backend_draws_the_same_integers_and_the_same_normals_but_for_ulps(kind: str, dtype: Any) -> None:
    if kind == "triton_gpu" and torch.cuda.is_available():
        pytest.skip("kernels are compiled, for tensors on a device")
    for found, right in zip(stepped(kind, dtype, SHAPES, places(SHAPES)), truth(), strict=True):
        for name in ("u", "r"):
            assert np.array_equal(found[name].numpy(), right[name]), name  # of 24 bits and 1: exact in both types
        for name, wanted in (("n", right["n"]), ("theta", right["theta"])):
            spacing = np.spacing(np.abs(wanted).astype(found[name].numpy().dtype)).astype(np.float64)
            off = np.abs(found[name].double().numpy() - wanted) / spacing
            assert off.max(initial=0) <= ULPS[str(dtype)[6:]], name
        if found["n"].numel() > 1:
            assert not np.array_equal(found["n"], -found["theta"])  # two calls of one function


@pytest.mark.cpu
@pytest.mark.usefixtures("small_chunks")
def test_an_element_draws_the_same_however_its_tensor_is_cut_shared_out_or_laid_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = (70, 3)
    (whole,), (place,) = stepped("numba_cpu", torch.float32, [shape], places([shape])), places([shape])
    cuts = [0, 1, 30, 69, 70]
    own = [(b - a, 3) for a, b in itertools.pairwise(cuts)]
    where = [Place(place.stream, shape, (a, 0)) for a in cuts[:-1]]
    for name in NAMES[2:]:
        assert torch.equal(
            torch.cat([part[name] for part in stepped("numba_cpu", torch.float32, own, where)]), whole[name]
        )
    monkeypatch.setattr(numba_cpu, "PARALLEL_FROM", {True: 2, False: 2})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    (shared,) = stepped("numba_cpu", torch.float32, [shape], places([shape]))
    assert all(torch.equal(shared[name], whole[name]) for name in NAMES)
    turned = torch.nn.Parameter(torch.zeros(3, 70).T)
    straight = torch.nn.Parameter(torch.zeros(70, 3))
    for parameter in (turned, straight):
        parameter.grad = torch.zeros_like(parameter)
        langevin.optimizer([parameter], seed=3).step()
    torch.testing.assert_close(turned.detach(), straight.detach(), rtol=1e-6, atol=0)


@pytest.mark.cpu
def test_a_resumed_run_draws_what_the_undisturbed_one_does_and_seeds_and_steps_differ() -> None:
    def steps(optimizer: sr.Optimizer, parameter: torch.nn.Parameter, count: int) -> torch.Tensor:
        for _ in range(count):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        return parameter.detach().clone()

    parameter = torch.nn.Parameter(torch.zeros(9))
    optimizer = langevin.optimizer([parameter], seed=5)
    half = steps(optimizer, parameter, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    end = steps(optimizer, parameter, 2)
    again = torch.nn.Parameter(half.clone())
    resumed = langevin.optimizer([again], seed=5)
    resumed.load_state_dict(saved)
    assert torch.equal(steps(resumed, again, 2), end)
    firsts = []
    for seed in (5, 6):
        fresh = torch.nn.Parameter(torch.zeros(9))
        firsts.append(steps(langevin.optimizer([fresh], seed=seed), fresh, 1))
    assert not torch.equal(*firsts)
    assert not torch.allclose(end - half, half, atol=0.1)


# As random as they must be ----------------------------------------------------------------------------


def stream(site: int = 0, t: float = 1.0, parameter: int = 0, seed: int = 0, size: int = 1 << 16) -> Any:
    return words(drawn("normal", site), (size,), t, parameter, seed).reshape(-1)


STREAMS = [{}, {"site": 1}, {"site": 999}, {"t": 2.0}, {"t": 4097.0}, {"parameter": 1}, {"parameter": 4096},
           {"seed": 1}, {"seed": 2**63}]  # fmt: skip
"""Streams that are alike, of which each must be random, and no two related."""


@pytest.mark.null
@pytest.mark.parametrize("which", range(len(STREAMS)))
def test_draws_pass_the_standard_tests_of_uniformity(which: int) -> None:
    """Monobit, runs and serial correlation (NIST SP 800-22), χ² of bytes, Kolmogorov–Smirnov: 4.5 deviations."""
    own = stream(**STREAMS[which])
    bits = np.unpackbits(own.view(np.uint8))
    assert abs(bits.mean() - 0.5) * 2 * bits.size**0.5 < 4.5
    assert abs((bits[1:] != bits[:-1]).mean() - 0.5) * 2 * bits.size**0.5 < 4.5
    for place in range(4):
        count = np.bincount((own >> (8 * place)).astype(np.uint8), minlength=256)
        chi = ((count - own.size / 256) ** 2).sum() / (own.size / 256)
        assert abs(chi - 255) < 4.5 * (2 * 255) ** 0.5
    u = np.sort(chance.uniform_float64(own))
    assert np.abs(u - (np.arange(u.size) + 0.5) / u.size).max() * u.size**0.5 < 2.3  # p about 5e-5
    z = chance.normal_float64(own)
    cdf = np.array([0.5 * math.erfc(-x / 2**0.5) for x in np.sort(z)[:: 1 << 6]])
    assert np.abs(cdf - np.arange(0, z.size, 1 << 6) / z.size).max() * z.size**0.5 < 2.3
    assert abs(z.mean()) * z.size**0.5 < 4.5
    assert abs(z.var() - 1) * (z.size / 2) ** 0.5 < 4.5
    for lag in (1, 2, 3, 64, 1024):
        assert abs((z[lag:] * z[:-lag]).mean()) * z.size**0.5 < 4.5
    for other in STREAMS[which + 1 :]:
        assert abs((z * chance.normal_float64(stream(**other))).mean()) * z.size**0.5 < 4.5


@pytest.mark.null
def test_normals_are_the_inverse_of_the_distribution_at_the_ends_the_middle_and_where_formulas_meet() -> None:
    from statistics import NormalDist

    k = np.concatenate([np.arange(64), (1 << 23) + np.arange(-64, 64), (1 << 24) - 1 - np.arange(64)])
    k = np.concatenate([k, [round((0.5 + sign * 0.425) * 2**24) + near for sign in (-1, 1) for near in range(-4, 4)]])
    exact = np.array([NormalDist().inv_cdf((2 * int(one) + 1) / 2**25) for one in k])
    own = (k << 8).astype(np.uint32)
    assert np.all(np.abs(chance.normal_float64(own) - exact) <= 1e-15 * np.abs(exact))
    assert np.all(np.abs(chance.normal_float32(own) - exact) <= 5 * np.spacing(np.abs(exact).astype(np.float32)))
    assert np.array_equal(chance.normal_float64(own[:64]), -chance.normal_float64(own[192:256]))


@pytest.mark.null
def test_draws_of_rules_are_what_they_were_and_no_two_formulas_share_a_constant() -> None:
    """A training run that goes on draws as it did before: these numbers never change."""
    assert [hex(int(one)) for one in stream(size=3)] == GOLDEN
    x = torch.zeros(3, dtype=torch.float64)
    place = places([(3,)])[0]
    assert np.array_equal(by_torch(drawn("uniform", 2), x, place, T).numpy(),
                          chance.uniform_float64(stream(2, T, 0, SEED, 3)))  # fmt: skip
    known: dict[str, Any] = {}
    for module in (rounding, minifloats, chance):
        for name, value in vars(module).items():
            if isinstance(value, int | float):
                assert known.setdefault(name, value) == value, f"{name}: every language has one of it"


GOLDEN = ["0x719e2c5e", "0x53579b3d", "0x4f37d8c"]


@rule
def drawn_first(theta, g, *, lr=0.1):
    """Draw in a pass that reads no array, and before any scalar is needed."""
    return theta - lr * sr.norm(normal()) * g


@pytest.mark.interp
@pytest.mark.usefixtures("small_chunks")
def test_a_first_pass_that_only_draws_knows_the_step_on_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("kernels are compiled, for tensors on a device")
    arrays: Any = {name: [torch.ones(11, dtype=torch.float64)] for name in ("theta", "g")}
    kernel = BACKENDS["triton_gpu"].kernel(lowered(schedule(drawn_first.graph), "float64"))
    counts = torch.full((1, 1), T - 1.0, dtype=torch.float64)
    kernel.batch(arrays, [0], counts, places([(11,)])).step(np.array([[0.1]]))
    (right,) = evaluate(
        drawn_first.graph, [dict.fromkeys(("theta", "g"), np.ones(11))], [{"lr": 0.1, "t": T}], seed=SEED
    )
    np.testing.assert_allclose(arrays["theta"][0].numpy(), right["theta"], rtol=1e-12)
