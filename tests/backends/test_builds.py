"""The sizes of a GPU kernel are chosen when it is made: in its text, in its tables and in what it is launched with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import steprule as sr
from steprule import board, chain, errors
from steprule.backends.triton_build import Build, building
from steprule.backends.triton_gpu import TritonKernel, interpreted
from steprule.plan.program import lowered
from steprule.plan.schedule import schedule

CLIPPED = chain(sr.clip_global_norm(max_norm=0.5), board.adam)
SMALL = Build(chunk=16, block=8, warps=2, rows=4)


@pytest.mark.null
def test_a_build_is_in_the_text_and_its_warps_are_not() -> None:
    plan = schedule(CLIPPED.graph)
    usual, small, two = (TritonKernel(lowered(plan), build=own) for own in (None, SMALL, Build(warps=2)))
    for size in ("CHUNK: tl.constexpr = tl.constexpr(16)", "constexpr(8)", "constexpr(4)"):
        assert size in small.source
        assert size not in usual.source
    assert two.source == usual.source
    assert [own.build.options()["num_warps"] for own in (usual, small, two)] == [4, 2, 2]
    with building(SMALL):
        assert TritonKernel(lowered(plan)).source == small.source
    assert TritonKernel(lowered(plan)).source == usual.source


@pytest.mark.null
@pytest.mark.parametrize(
    "wrong", [{"chunk": 1000}, {"block": 8192}, {"warps": 64}, {"rows": 0}, {"chunk": 1 << 21}], ids=str
)
def test_a_build_that_no_kernel_can_have_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(errors.BackendError, match=r"a build[\s\S]*help: "):
        Build(**wrong)


@pytest.mark.null
def test_the_smallest_and_the_largest_build_fit_the_registers_of_a_multiprocessor() -> None:
    assert Build(chunk=1, block=1, warps=1, rows=1).options()["num_warps"] == 1
    builds = [Build(chunk=1024, block=1024, warps=1 << power) for power in range(6)]
    for real, most in (("float32", 128), ("float64", 255)):
        assert [own.options(real)["maxnreg"] for own in builds] == [most, most, most, most, 128, 64]


@pytest.mark.interp
@pytest.mark.skipif(not interpreted(), reason="a GPU is here, and parameters are in main memory")
def test_kernels_of_other_sizes_take_the_same_steps() -> None:
    def run(build: Build) -> tuple[Any, ...]:
        torch.manual_seed(2)
        parameters = [torch.nn.Parameter(torch.randn(size, dtype=torch.float64)) for size in (1, 37, 0, 16, 5)]
        with building(build):
            optimizer = sr.Optimizer(parameters, CLIPPED, backend="triton_gpu")
            for _ in range(2):
                for parameter in parameters:
                    parameter.grad = torch.randn_like(parameter)
                optimizer.step()
        batch = optimizer._binding.buckets[0].batch
        return batch._counts, torch.cat([parameter.detach() for parameter in parameters])

    (usual, expected), (small, found) = run(Build()), run(SMALL)
    assert usual == (5, 4)
    assert small == (5, 6)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)
