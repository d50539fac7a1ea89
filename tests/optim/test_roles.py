"""Roles of parameters: found from modules whatever their names are, declared where nothing shows them, not guessed."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from torch import nn

import steprule as sr
from steprule import board, explain
from steprule.errors import ParameterError
from steprule.optim.roles import roles

pytestmark = pytest.mark.null

RULES = {"hidden": board.momentum, "rest": board.adam}


def found(model: nn.Module, declared: Any = None) -> dict[str, str]:
    return {name: told.role for name, (_, told) in roles(model, declared).items()}


class Holding(nn.Module):
    """A module with these children and parameters."""

    def __init__(self, **own: Any) -> None:
        super().__init__()
        for name, value in own.items():
            setattr(self, name, value)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


class Scale(nn.Module):
    """A normalisation of somebody's own: a vector alone."""

    def __init__(self) -> None:
        super().__init__()
        self.x = parameter(8)


class Transposed(nn.Module):
    """A layer of somebody's own, which keeps its matrix the other way round."""

    def __init__(self, takes: int, gives: int) -> None:
        super().__init__()
        self.a, self.b = parameter(takes, gives), parameter(gives)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.b, x, self.a)


class Router(nn.Module):
    """A layer of somebody's own, without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.table = parameter(3, 8), parameter(5, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.a.t() + nn.functional.embedding(torch.zeros(1, dtype=torch.int64), self.table)


class Looked(nn.Module):
    """A table of numbers of places, and the places."""

    def __init__(self) -> None:
        super().__init__()
        self.x = parameter(49, 2)
        self.register_buffer("y", torch.zeros(4, 4, dtype=torch.int64))


def block() -> nn.Module:
    return Holding(q=nn.Linear(8, 24), k=nn.Linear(8, 8), n=nn.LayerNorm(8), e=nn.Linear(8, 32), f=nn.Linear(32, 8))


def language_model(head: nn.Module) -> nn.Module:
    return Holding(a=nn.Embedding(11, 8), b=nn.ModuleList([block(), block()]), n=nn.LayerNorm(8), h=head)


def tied() -> nn.Module:
    model = language_model(nn.Linear(8, 11, bias=False))
    model.h.weight = model.a.weight
    return model


# fmt: off
IN_A_BLOCK = {"q.weight": "hidden", "q.bias": "bias", "k.weight": "hidden", "k.bias": "bias", "n.weight": "norm",
              "n.bias": "norm", "e.weight": "hidden", "e.bias": "bias", "f.weight": "hidden", "f.bias": "bias"}
BLOCKS = {f"b.{place}.{name}": role for place in range(2) for name, role in IN_A_BLOCK.items()}
LANGUAGE = {"a.weight": "embedding", **BLOCKS, "n.weight": "norm", "n.bias": "norm"}
MODELS: dict[str, tuple[Any, dict[str, str]]] = {
    "embeddings whose number of rows the head has": (
        lambda: language_model(nn.Linear(8, 11)), {**LANGUAGE, "h.weight": "head", "h.bias": "bias"}),
    "a head that has the rows of an embedding, as many as others take": (
        lambda: Holding(a=nn.Embedding(32, 8), b=nn.ModuleList([block()]), h=nn.Linear(8, 32)),
        {"a.weight": "embedding", **{f"b.0.{k}": v for k, v in IN_A_BLOCK.items()}, "h.weight": "head",
         "h.bias": "bias"}),
    "a tied head": (tied, {**LANGUAGE, "a.weight": "tied"}),
    "a head of which no layer takes the numbers": (
        lambda: language_model(nn.Linear(8, 5)), {**LANGUAGE, "h.weight": "head", "h.bias": "bias"}),
    "a head in a module of its own": (
        lambda: language_model(Holding(d=nn.Linear(8, 8), o=nn.Linear(8, 5))),
        {**LANGUAGE, "h.d.weight": "hidden", "h.d.bias": "bias", "h.o.weight": "head", "h.o.bias": "bias"}),
    "no head, blocks alone": (lambda: nn.ModuleList([block()]), {f"0.{k}": role for k, role in IN_A_BLOCK.items()}),
    "a Sequential, whose last layer gives what others take": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)),
        {"0.weight": "hidden", "0.bias": "bias", "2.weight": "head", "2.bias": "bias"}),
    "convolutions, then flat": (
        lambda: Holding(a=nn.Conv2d(3, 4, 3), d=nn.Conv2d(4, 4, 3, groups=4), n=nn.BatchNorm2d(4), f=nn.Linear(36, 6),
                        o=nn.Linear(6, 10)),
        {"a.weight": "convolution", "a.bias": "bias", "d.weight": "depthwise", "d.bias": "bias", "n.weight": "norm",
         "n.bias": "norm", "f.weight": "hidden", "f.bias": "bias", "o.weight": "head", "o.bias": "bias"}),
    "an attention and recurrent layers": (
        lambda: Holding(a=nn.MultiheadAttention(8, 2, add_bias_kv=True), r=nn.LSTM(8, 8, proj_size=4),
                        c=nn.GRUCell(4, 4), o=nn.Linear(4, 3)),
        {"a.in_proj_weight": "qkv", "a.in_proj_bias": "bias", "a.bias_k": "vector", "a.bias_v": "vector",
         "a.out_proj.weight": "hidden", "a.out_proj.bias": "bias", "r.weight_ih_l0": "recurrent",
         "r.weight_hh_l0": "recurrent", "r.bias_ih_l0": "bias", "r.bias_hh_l0": "bias", "r.weight_hr_l0": "recurrent",
         "c.weight_ih": "recurrent", "c.weight_hh": "recurrent", "c.bias_ih": "bias", "c.bias_hh": "bias",
         "o.weight": "head", "o.bias": "bias"}),
    "modules of somebody's own": (
        lambda: Holding(p=parameter(1, 7, 8), t=parameter(1, 1, 8), s=Scale(), c=Transposed(8, 24),
                        b=nn.ModuleList([Router()]), x=Looked(), e=Holding(m=parameter(4, 8, 8)), g=nn.Linear(8, 1),
                        o=nn.Linear(24, 9)),
        {"p": "positional", "t": "vector", "s.x": "norm", "c.a": "hidden", "c.b": "bias", "b.0.a": "hidden",
         "b.0.table": "embedding", "x.x": "positional", "e.m": "stack", "g.weight": "vector", "g.bias": "bias",
         "o.weight": "head", "o.bias": "bias"}),
    "a weight that is parametrised": (
        lambda: Holding(a=nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3)), o=nn.Linear(4, 9)),
        {"a.bias": "bias", "a.parametrizations.weight.original0": "vector",
         "a.parametrizations.weight.original1": "convolution", "o.weight": "head", "o.bias": "bias"}),
}
# fmt: on


@pytest.mark.parametrize("told", MODELS)
def test_roles_are_found_from_modules(told: str) -> None:
    make, expected = MODELS[told]
    model = make()
    assert found(model) == expected
    assert found(Holding(module=model)) == {f"module.{name}": role for name, role in expected.items()}


def adapted() -> nn.Module:
    base = nn.Linear(8, 6).requires_grad_(requires_grad=False)
    layer = Holding(base=base, a=nn.ModuleDict({"x": nn.Linear(8, 2)}), b=nn.ModuleDict({"x": nn.Linear(2, 6)}))
    return Holding(l=nn.ModuleList([layer]), o=nn.Linear(6, 3))


def test_a_pair_of_small_matrices_beside_a_frozen_one_is_an_adapter() -> None:
    own = found(adapted())
    assert [own[f"l.0.{name}.weight"] for name in ("base", "a.x", "b.x")] == ["hidden", "adapter", "adapter"]
    assert found(adapted().requires_grad_())["l.0.a.x.weight"] == "hidden"


class Telling(nn.Module):
    """A model that names its output, in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def get_classifier(self) -> nn.Module:
        return self.out


def test_a_model_that_tells_its_output_is_believed_also_when_it_is_wrapped() -> None:
    assert [role for role in found(Telling()).values() if role != "bias"] == ["hidden", "head", "hidden"]
    wrapped = {"get_output_embeddings": lambda _: 1 / 0}
    assert found(type("Failing", (Holding,), wrapped)(inner=Telling()))["inner.out.weight"] == "head"


@pytest.mark.parametrize(
    ("make", "path", "why"),
    [
        (lambda: Holding(a=nn.Linear(64, 8), b=nn.Linear(8, 64)), "b", "last layer, but `a` takes 64 numbers as well"),
        (lambda: Holding(a=nn.Linear(8, 8), v=nn.Linear(8, 4), p=nn.Linear(8, 3)), "v", "takes its 4 numbers, but it"),
        (lambda: Holding(a=Holding(x=parameter(4, 8)), o=nn.Linear(8, 3)), "a.x", "nothing shows what its module does"),
    ],
)  # fmt: skip
def test_what_nothing_shows_is_refused_with_a_line_that_works(make: Any, path: str, why: str) -> None:
    with pytest.raises(ParameterError, match="role of 1 parameter is not clear") as caught:
        sr.Optimizer(make(), RULES)
    assert why in caught.value.where
    line = next(word for word in caught.value.fix.split("roles=")[1:] if word.startswith("{")).partition("}")[0] + "}"
    (pattern,) = eval(line)  # noqa: S307 - the help's own line
    optimizer = sr.Optimizer(make(), RULES, roles={pattern: "head"})
    route = optimizer.routes[path if path == "a.x" else f"{path}.weight"]
    assert (route.role, route.key, route.rule, route.reason) == ("head", "rest", "adam", "you say so")


def test_places_of_a_sequential_and_lists_tell_a_role_as_names_and_tuples_do() -> None:
    model = nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 2))
    one, other = (roles(model, told) for told in ({0: ["qkv", [1, 2]]}, {"0": ("qkv", (1, 2))}))
    assert one["0.weight"][1] == other["0.weight"][1] == ("qkv", "you say so", (1, 2))


def test_many_unclear_parameters_are_told_as_one_pattern() -> None:
    with pytest.raises(ParameterError, match="role of 12 parameters is not clear") as caught:
        roles(nn.ModuleList([Holding(x=parameter(4, 8)) for _ in range(12)]))
    assert caught.value.where.count("\n") == 0
    assert "roles={'*.x': 'hidden'}" in caught.value.fix
    assert set(found(nn.ModuleList([Holding(x=parameter(4, 8))]), {"*.x": "stack"}).values()) == {"stack"}


@pytest.mark.parametrize(
    ("rules", "options", "told"),
    [
        ({"hiden": board.sgd, "rest": board.sgd}, {}, "did you mean 'hidden'"),
        ({}, {}, "there is no role ''"),
        ({"hidden": board.sgd}, {}, "no rule is given for `0.weight`, whose role is 'head'"),
        (RULES, {"roles": {"0": "haed"}}, "there is no role 'haed'"),
        (RULES, {"roles": {"0": ("qkv",)}}, "there is no role ('qkv',)"),
        (RULES, {"roles": {"0": ["head"]}}, "there is no role ['head']"),
        (RULES, {"roles": ["head"]}, "roles are declared by name"),
        (RULES, {"roles": {0: "haed"}}, "there is no role 'haed'"),
        (RULES, {"roles": {"zero": "head"}}, "no parameter, and no module with a matrix, is called 'zero'"),
        (RULES, {"roles": {"1": "head"}}, "is called '1'"),
        (board.sgd, {"roles": {"0": "head"}}, "one rule steps all parameters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_words_that_are_no_roles_or_no_names_are_refused(rules: Any, options: Any, told: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(told.split("'", maxsplit=1)[0])) as caught:
        sr.Optimizer(nn.Sequential(nn.Linear(8, 3), nn.ReLU()), rules, **options)
    assert told in str(caught.value)


def test_rules_by_role_need_the_model_with_shapes() -> None:
    with pytest.raises(ParameterError, match="rules by role need the model"):
        sr.Optimizer(nn.Linear(2, 2).parameters(), RULES)
    with pytest.raises(ParameterError, match="has no shape yet, so it has no role"):
        sr.Optimizer(nn.Sequential(nn.LazyLinear(2)), RULES)


def test_a_role_without_a_rule_of_its_own_is_found_under_a_wider_one() -> None:
    model = tied()
    rules = {"embedding": board.sgd(lr=0.3), "norm": board.adagrad, "rest": board.adam, "hidden": board.momentum}
    optimizer = sr.Optimizer(model, rules, lr=0.2, backend="eager")
    routes = optimizer.routes
    assert (routes["a.weight"].role, routes["a.weight"].key) == ("tied", "embedding")
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 6, 8, 8]
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.2, 0.2, 0.2]
    assert optimizer.program is board.adam
    for one in model.parameters():
        one.grad = torch.ones_like(one)
    optimizer.step()
    assert all("s" in optimizer.state[one] for name, one in model.named_parameters() if routes[name].rule == "adam")
    assert [group["param_names"][0] for group in optimizer.param_groups][:2] == ["a.weight", "b.0.n.weight"]


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301
def test_routes_are_explained_and_kept_in_copies(twin: Any) -> None:
    optimizer = twin(sr.Optimizer(language_model(nn.Linear(8, 5)), RULES, backend="eager"))
    told = explain(optimizer)
    lines = [line.split("  ")[0] for line in str(told).splitlines()]
    assert "b.*.q.weight (2)" in lines
    rows = {row["name"]: row for row in told.as_json()["routes"]}
    assert rows["h.weight"] == {"name": "h.weight", "role": "head", "key": "rest", "rule": "adam",
                                "reason": "it is the last layer, and no other takes its 5 numbers",
                                "splits": None}  # fmt: skip
    assert not explain(sr.Optimizer(nn.Linear(2, 2), board.sgd)).routes


def test_a_model_alone_is_stepped_by_one_rule_under_its_names() -> None:
    (group,) = sr.Optimizer(nn.Linear(2, 2), board.sgd).param_groups
    assert group["param_names"] == ["weight", "bias"]
