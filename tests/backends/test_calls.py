"""Functions of matrices between passes: on every backend as in the interpreter, once, or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import steprule as sr
from steprule.backends import calls, torch_ops
from steprule.graph.evaluate import evaluate
from steprule.graph.ops import COEFFICIENTS, OPS

pytestmark = pytest.mark.usefixtures("small_chunks")
SHAPES = ((3, 4), (4, 3), (5,), (), (2, 3, 2), (3, 4), (0, 3), (4, 3))
BACKENDS = [
    pytest.param("eager", marks=pytest.mark.null),
    pytest.param("numba_cpu", marks=pytest.mark.cpu),
    pytest.param("triton_gpu", marks=pytest.mark.interp),
]


@sr.rule
def everything(theta, g, m, q=sr.slot(rank="left", init="identity"), r=sr.slot(rank="right", init=0.25), *,
               lr=0.1, beta=0.9, often=2.5, t):  # fmt: skip
    m = beta * m + (1 - beta) * g
    r = beta * r + (1 - beta**t) * (sr.transpose(g) @ g)
    q = sr.where(t < often, sr.qr(q + m @ sr.transpose(m)), q)
    u = sr.where(t < 1.5, sr.orthogonalize(m), q @ m / (1 + sr.norm(m)))
    u = sr.transpose(q) @ (u @ sr.inverse_root(r, 2, eps=1e-2))
    return theta - lr * u / (1 + sr.norm(u)), m, q, r


RULE = sr.chain(sr.clip_global_norm(max_norm=1.0), everything)
"""With float64 parameters and a guard, so that all tests here share one kernel."""


def made(shapes: Any = SHAPES, backend: str | None = None, dtypes: Any = (torch.float64,)) -> Any:
    torch.manual_seed(1)
    parameters = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for dtype in dtypes for shape in shapes]
    parameters.append(torch.nn.Parameter(torch.randn(4, 3, dtype=dtypes[0]).t()))  # in another order
    groups = [{"params": parameters[:5]}, {"params": parameters[5:], "lr": 0.2}]
    return parameters, RULE.optimizer([g for g in groups if g["params"]], backend=backend, nonfinite="skip")


def follow(optimizer: Any, parameters: list[Any], steps: int, absent: tuple[int, ...] = (0, 7)) -> float:
    """Step an optimiser and the interpreter alike; return how far apart they end."""
    graph = optimizer.program.graph
    held = [{"theta": p.detach().cpu().numpy().astype(float)} for p in parameters]
    for own, p in zip(held, parameters, strict=True):
        for slot in graph.slots:
            shape = slot.rank.shape(p.shape)
            own[slot.name] = np.eye(shape[0]) if slot.init == "identity" else np.full(shape, float(slot.init))
    counts = [0] * len(parameters)
    for step in range(1, steps + 1):
        there = [i for i in range(len(parameters)) if step != 2 or i not in absent]
        for i, p in enumerate(parameters):
            p.grad = torch.randn_like(p) if i in there else None
            counts[i] += i in there
        hypers = {hyper.name: hyper.value for hyper in graph.hypers}
        numbers = [hypers | {"lr": 0.1 if i < 5 else 0.2, "t": float(counts[i])} for i in there]
        given = [held[i] | {"g": parameters[i].grad.numpy().astype(float)} for i in there]
        for i, new in zip(there, evaluate(graph, given, numbers), strict=True):
            held[i] = new
        optimizer.step()
    apart = [np.abs(own["theta"] - p.detach().numpy()) for own, p in zip(held, parameters, strict=True)]
    apart += [np.abs(own[s.name] - optimizer.state[p][s.name].numpy()) for s in graph.slots
              for own, p in zip(held, parameters, strict=True)]  # fmt: skip
    return max(float(one.max()) for one in apart if one.size)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_computes_what_the_interpreter_does(backend: str) -> None:
    """Tensors of one shape in two groups, one of them transposed in memory, some without gradients in one step."""
    parameters, optimizer = made(backend=backend)
    assert follow(optimizer, parameters, 3) < 1e-12
    assert sr.explain(optimizer).backend == backend


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_condition_does_not_choose_is_not_computed_and_the_rest_a_shape_at_a_time(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[str, tuple[int, ...]]] = []
    for name in ("qr", "orthogonalize"):
        own = torch_ops.spelling(name)
        noted = lambda x, *rest, own=own, name=name: taken.append((name, tuple(x.shape))) or own(x, *rest)  # noqa: E731
        monkeypatch.setitem(torch_ops._SPELLING, name, noted)
    parameters, optimizer = made(((3, 4), (3, 4), (4, 3)) + ((2, 2),) * 7, backend)
    found, held = list[dict[str, int]](), list[list[int]]()
    for step in range(4):
        for p in parameters:
            p.grad = None if step == 0 and p is parameters[0] else torch.randn_like(p)
        taken.clear()
        optimizer.step()
        stacks = [(name, shape if len(shape) == 3 else (1, *shape)) for name, shape in taken]
        found.append({name: sum(shape[0] for own, shape in stacks if own == name) for name, _ in stacks})
        if step == 0:  # however many there are of a shape
            assert sum(shape[1:] == (2, 2) for name, shape in stacks if name == "qr") == 1
        batch = optimizer._binding.buckets[0].batch
        held.append([own.data_ptr() for own in batch.calls.arrays["scratch 1"]])
    # eleven tensors, of which the first is one step behind the others
    assert found == [{"orthogonalize": 10, "qr": 10}, {"orthogonalize": 1, "qr": 11}, {"qr": 1}, {}]
    assert held[2:] == held[1:3], "scratch is allocated once"
    assert len(set(held[1])) == 11


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_that_is_left_out_or_fails_writes_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, optimizer = made(((3, 4), (4, 3)), backend)
    for p in parameters:
        p.grad = torch.randn_like(p)
    optimizer.step()

    def now() -> list[torch.Tensor]:
        state = [value for p in parameters for value in optimizer.state[p].values()]
        return [tensor.detach().clone() for tensor in (*parameters, *state)]

    before = now()
    parameters[1].grad[0, 0] = torch.nan
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, now(), strict=True))
    parameters[1].grad[0, 0] = 0.0

    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(torch_ops._SPELLING, "inverse_root", fails)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, now(), strict=True))
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before[:2], now()[:2], strict=True))


@pytest.mark.cpu
def test_an_interrupt_after_the_last_pass_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots that no pass writes are written again; two batches, of which one has not begun to write."""

    def step(interrupt: bool) -> list[torch.Tensor]:
        parameters, optimizer = made(((3, 4),), None, (torch.float64, torch.float32))
        for turn in range(2):
            for p in parameters:
                p.grad = torch.randn_like(p)
            own, left = calls.Calls.write, [int(interrupt and turn)]

            def write(self: Any, go: Any = None, own: Any = own, left: list[int] = left) -> None:
                if left[0]:
                    left[0] = 0
                    raise KeyboardInterrupt
                own(self, go)

            with monkeypatch.context() as patch:
                patch.setattr(calls.Calls, "write", write)
                try:
                    optimizer.step()
                except KeyboardInterrupt:
                    assert interrupt
        return [value.detach() for p in parameters for value in (p, *optimizer.state[p].values())]

    assert all(torch.equal(a, b) for a, b in zip(step(interrupt=False), step(interrupt=True), strict=True))


# What functions are in torch -------------------------------------------------------------------------


@pytest.mark.null
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (2, 6, 3), (1, 1)])
def test_functions_of_stacks_are_those_of_matrices(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    args = (*COEFFICIENTS, 1e-7, 5.0)
    whole = torch.from_numpy(x)
    for name in ("orthogonalize", "orthogonalize_gram"):
        one = x.reshape(-1, *x.shape[-2:])
        expected = np.stack([OPS[name].meaning(matrix, *args) for matrix in one]).reshape(shape)
        np.testing.assert_allclose(torch_ops.spelling(name)(whole, *args).numpy(), expected, rtol=1e-9, atol=1e-12)
    square = x @ np.swapaxes(x, -1, -2) + np.diag(np.arange(1.0, x.shape[-2] + 1))
    one = square.reshape(-1, *square.shape[-2:])
    for name, rest in (("inverse_root", (4.0, 1e-6)), ("eigenvectors", ()), ("qr", ())):
        expected = np.stack([OPS[name].meaning(matrix, *rest) for matrix in one]).reshape(square.shape)
        found = torch_ops.spelling(name)(torch.from_numpy(square), *rest)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)
    root = torch_ops.inverse_root(torch.from_numpy(square), 2.0, 1e-12)
    np.testing.assert_allclose((root @ root @ torch.from_numpy(square)).numpy(), np.broadcast_to(
        np.eye(square.shape[-1]), square.shape), atol=1e-9)  # fmt: skip


@pytest.mark.null
def test_what_is_not_finite_stays_so_in_its_own_matrix_and_zeros_have_finite_roots() -> None:
    stack = torch.stack([torch.eye(3), torch.full((3, 3), torch.nan), torch.zeros(3, 3)])
    for name, rest in (("inverse_root", (4.0, 1e-6)), ("eigenvectors", ()), ("qr", ())):
        found = torch_ops.spelling(name)(stack, *rest)
        assert [bool(one.isfinite().all()) for one in found] == [True, False, True], name
        assert found[1].isnan().all()
    args = (*COEFFICIENTS, 1e-7, 5.0)
    found = torch_ops.orthogonalize(stack, *args)
    assert [bool(one.isfinite().all()) for one in found] == [True, False, True]
    assert not found[2].any()


@pytest.mark.null
@pytest.mark.parametrize("gram", [False, True])
def test_bfloat16_iterations_are_as_exact_as_torchs(gram: bool) -> None:
    """Against float64, on singular values from 1 to 1e-4; begun anew, the Gram form loses a few times more."""
    from torch.optim._muon import _zeropower_via_newtonschulz as torchs

    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 64, dtype=torch.float64))[0] for n in (64, 256))
    x = (left * torch.logspace(0, -4, 64, dtype=torch.float64)) @ right.T
    args = (*COEFFICIENTS, 1e-7, 5.0)
    exact = torch_ops.orthogonalize(x, *args)
    own = torch_ops.spelling("orthogonalize_gram" if gram else "orthogonalize")(x.float(), *args)
    error, theirs = (
        (one.double() - exact).norm() / exact.norm() for one in (own, torchs(x.float(), COEFFICIENTS, 5, 1e-7))
    )
    assert error <= (5 * theirs if gram else theirs)
    assert torch.linalg.matrix_norm(own.double(), 2) < 1.5
