"""Several matrices in one tensor, each stepped by itself: as parameters of their own are, in one entry of the state."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import steprule as sr
from steprule.errors import HyperparameterError, ParameterError
from steprule.optim.roles import roles
from steprule.zoo import matrices

SHAPES: dict[Any, tuple[int, ...]] = {
    3: (12, 5), (6, 4, 2): (12, 5), ("columns", 3): (5, 12), ("columns", (7, 2)): (6, 9), "stack": (3, 4, 6),
}  # fmt: skip
"""A tensor for each way to tell matrices in it."""
LINES = [splits for splits in SHAPES if splits == "stack" or not (isinstance(splits, tuple) and splits[0] == "columns")]
RULES: dict[str, Any] = {
    "muon": (sr.chain(sr.clip_global_norm(max_norm=3.0), matrices.muon(scale="match_rms_adamw")), list(SHAPES)),
    "normuon": (sr.chain(matrices.normuon, sr.cautious_weight_decay(weight_decay=0.1)), LINES),
    "soap": (matrices.soap(precondition_frequency=2), ["stack"]),
}
"""Rules with the ways of cutting that suit them: what they keep must be cut alike."""
FORMS: dict[str, dict[str, Any]] = {
    "numba_cpu": {}, "eager": {"backend": "eager"}, "compensated": {"rounding": "compensated", "backend": "eager"},
}  # fmt: skip


def cut(splits: Any, tensor: torch.Tensor) -> list[torch.Tensor]:
    if splits == "stack":
        return list(tensor)
    axis, parts = (1, splits[1]) if isinstance(splits, tuple) and splits[0] == "columns" else (0, splits)
    return list(tensor.chunk(parts, axis) if isinstance(parts, int) else tensor.split(parts, axis))


def whole_and_apart(name: str, splits: Any, form: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return an optimiser of tensors that hold matrices, and one that has these as parameters, with a vector beside."""
    torch.manual_seed(0)
    held = [torch.randn(SHAPES[splits], dtype=dtype) for _ in range(2)]
    vector = torch.randn(4, 3, dtype=dtype)
    one = [{"params": [nn.Parameter(p.clone()) for p in held], "splits": splits}]
    other = [{"params": [nn.Parameter(part.clone()) for p in held for part in cut(splits, p)]}]
    beside = [{"params": [nn.Parameter(vector.clone())]} for _ in range(2)]
    return tuple(sr.Optimizer([own, also], RULES[name][0], lr=0.1, watch=form == "eager", **FORMS[form])
                 for own, also in zip((*one, *other), beside, strict=True))  # fmt: skip


def fill(own: Any, other: Any, splits: Any, absent: int) -> None:
    small = [p.shape for group in own.param_groups for p in group["params"]]
    gradients = [torch.randn(shape) for shape in small]
    parts = [part for g in gradients[:2] for part in cut(splits, g)]
    for place, (p, g) in enumerate(
        zip([p for group in own.param_groups for p in group["params"]], gradients, strict=True)
    ):
        p.grad = None if place == absent else g.to(p.dtype)
    count = len(parts) // 2
    for place, p in enumerate([p for group in other.param_groups for p in group["params"]]):
        p.grad = None if place // count == absent else [*parts, gradients[2]][place].to(p.dtype)


def same(own: Any, other: Any, splits: Any) -> bool:
    """Whether all parameters are the same; of columns, which torch operations step, to the last bits of a norm."""
    mine = [part for p in own.param_groups[0]["params"] for part in cut(splits, p.detach())]
    mine += [p.detach() for p in own.param_groups[1]["params"]]
    theirs = [p.detach() for group in other.param_groups for p in group["params"]]
    near = {"rtol": 0, "atol": 1e-12 if isinstance(splits, tuple) and splits[0] == "columns" else 0}
    return len(mine) == len(theirs) and all(torch.allclose(a, b, **near) for a, b in zip(mine, theirs, strict=True))


CASES = [*(("muon", splits, "numba_cpu") for splits in SHAPES), ("muon", (6, 4, 2), "eager"),
         *((name, splits, "eager") for name in ("normuon", "soap") for splits in RULES[name][1])]  # fmt: skip


@pytest.mark.cpu
@pytest.mark.parametrize(("name", "splits", "form"), CASES)
def test_matrices_in_one_tensor_are_stepped_as_parameters_of_their_own(name: str, splits: Any, form: str) -> None:
    """Bit for bit, of several sizes, with a gradient that is absent at times, and resumed from a checkpoint."""
    own, other = whole_and_apart(name, splits, form, torch.float64)
    for step in range(5):
        fill(own, other, splits, absent=1 if step in (1, 2) else -1)
        own.step()
        other.step()
        assert same(own, other, splits)
        assert own._binding is not None
        assert all(len(bucket.settings()) == len(bucket.members) for bucket in own._binding.buckets)
        told, right = own.gauges(), other.gauges()
        assert told.keys() == right.keys()
        assert all(told[key] == pytest.approx(right[key], rel=1e-9, nan_ok=True) for key in right)
        if step == 2:
            saved = copy.deepcopy(own.state_dict())
            assert saved["param_groups"][0]["splits"] == splits
            del saved["param_groups"][0]["splits"]  # which are the model's, as rules are
            own.load_state_dict(saved)
    first = own.param_groups[0]["params"][0]
    for key, value in own.state[first].items():
        parts = [other.state[p][key] for p in other.param_groups[0]["params"][: len(cut(splits, first))]]
        kept = parts[0] if value.ndim == 0 else torch.stack(parts) if splits == "stack" else None
        if kept is None:
            kept = torch.cat(parts, dim=1 if isinstance(splits, tuple) and splits[0] == "columns" else 0)
        torch.testing.assert_close(value, kept, rtol=0, atol=1e-12)


@pytest.mark.cpu
def test_16_bits_round_and_are_kept_in_cut_tensors_as_in_others() -> None:
    """Compensated: bit for bit. Stochastically: another matrix draws otherwise, and a resumed run draws the same."""
    own, other = whole_and_apart("muon", (6, 4, 2), "compensated", torch.bfloat16)
    for _ in range(3):
        fill(own, other, (6, 4, 2), absent=-1)
        own.step()
        other.step()
        assert same(own, other, (6, 4, 2))
    start = torch.ones(3, 4, 4, dtype=torch.bfloat16)
    found: list[torch.Tensor] = []
    for resumed in (False, True):
        p = nn.Parameter(start.clone())
        optimizer = sr.optim.Muon([{"params": [p], "splits": "stack"}], lr=1e-3, rounding="stochastic", roles=None)
        for step in range(4):
            p.grad = torch.eye(4).bfloat16().expand(3, 4, 4) * (step + 1)
            optimizer.step()
            if resumed and step == 1:
                again = nn.Parameter(p.detach().clone())
                saved, p = optimizer.state_dict(), again
                optimizer = sr.optim.Muon([{"params": [p], "splits": "stack"}], lr=1e-3, rounding="stochastic")
                optimizer.load_state_dict(saved)
        found.append(p.detach())
    assert torch.equal(*found)
    assert not torch.equal(found[0][0], found[0][1])


@pytest.mark.null
def test_what_no_cut_fits_is_refused_before_anything_is_made() -> None:
    matrix, eager = nn.Parameter(torch.ones(6, 4)), {"backend": "eager"}
    for splits, shape, error, told in (
        (4, (6, 4), ParameterError, "parameter 0 of group 0 has 6 rows, which splits=4 does not fit"),
        ((1, 2), (6, 4), ParameterError, "has 6 rows"),
        (("columns", 3), (6, 4), ParameterError, "has 4 columns"),
        ("stack", (6, 4), ParameterError, "has 2 dimensions"),
        ("three", (6, 4), HyperparameterError, "splits tells no matrices in a tensor"),
        (("sides", 3), (6, 4), HyperparameterError, "splits tells no matrices"),
        (0, (6, 4), HyperparameterError, "splits tells no matrices"),
        ((), (6, 4), HyperparameterError, "splits tells no matrices"),
    ):
        with pytest.raises(error, match=told):
            sr.Optimizer([{"params": [nn.Parameter(torch.ones(shape))], "splits": splits}], matrices.muon, **eager)
    for rule in (sr.board.adam, matrices.soap, matrices.shampoo):
        with pytest.raises(HyperparameterError, match="cannot step parts of a tensor by themselves"):
            sr.Optimizer([{"params": [matrix], "splits": 3}], rule, **eager)
    with pytest.raises(HyperparameterError, match="cannot step parts"):
        sr.Optimizer([{"params": [matrix], "splits": ("columns", 2)}], matrices.normuon, **eager)
    optimizer = sr.Optimizer([matrix], matrices.muon, **eager)
    optimizer.param_groups[0]["splits"] = 4  # written later: the next step looks
    matrix.grad = torch.ones_like(matrix)
    with pytest.raises(ParameterError, match="has 6 rows"):
        optimizer.step()
    assert torch.equal(matrix, torch.ones(6, 4))


class Attention(nn.Module):
    """Queries, keys and values in one layer, of which a subclass says how they lie."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim, self.sizes = 2, 4, [8, 4, 4]
        self.inner, self.out = nn.Linear(8, self.gives), nn.Linear(8, 8)

    gives = 24


class Thirds(Attention):
    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x).reshape(len(x), -1, 3, self.heads, self.head_dim).unbind(2)


class Chunks(Attention):
    def forward(self, x: torch.Tensor) -> Any:
        fused = self.inner(x)
        q, k, v = fused.chunk(3, dim=-1)
        return q, k, v


class Grouped(Attention):
    gives = 16

    def forward(self, x: torch.Tensor) -> Any:
        return nn.functional.linear(x, self.inner.weight, bias=None).split(self.sizes, dim=-1)


class HeadByHead(Attention):
    """As in BLOOM: a head's queries, keys and values are neighbours, so that no third is queries."""

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x).view(len(x), -1, self.heads, 3, self.head_dim).unbind(3)


class InThrees(Attention):
    """The same, in a view that leaves a size to torch."""

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x).view(len(x), x.shape[1], self.heads, 3, -1).unbind(3)


class InMoreThrees(Attention):
    """The same, with another dimension behind."""

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x).view(len(x), -1, self.heads, 3, self.head_dim, 1).unbind(3)


class ThreeHeads(Attention):
    """As in BLOOM, with as many heads as there are parts of one."""

    gives = 36

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x).view(len(x), -1, self.heads, 3, self.head_dim).unbind(3)


class Inherited(Thirds):
    """One that somebody has derived from a library's."""


class Overridden(Thirds):
    """One whose own lines count, not those that it inherits."""

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x).view(len(x), -1, self.heads, 3, self.head_dim).unbind(3)


class Chunked(Attention):
    """As in GPT-NeoX: what is cut into three is one head's."""

    def forward(self, x: torch.Tensor) -> Any:
        fused = self.inner(x).view(len(x), -1, 12).transpose(1, 2)
        return fused.chunk(3, dim=-1)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.bias = nn.Parameter(torch.zeros(3, 4, 8)), nn.Parameter(torch.zeros(2, 3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.w[0])


@pytest.mark.null
@pytest.mark.parametrize(
    ("kind", "role", "splits"),
    [(Thirds, "qkv", 3), (Chunks, "qkv", 3), (Grouped, "qkv", (8, 4, 4)), (HeadByHead, "hidden", None),
     (InThrees, "hidden", None), (InMoreThrees, "hidden", None),
     (ThreeHeads, "hidden", None), (Inherited, "qkv", 3), (Overridden, "hidden", None), (Chunked, "hidden", None)],
)  # fmt: skip
def test_queries_keys_and_values_are_told_by_what_a_module_does_with_them(kind: Any, role: str, splits: Any) -> None:
    told = roles(nn.ModuleList([kind()]))["0.inner.weight"][1]
    assert (told.role, told.splits) == (role, splits)


@pytest.mark.null
def test_slots_of_several_matrices_are_not_kept_in_8_bits() -> None:
    matrix = nn.Parameter(torch.ones(192, 64))
    for options, kept in (({}, torch.int8), ({"splits": 3}, torch.float32)):
        optimizer = sr.Optimizer([{"params": [matrix], **options}], matrices.muon, state="8bit-all", backend="eager")
        matrix.grad = torch.ones_like(matrix)
        optimizer.step()
        assert optimizer.state[matrix]["momentum_buffer"].dtype is kept


@pytest.mark.null
def test_a_model_is_cut_where_its_rule_can_and_explain_says_it() -> None:
    model = nn.ModuleDict({"a": nn.ModuleList([Thirds()]), "e": nn.ModuleList([Experts()]),
                           "m": nn.ModuleList([nn.MultiheadAttention(8, 2)])})  # fmt: skip
    routes = sr.optim.NorMuon(model).routes
    found = {name: (route.role, route.rule, route.splits) for name, route in routes.items()}
    assert found["a.0.inner.weight"] == ("qkv", "normuon", 3)
    assert found["m.0.in_proj_weight"] == ("qkv", "normuon", 3)
    assert found["e.0.w"] == ("stack", "normuon", "stack")
    assert found["e.0.bias"] == ("stack", "adam", None)  # nothing multiplies by it
    assert routes["a.0.inner.weight"].reason == "Thirds takes three apart by reshape; 8 + 8 + 8 rows apart"
    assert "3 matrices apart" in str(sr.explain(sr.optim.Muon(model)))
    rules = {"hidden": matrices.soap, "rest": sr.board.adam}
    split = {name: (r.rule, r.splits) for name, r in sr.Optimizer(model, rules).routes.items() if r.role != "bias"}
    assert split["a.0.inner.weight"] == ("soap", None)
    assert split["e.0.w"] == ("soap", "stack")
    plain = sr.Optimizer(model, {"hidden": sr.board.momentum, "rest": sr.board.adam}).routes
    assert (plain["e.0.w"].rule, plain["e.0.w"].splits, plain["a.0.inner.weight"].splits) == ("adam", None, None)
    said = sr.optim.Muon(model, roles={"a.0.inner": ("qkv", (16, 8)), "e.0.bias": "vector"}).routes
    assert said["a.0.inner.weight"].splits == (16, 8)
    with pytest.raises(ParameterError, match="has 24 rows"):
        sr.optim.Muon(model, roles={"a.0.inner": ("qkv", (16, 9))})
