"""GPU kernels on a GPU: numbers, graphs, streams, and that no step waits. Skipped, all of it, where there is none."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from test_rounding import HALF, ROUNDINGS, exact, of_few_bits
from truth import WITH_CLIPPING, corrected_adam, make

import steprule as sr
from steprule import board

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
SHAPES = [(5,), (), (0,), (70_001,), (4, 3)]
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 2**-7, torch.float16: 2**-10}


class Twins:
    """The same parameters on the GPU and in main memory: there in float64, or in the same 16 bits.

    What 16 bits have lost is lost on both sides; the last bit differs where a sum of another order was near a tie.
    """

    def __init__(self, dtype: torch.dtype = torch.float32, shapes: Any = SHAPES) -> None:
        self.there = [torch.nn.Parameter(parameter.detach().to("cuda")) for parameter in make(*shapes, dtype=dtype)]
        kind = dtype if dtype in HALF else torch.float64
        self.here = [torch.nn.Parameter(parameter.detach().cpu().to(kind)) for parameter in self.there]

    def gradients(self) -> None:
        """Give both the same new gradients; on the GPU, in the memory of the last ones."""
        for mine, other in zip(self.here, self.there, strict=True):
            new = torch.randn(other.shape).to(other.dtype)
            mine.grad = new.to(mine)
            if other.grad is None:
                other.grad = torch.empty_like(other)
            other.grad.copy_(new)

    def agree(self) -> None:
        for mine, other in zip(self.here, self.there, strict=True):
            close = CLOSE[other.dtype]
            found, right = other.detach().cpu().double(), mine.detach().double()
            torch.testing.assert_close(found, right, rtol=close, atol=close)


def held(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return copies in main memory of all parameters and their state."""
    found: list[torch.Tensor] = []
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        state = optimizer.state.get(parameter, {})
        found += [tensor.detach().cpu().clone() for tensor in (parameter, *(state[key] for key in sorted(state)))]
    return found


def assert_same(ours: torch.optim.Optimizer, other: torch.optim.Optimizer) -> None:
    """Compare bit by bit, and the types too; NaN is like NaN."""
    for one, two in zip(held(ours), held(other), strict=True):
        torch.testing.assert_close(one, two.to(one.dtype), rtol=0, atol=0, equal_nan=True)


@contextmanager
def without_waiting() -> Generator[None]:
    """Make an error of every wait for the GPU; torch says once that it does not notice all of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("program", [*WITH_CLIPPING, corrected_adam], ids=lambda program: repr(program)[:40])
def test_every_rule_and_dtype_follows_main_memory(program: Any, dtype: torch.dtype) -> None:
    twins = Twins(dtype)
    optimizers = [sr.Optimizer(parameters, program) for parameters in (twins.here, twins.there)]
    for _ in range(2):
        twins.gradients()
        for optimizer in optimizers:
            optimizer.step()
        twins.agree()
    assert sr.explain(optimizers[1]).backend == "triton_gpu"


@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_no_step_waits_for_the_gpu(nonfinite: str) -> None:
    twins = Twins()
    optimizer = sr.optim.AdamW(twins.there, clip=1.0, nonfinite=nonfinite)
    twins.gradients()
    optimizer.step()
    torch.cuda.synchronize()
    with without_waiting():
        for number in range(5):
            optimizer.param_groups[0]["lr"] = 1e-3 * number
            for parameter in twins.there:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()


def test_a_scaled_step_does_not_wait_and_is_left_out_where_it_overflowed() -> None:
    twins = Twins()
    optimizer: Any = sr.optim.AdamW(twins.there, clip=1.0, fused=True)
    optimizer.grad_scale, optimizer.found_inf = (torch.full((), x, device="cuda") for x in (8.0, 0.0))
    twins.gradients()
    optimizer.step()
    torch.cuda.synchronize()
    with without_waiting():
        optimizer.found_inf.fill_(1.0)
        optimizer.step()
        optimizer.found_inf.fill_(0.0)
        optimizer.step()
    assert {float(optimizer.state[p]["step"]) for p in twins.there} == {2.0}


def test_a_graph_replays_scheduled_rates_as_eager_steps_do_bit_for_bit() -> None:
    results = []
    for captured in (False, True):
        torch.manual_seed(4)
        twins = Twins()
        rate = torch.tensor(0.1, device="cuda")
        optimizer = sr.optim.AdamW(twins.there, lr=rate, clip=1.0, capturable=True)
        twins.gradients()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        step: Any = optimizer.step
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
            step = graph.replay
        for new in (0.1, 0.02, 0.5):
            rate.fill_(new)
            twins.gradients()
            step()
        results.append([parameter.detach().cpu() for parameter in twins.there])
        assert {float(optimizer.state[p]["step"]) for p in twins.there} == {6.0}
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")  # as it should be
def test_a_capture_of_the_first_step_or_without_capturable_is_refused() -> None:
    for capturable, warm in ((True, False), (False, True)):
        twins = Twins()
        optimizer = sr.Optimizer(twins.there, board.momentum, capturable=capturable)
        twins.gradients()
        if warm:
            optimizer.step()
            torch.cuda.synchronize()
        with pytest.raises(sr.errors.BackendError), torch.cuda.graph(torch.cuda.CUDAGraph()):
            optimizer.step()


def test_optimisers_on_their_own_streams_do_not_disturb_each_other() -> None:
    sets = [Twins() for _ in range(3)]
    pairs = [[sr.Optimizer(p, corrected_adam) for p in (twins.here, twins.there)] for twins in sets]
    streams = [torch.cuda.Stream() for _ in sets]
    for _ in range(4):
        for twins, (here, there), stream in zip(sets, pairs, streams, strict=True):
            twins.gradients()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                there.step()
            here.step()
        torch.cuda.synchronize()
    for twins in sets:
        twins.agree()


# What is no sum has the bits of main memory ---------------------------------------------------------------


@sr.rule
def of_exponentials(theta, g, m, *, lr=0.5, beta=0.5):
    """Functions of NVIDIA's library, of and into numbers that may be subnormal; they are off by a few of the last."""
    m = beta * m + sr.exp(g)
    return theta - lr * (1e20 * m**0.5 + sr.log(m)), m


def beside(make_one: Any, parameters: list[torch.Tensor]) -> list[sr.Optimizer]:
    """Make the same optimiser in main memory and on the GPU."""
    placed = [[torch.nn.Parameter(p.detach().to(where, copy=True)) for p in parameters] for where in ("cpu", "cuda")]
    return [make_one(parameters) for parameters in placed]


def step(optimizers: list[sr.Optimizer], gradients: list[torch.Tensor | None]) -> None:
    """Give all the same gradients, in new memory, and step."""
    for optimizer in optimizers:
        for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)
        optimizer.step()


@pytest.mark.parametrize("program", [board.momentum, board.adagrad, board.rmsprop, board.adam], ids=lambda p: p.name)
def test_every_operation_is_rounded_as_in_main_memory(program: Any) -> None:
    """A product and a sum are two operations, quotients and roots are correctly rounded: to the last bit."""
    optimizers = beside(program.optimizer, make(*SHAPES))
    for _ in range(3):
        step(optimizers, [torch.randn(shape) for shape in SHAPES])
    assert_same(*optimizers)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("state", [None, "float32"])
def test_16_bits_are_drawn_rounded_and_kept_as_in_main_memory(state: Any, rounding: str, dtype: torch.dtype) -> None:
    """Parameter, slots, remainder and the draws of both, of several tensors, one of which is sometimes absent."""
    shapes = [(5000,), (), (0,), (5, 7), (3,)]
    start: list[Any] = [of_few_bits(shape).to(dtype) for shape in shapes]
    options: Any = {"rounding": rounding, "state": state, "seed": 2**63 + 5}
    optimizers = beside(lambda parameters: exact.optimizer(parameters, **options), start)
    for number in range(6):
        drawn = [of_few_bits(shape).to(dtype) for shape in shapes]
        step(optimizers, [None if (number + place) % 4 == 0 else new for place, new in enumerate(drawn)])
        assert_same(*optimizers)
    assert sr.explain(optimizers[1]).backend == "triton_gpu"


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, "nearest"), (torch.bfloat16, "compensated8")], ids=str)
@pytest.mark.parametrize("program", [board.momentum, board.adam], ids=lambda p: p.name)
def test_8_bits_are_drawn_and_coded_as_in_main_memory(program: Any, dtype: torch.dtype, rounding: str) -> None:
    """Wide rows and narrow ones, a last block that is short, a tensor too small for groups; one is sometimes absent."""
    shapes = [(9, 1024), (3, 1500), (130, 33), (7,)]
    options: Any = {"state": "8bit", "rounding": rounding, "seed": 7}
    optimizers = beside(lambda own: program.optimizer(own, **options), [torch.randn(s).to(dtype) for s in shapes])
    for number in range(3):
        drawn = [torch.randn(shape).to(dtype) for shape in shapes]
        step(optimizers, [None if number + place == 2 else new for place, new in enumerate(drawn)])
        assert_same(*optimizers)
    assert sr.explain(optimizers[1]).backend == "triton_gpu"


def test_what_is_subnormal_is_not_taken_for_zero() -> None:
    tiny = torch.tensor([1e-39, -1e-39, 3e-45, 1.2e-38, 0.0, 1.0]).repeat(900)
    optimizers = beside(lambda parameters: board.momentum.optimizer(parameters, lr=1.0), [tiny])
    for _ in range(2):
        step(optimizers, [tiny.flip(0)])
    assert_same(*optimizers)
    optimizers = beside(of_exponentials.optimizer, [torch.zeros(5000)])
    for _ in range(2):
        step(optimizers, [torch.linspace(-95.0, -80.0, 5000)])
    for mine, other in zip(*map(held, optimizers), strict=True):
        torch.testing.assert_close(other, mine, rtol=2e-3, atol=0)
        assert (other != 0).all()


# Tensors as models have them ----------------------------------------------------------------------------


def test_a_thousand_tensors_with_gradients_that_come_go_and_move_follow_main_memory() -> None:
    twins = Twins(shapes=[(64,)] * 1000)
    optimizers = [sr.optim.AdamW(parameters, clip=1.0) for parameters in (twins.here, twins.there)]
    for number in range(3):
        for parameter in twins.there:
            parameter.grad = None  # the next one lies elsewhere
        twins.gradients()
        for place in range(number, 1000, 7):
            twins.here[place].grad = twins.there[place].grad = None
        for optimizer in optimizers:
            optimizer.step()
    twins.agree()
    counts = [[float(o.state[p]["step"]) for p in o.param_groups[0]["params"]] for o in optimizers]
    assert counts[0] == counts[1]


def test_all_dtypes_are_clipped_by_one_norm() -> None:
    kinds = [torch.float32, torch.bfloat16, torch.float64, torch.float16]
    sets = [Twins(dtype, [(300,), (5000,)]) for dtype in kinds]
    optimizers = [
        sr.optim.SGD([p for twins in sets for p in getattr(twins, side)], lr=0.5, momentum=0.9, clip=1.0)
        for side in ("here", "there")
    ]
    for _ in range(3):
        for twins in sets:
            twins.gradients()
        for optimizer in optimizers:
            optimizer.step()
    for twins in sets:
        twins.agree()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_views_at_odd_places_are_stepped_and_their_neighbours_left_alone(dtype: torch.dtype) -> None:
    """Parameters as parts of one field, and gradients as parts of a bucket: some addresses are multiples of 16."""
    sizes, gap = [4099, 7, 5000, 4096], 3
    fields = {where: torch.full((sum(sizes) + 5 * gap,), 7.0, dtype=dtype, device=where) for where in ("cpu", "cuda")}
    places, start = [], 1
    for size in sizes:
        places.append(slice(start, start + size))
        start += size + gap
    values = [torch.randn(size, dtype=dtype) for size in sizes]
    sides = [[torch.nn.Parameter(field[place]) for place in places] for field in fields.values()]
    optimizers = [sr.optim.AdamW(parameters, lr=0.1, clip=1.0) for parameters in sides]
    for parameters in sides:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data.copy_(value)
    for _ in range(2):
        bucket = torch.randn(sum(sizes) + 5 * gap).to(dtype)
        for (where, _), parameters, optimizer in zip(fields.items(), sides, optimizers, strict=True):
            moved = bucket.to(where, copy=True)
            for parameter, place in zip(parameters, places, strict=True):
                parameter.grad = moved[place]
            optimizer.step()
    beside_them = torch.ones(len(fields["cpu"]), dtype=torch.bool)
    for place in places:
        beside_them[place] = False
    here, there = (field.cpu() for field in fields.values())
    assert (there[beside_them] == 7).all()
    torch.testing.assert_close(there, here, rtol=2e-5 if dtype == torch.float32 else 2**-7, atol=1e-5)


def test_torchs_scaler_on_the_gpu_leaves_overflows_out_and_ours_follows() -> None:
    twins = Twins(shapes=[(6,), (2, 3)])
    optimizer = sr.optim.AdamW(twins.there, clip=0.5, fused=True)
    plain = sr.optim.AdamW(twins.here, clip=0.5)
    scaler = torch.amp.GradScaler("cuda", init_scale=256.0)
    for number in range(5):
        twins.gradients()
        for parameter in twins.there:
            parameter.grad.mul_(scaler.get_scale())
        scaler.scale(torch.ones((), device="cuda"))  # makes its scale, as the loss does
        if number in {1, 3}:
            twins.there[0].grad[1] = torch.inf
        else:
            plain.step()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 64.0
    twins.agree()
