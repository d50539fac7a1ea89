"""Factored rules: against torch's Adafactor, and against what their authors write, plainly, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

import steprule as sr
from steprule.graph.node import Rank
from steprule.plan.program import lowered
from steprule.plan.schedule import schedule
from steprule.zoo import factored

SHAPES = [(12, 5), (3, 40), (9,), (), (1, 6), (7, 1)]
STEPS = 6
Arrays = dict[str, np.ndarray]


def tensors(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    torch.manual_seed(2)
    return [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]


def gradients(step: int) -> list[torch.Tensor]:
    """Of very different sizes: also so small that the least divisor decides."""
    generator = torch.Generator().manual_seed(step)
    sizes = (1.0, 1e-3, 1e-7, 1.0, 30.0, 1e-5)
    return [size * torch.randn(shape, generator=generator) for size, shape in zip(sizes, SHAPES, strict=True)]


def stepped(opt: torch.optim.Optimizer, first: int = 1, last: int = STEPS) -> None:
    for step in range(first, last + 1):
        for p, g in zip(opt.param_groups[0]["params"], gradients(step), strict=True):
            p.grad = g.to(p.dtype)
        opt.step()


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> None:
    np.testing.assert_allclose(a.detach().double(), b.detach().double(), rtol=tolerance, atol=tolerance * 0.1)


@pytest.mark.null
def test_numbers_that_have_not_changed_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also ε₁, which is that of the first parameter's type."""
    read, reader = list[str](), sr.optim.Adafactor._reader
    monkeypatch.setattr(sr.optim.Adafactor, "_reader", lambda own, name: lambda group: (
        read.append(name), reader(own, name)(group))[1])  # fmt: skip
    opt = sr.optim.Adafactor(tensors(torch.float32), backend="eager")
    stepped(opt, 1, 2)
    before = len(read)
    stepped(opt, 3, 5)
    assert before > 0
    assert len(read) == before


# torch's ---------------------------------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {},
    {"lr": 0.3, "weight_decay": 0.1, "maximize": True},
    {"beta2_decay": -0.3, "eps": (1e-3, 0.05), "d": 1.5, "lr": 0.125},
]


@pytest.mark.cpu
@pytest.mark.parametrize("options", OPTIONS, ids=["defaults", "decay", "epsilons"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adafactor_is_torchs(options: dict[str, Any], dtype: torch.dtype) -> None:
    own, other = tensors(dtype), tensors(dtype)
    compiled = dtype is torch.float32 and not options.get("maximize")  # each kernel takes seconds to compile
    backend = {} if compiled else {"backend": "eager"}
    ours, theirs = sr.optim.Adafactor(own, **options, **backend), torch.optim.Adafactor(other, **options)
    stepped(ours)
    stepped(theirs)
    for p, q in zip(own, other, strict=True):
        close(p, q, 1e-5 if dtype is torch.float32 else 1e-12)
        assert {name: value.shape for name, value in ours.state[p].items()} == {
            name: value.shape for name, value in theirs.state[q].items()
        }
        for name, value in theirs.state[q].items():
            close(ours.state[p][name], value, 1e-5)
            assert ours.state[p][name].dtype == value.dtype


@pytest.mark.null
def test_checkpoints_move_to_torch_and_back() -> None:
    twins = [tensors(torch.float32) for _ in range(3)]
    kinds: list[Any] = [sr.optim.Adafactor, torch.optim.Adafactor, sr.optim.Adafactor]
    extra = [{"backend": "eager"}, {}, {"backend": "eager"}]
    first, second, third = (kind(own, **more) for kind, own, more in zip(kinds, twins, extra, strict=True))
    stepped(first, 1, 2)
    for p, q in zip(twins[0], twins[1], strict=True):
        q.data.copy_(p.data)
    second.load_state_dict(deepcopy(first.state_dict()))
    stepped(second, 3, 4)
    for p, q in zip(twins[1], twins[2], strict=True):
        q.data.copy_(p.data)
    third.load_state_dict(deepcopy(second.state_dict()))
    stepped(third, 5, 6)
    stepped(first, 3, 6)
    for p, q in zip(twins[0], twins[2], strict=True):
        close(p, q, 1e-5)


@pytest.mark.null
def test_what_a_group_asks_for_is_checked() -> None:
    p = torch.nn.Parameter(torch.ones(2, 2))
    for wrong in ({"d": 0.5}, {"beta2_decay": 0.1}, {"eps": (-1.0, 1e-3)}, {"eps": (None, -1.0)}):
        with pytest.raises(sr.errors.HyperparameterError):
            sr.optim.Adafactor([p], **wrong)
    told = str(sr.explain(sr.optim.Adafactor([p, torch.nn.Parameter(torch.ones(3))])))
    assert "adafactor_of_vectors" in told
    assert "row_var" in told


@pytest.mark.null
def test_adafactor_moves_no_byte_more_than_it_must() -> None:
    """θ's RMS and the moments of g need all of both; the update's RMS needs the moments, so g once more; θ' needs that.

    So there are three passes at least, which read θ and g, g, θ and g, and write θ: 24 bytes in float32.
    """
    plan = schedule(factored.adafactor.graph)
    assert [set(item.reads) for item in plan.passes] == [{"theta", "g"}, {"g"}, {"theta", "g"}]
    assert lowered(plan).bytes_per_parameter == 4 * (2 + 1 + 2 + 1)
    assert not plan.graph.element_slots
    bytes_of = {name: lowered(schedule(getattr(factored, name).graph)).bytes_per_parameter for name in ("sm3", "came")}
    assert bytes_of == {"sm3": 4 * 5, "came": 4 * (1 + 1 + 2 + 3 + 2)}


# The authors' -----------------------------------------------------------------------------------------


def adafactor(p: np.ndarray, g: np.ndarray, s: Arrays, t: int) -> np.ndarray:
    eps1, eps2, weight = 2.0**-23, 1e-3, t**-0.8
    alpha = max(eps2, np.sqrt(np.mean(p * p))) * min(0.05, t**-0.5)
    if p.ndim < 2:
        s["v"] = v = s.get("v", 0) + weight * (g * g - s.get("v", 0))
    else:
        for name, axis in (("r", 1), ("c", 0)):
            s[name] = s.get(name, 0) + weight * (np.mean(g * g, axis=axis) - s.get(name, 0))
        v = np.outer(s["r"], s["c"]) / max(np.mean(s["r"]), eps1)
    u = g / np.sqrt(np.maximum(v, eps1 * eps1))
    return p * (1 - 0.05 * 0.1) - alpha * u / max(1, np.sqrt(np.mean(u * u)))


def came(p: np.ndarray, g: np.ndarray, s: Arrays, t: int) -> np.ndarray:
    def inverse_root(name: str, x: np.ndarray, beta: float) -> np.ndarray:
        r = s[name + "r"] = beta * s.get(name + "r", 0) + (1 - beta) * x.mean(axis=1)
        c = s[name + "c"] = beta * s.get(name + "c", 0) + (1 - beta) * x.mean(axis=0)
        return 1 / np.sqrt(np.outer(r / r.mean(), c))

    p = p * (1 - 0.05 * 0.1)
    if p.ndim < 2:
        s["v"] = 0.999 * s.get("v", 0) + (1 - 0.999) * (g * g + 1e-30)
        u = g / np.sqrt(s["v"])
    else:
        u = g * inverse_root("", g * g + 1e-30, 0.999)
    u = u / max(1, np.sqrt(np.mean(u * u)))
    m = s["m"] = 0.9 * s.get("m", 0) + (1 - 0.9) * u
    return p - 0.05 * m * (1 if p.ndim < 2 else inverse_root("res", (u - m) ** 2 + 1e-16, 0.9999))


def sm3(p: np.ndarray, g: np.ndarray, s: Arrays, t: int) -> np.ndarray:
    x = g.reshape(Rank.ELEMENT.view(g.shape))
    rows, columns = s.get("r", np.zeros((len(x), 1))), s.get("c", np.zeros((1, x.shape[1])))
    v = np.minimum(rows, columns) + x * x
    s["r"], s["c"] = v.max(axis=1, keepdims=True), v.max(axis=0, keepdims=True)
    s["m"] = 0.9 * s.get("m", 0) + (1 - 0.9) * (x / np.sqrt(v)).reshape(g.shape)
    return p - 0.05 * s["m"]


def adam_mini(p: np.ndarray, g: np.ndarray, s: Arrays, t: int) -> np.ndarray:
    square = np.mean(g * g) if p.ndim < 2 else np.mean(g * g, axis=tuple(range(1, p.ndim)), keepdims=True)
    s["m"] = 0.9 * s.get("m", 0) + (1 - 0.9) * g
    s["v"] = 0.999 * s.get("v", 0) + (1 - 0.999) * square
    return p * (1 - 0.05 * 0.1) - 0.05 * s["m"] / (1 - 0.9**t) / (np.sqrt(s["v"] / (1 - 0.999**t)) + 1e-8)


Plain = Callable[[np.ndarray, np.ndarray, Arrays, int], np.ndarray]
AUTHORS: dict[str, tuple[Plain, dict[str, Any]]] = {
    "Adafactor": (adafactor, {"weight_decay": 0.1, "eps": (2.0**-23, 1e-3)}),
    "CAME": (came, {"weight_decay": 0.1}),
    "SM3": (sm3, {}),
    "AdamMini": (adam_mini, {"weight_decay": 0.1}),
}


def beside(name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give every parameter as it is after some steps, and as the authors' formula has it."""
    own = tensors(torch.float64)
    plain, options = AUTHORS[name]
    values: list[Any] = [p.detach().numpy().copy() for p in own]
    states: list[Arrays] = [{} for _ in own]
    for t in range(1, STEPS + 1):
        given = [g.double().numpy() for g in gradients(t)]
        values = [plain(p, g, s, t) for p, g, s in zip(values, given, states, strict=True)]
    opt = getattr(sr.optim, name)(own, lr=0.05, backend="eager", **options)
    stepped(opt)
    yield from zip([p.detach() for p in own], map(torch.tensor, values), strict=True)


@pytest.mark.null
@pytest.mark.parametrize("name", AUTHORS)
def test_a_rule_is_what_its_authors_write(name: str) -> None:
    for ours, right in beside(name):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)


@pytest.mark.cpu
def test_the_bits_are_the_same_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from steprule.backends import numba_cpu

    monkeypatch.setattr(numba_cpu, "CHUNK", 64)
    monkeypatch.setattr(numba_cpu, "PARALLEL_FROM", {True: 2, False: 2})

    def run(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        own = [torch.nn.Parameter(torch.randn(shape)) for shape in [(70, 5), (5, 300), (90,), (33, 4, 3)]]
        opt = sr.optim.Adafactor(own)
        for _ in range(3):
            for p in own:
                p.grad = torch.randn(p.shape)
            opt.step()
        assert opt._binding is not None
        assert any(bucket.batch.shared() for bucket in opt._binding.buckets) == (threads > 1)
        return own

    alone = run(1)
    for threads in (2, 3):
        assert all(torch.equal(a, b) for a, b in zip(alone, run(threads), strict=True))
