"""Rules of matrices agree with plain implementations of their papers, and Muon with torch's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import steprule as sr
from steprule.errors import HyperparameterError, ParameterError
from steprule.graph.ops import COEFFICIENTS
from steprule.zoo import matrices

pytestmark = pytest.mark.null
SHAPES = ((6, 4), (4, 6), (5, 5), (6, 4))


def newton_schulz(x: np.ndarray) -> np.ndarray:
    a, b, c = COEFFICIENTS
    y = (x if x.shape[0] <= x.shape[1] else x.T) / max(np.linalg.norm(x), 1e-7)
    for _ in range(5):
        y = a * y + b * (y @ y.T) @ y + c * (y @ y.T) @ (y @ y.T) @ y
    return y if x.shape[0] <= x.shape[1] else y.T


def power(x: np.ndarray, p: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(x)
    return vectors @ np.diag(np.maximum(values, 1e-6 * values.max()) ** p) @ vectors.T


def muon(p: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
    s["m"] = 0.95 * s.get("m", 0) + 0.05 * g
    return p - 0.01 * 0.2 * max(p.shape) ** 0.5 * newton_schulz(0.95 * s["m"] + 0.05 * g)


def normuon(p: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
    """Its Algorithm 1, with a decay of 0.1 that is left out where it goes against the update."""
    s["m"] = 0.95 * s.get("m", 0) + 0.05 * g
    o = newton_schulz(0.95 * s["m"] + 0.05 * g)
    s["v"] = 0.9 * s.get("v", np.zeros(len(g))) + 0.1 * (o**2).mean(1)
    even = o / (np.sqrt(s["v"])[:, None] + 1e-10)
    step = 0.01 * 0.2 * np.sqrt(g.size) / np.linalg.norm(even) * even
    return p - step - 0.01 * 0.1 * p * (step * p >= 0)


def normuon_of_the_authors_code(p: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
    """Steps as long as Muon's."""
    s["m"] = 0.95 * s.get("m", 0) + 0.05 * g
    o = newton_schulz(0.95 * s["m"] + 0.05 * g)
    s["v"] = 0.95 * s.get("v", np.zeros(len(g))) + 0.05 * (o**2).mean(1)
    even = o / (np.sqrt(s["v"])[:, None] + 1e-10)
    return p - 0.01 * max(1, g.shape[0] / g.shape[1]) ** 0.5 * np.linalg.norm(o) / np.linalg.norm(even) * even


def sides(g: np.ndarray, bound: int) -> list[bool]:
    """Say of rows and columns whether a matrix of that size is kept; a vector has rows alone."""
    return [len(g) <= bound, g.ndim > 1 and g.shape[-1] <= bound]


def shampoo(p: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int, bound: int = 100) -> np.ndarray:
    kept = sides(g, bound)
    if not any(kept):
        s["sum"] = s.get("sum", 0) + g**2
        return p - 0.01 * g / (np.sqrt(s["sum"]) + 1e-6)
    x = g.reshape(len(g), -1)
    s["c"] = [old + new for old, new in zip(s.get("c", [0, 0]), (x @ x.T, x.T @ x), strict=True)]
    if t % 2 == 1:
        s["roots"] = [
            power(c, -0.5 / sum(kept)) if own else np.eye(len(c)) for c, own in zip(s["c"], kept, strict=True)
        ]
    return p - 0.01 * (s["roots"][0] @ x @ s["roots"][1]).reshape(g.shape)


def oriented(q: np.ndarray, signs: np.ndarray) -> np.ndarray:
    return q * np.where(signs < 0, -1.0, 1.0)


def adam(p: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
    s["m"], s["v"] = 0.95 * s.get("m", 0) + 0.05 * g, 0.95 * s.get("v", 0) + 0.05 * g**2
    return p - 0.01 * s["m"] / (1 - 0.95**t) / (np.sqrt(s["v"] / (1 - 0.95**t)) + 1e-8)


def soap(p: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int, bound: int = 100) -> np.ndarray:
    new, kept = p, sides(g, bound)
    if g.ndim < 2 or not any(kept):
        return adam(p, g, s, t)
    if t > 1:
        ql, qr = s["q"]
        s["m"] = 0.95 * s["m"] + 0.05 * g
        s["v"] = 0.95 * s["v"] + 0.05 * (ql.T @ g @ qr) ** 2
        ahead = (ql.T @ s["m"] @ qr) / (1 - 0.95 ** (t - 1)) / (np.sqrt(s["v"] / (1 - 0.95 ** (t - 1))) + 1e-8)
        new = p - 0.01 * ql @ ahead @ qr.T
    else:
        s.update(m=np.zeros_like(g), v=np.zeros_like(g), c=[np.zeros((n, n)) for n in g.shape])
    s["c"] = [0.95 * old + 0.05 * x for old, x in zip(s["c"], (g @ g.T, g.T @ g), strict=True)]
    if t == 1:
        found = [np.linalg.eigh(c)[1][:, ::-1] for c in s["c"]]
        s["q"] = [oriented(q, np.take_along_axis(q, np.abs(q).argmax(0)[None], 0)) for q in found]
    elif (t - 1) % 3 == 0:
        both = [np.linalg.qr(c @ q) for c, q in zip(s["c"], s["q"], strict=True)]
        s["q"] = [oriented(q, np.diagonal(r)) for q, r in both]
    s["q"] = [q if own else np.eye(len(q)) for q, own in zip(s["q"], kept, strict=True)]
    return new


RULES = {
    "muon": (matrices.muon(lr=0.01, scale="match_rms_adamw"), muon),
    "normuon": (sr.chain(matrices.normuon(lr=0.01, beta2=0.9), sr.cautious_weight_decay(weight_decay=0.1)), normuon),
    "normuon of the authors' code": (matrices.normuon(lr=0.01, scale="original"), normuon_of_the_authors_code),
    "shampoo": (matrices.shampoo(lr=0.01, precondition_frequency=2), shampoo),
    "soap": (matrices.soap(lr=0.01, precondition_frequency=3), soap),
}


def beside(name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give every matrix as it is after some steps, and as the plain implementation has it."""
    rule, plain = RULES[name]
    torch.manual_seed(0)
    shapes = tuple(shape for shape in SHAPES if name != "soap" or shape[0] == shape[1])
    parameters = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    held: list[Any] = [p.detach().numpy().copy() for p in parameters]
    states: list[dict[str, Any]] = [{} for _ in parameters]
    optimizer = rule.optimizer(parameters)
    for t in range(1, 7):
        for p in parameters:
            p.grad = torch.randn_like(p)
        held = [plain(own, p.grad.numpy(), s, t) for own, p, s in zip(held, parameters, states, strict=True)]
        optimizer.step()
    yield from zip([p.detach() for p in parameters], map(torch.tensor, held), strict=True)


@pytest.mark.parametrize("name", RULES)
def test_rules_agree_with_a_plain_implementation(name: str) -> None:
    for ours, right in beside(name):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_a_step_without_gradient_and_rate_changes_nothing(name: str) -> None:
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in (*SHAPES, (3,), (), (2, 3, 2), (0, 2))]
    before = [p.detach().clone() for p in parameters]
    optimizer = RULES[name][0].optimizer(parameters, lr=0.0)
    for _ in range(4):
        for p in parameters:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    assert all(bool(v.isfinite().all()) for p in parameters for v in optimizer.state[p].values())


@pytest.mark.parametrize(("name", "plain", "often"), [("Shampoo", shampoo, 2), ("SOAP", soap, 3)])
def test_sides_that_are_too_long_have_no_matrix_and_vectors_a_rule_of_their_own(
    name: str, plain: Any, often: int
) -> None:
    torch.manual_seed(0)
    shapes = ((3, 3), (3, 7), (7, 3), (7, 7), (4,), (7,))
    own = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    held, states = [p.detach().numpy().copy() for p in own], [dict[str, Any]() for _ in own]
    optimizer = getattr(sr.optim, name)(own, lr=0.01, weight_decay=0, precondition_frequency=often, max_precond_dim=4,
                                        backend="eager")  # fmt: skip
    for t in range(1, 7):
        for p in own:
            p.grad = torch.randn_like(p)
        held = [plain(x, p.grad.numpy(), s, t, 4) for x, p, s in zip(held, own, states, strict=True)]
        optimizer.step()
    for p, x in zip(own, held, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=0, atol=1e-12)
    kept = [{key for key in optimizer.state[p] if optimizer.state[p][key].shape == (3, 3)} for p in own[1:3]]
    assert [len(keys) for keys in kept] == [2, 2]
    assert max(value.numel() for p in own for value in optimizer.state[p].values()) == 49  # as large as its parameter
    assert optimizer.state[own[4]].keys() == ({"step", "left", "left_root"} if name == "Shampoo" else
                                              {"step", "exp_avg", "exp_avg_sq"})  # fmt: skip
    with pytest.raises(HyperparameterError, match="max_precond_dim"):
        getattr(sr.optim, name)(own, max_precond_dim=-1)


def test_soap_of_a_model_steps_hidden_matrices_and_adamw_the_rest_with_its_betas() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    optimizer = sr.optim.SOAP(model, betas=(0.8, 0.7))
    assert [route.rule for route in optimizer.routes.values()] == ["soap", "adam", "adam", "adam"]
    assert [group["betas"] for group in optimizer.param_groups] == [(0.8, 0.7), (0.8, 0.7)]
    told = sr.explain(optimizer)
    assert [group.matrix_bytes for group in told.groups] == [4 * 2 * (4 * 4 + 3 * 3), 0]
    assert "200 bytes of matrices besides" in str(told)


@pytest.mark.parametrize("flags", [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}, {"weight_decay": 0.0},
                                   {"ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "momentum": 0.5}])  # fmt: skip
def test_muon_has_torchs_numbers_state_and_groups(flags: dict[str, Any]) -> None:
    """In float32 as torch; both iterate in bfloat16, where last bits of momentum may decide a rounding."""
    torch.manual_seed(0)
    shapes = ((64, 32), (32, 64), (48, 48), (64, 32))
    own = [torch.nn.Parameter(torch.randn(shape) * 0.1) for shape in shapes]
    other = [torch.nn.Parameter(p.detach().clone()) for p in own]
    ours, theirs = sr.optim.Muon(own, **flags), torch.optim.Muon(other, **flags)
    for step in range(4):
        for p, q in zip(own, other, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
        if step == 1:  # checkpoints move either way
            saved = theirs.state_dict()
            theirs.load_state_dict(ours.state_dict())
            ours.load_state_dict(saved)
    for p, q in zip(own, other, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)
        assert set(ours.state[p]) == set(theirs.state[q]) == {"momentum_buffer"}
    given = {key for key in theirs.param_groups[0] if key != "params"}
    assert {key: ours.param_groups[0][key] for key in given} == {key: theirs.param_groups[0][key] for key in given}


def test_muon_refuses_what_is_no_matrix_and_unknown_scales() -> None:
    linear = torch.nn.Linear(3, 2)
    with pytest.raises(ParameterError, match=r"Muon takes matrices, and parameter 1 of group 0 has shape \(2,\)"):
        sr.optim.Muon(linear.parameters())
    optimizer = sr.optim.Muon([linear.weight])
    with pytest.raises(ParameterError):
        optimizer.add_param_group({"params": [linear.bias]})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(HyperparameterError, match="adjust_lr_fn"):
        sr.optim.Muon([linear.weight], adjust_lr_fn="matched")
    with pytest.raises(HyperparameterError):
        sr.optim.Muon([linear.weight], ns_steps=100)
