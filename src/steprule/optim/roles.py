"""The role of every parameter of a model, found from its modules; and the rule that steps it.

A role says what a parameter is for: `hidden` matrices multiply features, rows of an `embedding` are looked up, a `head`
gives the output. A role for which there is no rule is found under another name: a convolution is a hidden matrix, and
all but hidden matrices are the `rest`. A role that nothing shows is not guessed. Several matrices in one tensor, fused
queries, keys and values or a stack of experts, are stepped each by itself where a rule can.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from ..errors import ParameterError
from ..rule import Formula
from .cut import SPLITS, STACK, read, words
from .fused import fused
from .groups import RULE
from .outputs import Outputs, outputs
from .tensors import oddity
from .uses import Layer, Use, layers, own_parameters, use, width

REST = "rest"
ROLES: dict[str, tuple[str, str]] = {
    "hidden": ("a matrix between features", REST),
    "qkv": ("queries, keys and values in one matrix", "hidden"),
    "convolution": ("filters, a row each", "hidden"),
    "depthwise": ("filters of single channels", REST),
    "stack": ("several matrices in one tensor", "hidden"),
    "recurrent": ("the gates of a recurrent layer in one matrix", REST),
    "adapter": ("a small matrix beside a frozen one", REST),
    "embedding": ("rows that are looked up", REST),
    "tied": ("rows that are looked up, and give the output", "embedding"),
    "head": ("the matrix that gives the output", REST),
    "positional": ("numbers of places, added or looked up", REST),
    "norm": ("scales and shifts of features", REST),
    "bias": ("what is added behind a matrix", REST),
    "vector": ("any other that has one dimension", REST),
}
"""What each role is, and under which name it is found where a model's rules have none of its own."""


@dataclass(frozen=True)
class Route:
    """A parameter's way to its rule: its name, its role, the key that this role was found under, and what shows it."""

    name: str
    role: str
    key: str
    rule: str
    reason: str
    splits: Any = None
    """The matrices in it that are stepped apart, as its group declares them."""


Declared = str | tuple[str, Any]
"""A role, or a role with the matrices in a tensor."""
Found = dict[str, tuple[torch.Tensor, Use]]
"""The parameters of a model by name, each once, with what they are."""


def roles(model: nn.Module, declared: Mapping[str, Declared] | None = None) -> Found:
    """Return the role of each parameter of a model. Raises `ParameterError` where nothing shows one."""
    _check_shapes(model)
    own, found = layers(model), _uses(model)
    wanted = _declared(model, {} if declared is None else declared, found)
    heads = _heads(model, own, found)
    unclear = {f"{path}.weight": reason for path, reason in heads.unclear.items()}
    answer: Found = {}
    for name, (parameter, uses) in found.items():
        if name in wanted:
            role, splits = wanted[name]
            answer[name] = parameter, Use(role, "you say so", splits)
            unclear.pop(name, None)
        elif uses:
            answer[name] = parameter, _chosen(uses)
        else:
            unclear[name] = "nothing shows what its module does with it"
    names = {id(parameter): name for name, (parameter, _) in found.items()}
    for layer in own:
        name = names.get(id(layer.weight), "")
        if layer.path in heads.heads and name not in wanted and name in answer:
            answer[name] = layer.weight, Use("head", heads.heads[layer.path])
    for layer in own:
        name = names.get(id(layer.weight), "")
        if name in answer and answer[name][1].role == "hidden" and name not in wanted:
            splits = fused(model, layer)
            answer[name] = (layer.weight, Use("qkv", splits[1], splits[0])) if splits else answer[name]
    for name in _adapters(own, answer):
        if name not in wanted:
            answer[name] = answer[name][0], Use("adapter", "of low rank, beside a frozen matrix")
    if unclear:
        raise _unclear({name: (found[name][0], why) for name, why in unclear.items() if name in found})
    return answer


def _check_shapes(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            what, fix = oddity(parameter) or ("", "")
            raise ParameterError(f"a parameter {what}, so it has no role", where=f"  {name}", fix=fix)


def _uses(model: nn.Module) -> dict[str, tuple[torch.Tensor, list[Use]]]:
    """Return what every module that has a parameter does with it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, tuple[torch.Tensor, list[Use]]] = {name: (own, []) for name, own in model.named_parameters()}
    for path, module in model.named_modules():
        for name, parameter in own_parameters(module).items():
            told = use(module, name)
            if isinstance(module, ParametrizationList):
                told = _parametrised(model, path, parameter)
            if told is not None:
                found[names[id(parameter)]][1].append(told)
    return found


def _parametrised(model: nn.Module, path: str, parameter: torch.Tensor) -> Use | None:
    """Return the use of what a parametrisation keeps: as large as what it stands for, it is for the same."""
    above, _, name = path.rpartition(".parametrizations.")
    module = model.get_submodule(above)
    if width(parameter) < 2:
        return Use("vector", f"a part of {name} of {type(module).__name__}")
    kind = type(module).__mro__[1]  # torch has made a class of its own for the parametrised module
    alike = nn.Module.__new__(kind)
    vars(alike).update({**vars(module), "_parameters": {name: parameter}})
    return use(alike, name)


def _chosen(uses: list[Use]) -> Use:
    """Return what a parameter is that several modules may share."""
    told = {one.role: one for one in uses}
    if len(told) > 1 and "embedding" in told:
        return Use("tied", "an embedding, and the matrix of a layer")
    return next((one for one in uses if one.role != "vector"), uses[0])


def _heads(model: nn.Module, own: list[Layer], found: Mapping[str, tuple[torch.Tensor, list[Use]]]) -> Outputs:
    """Find the layers that give the output."""
    looked_up = [p for p, uses in found.values() if any(one.role == "embedding" for one in uses)]
    tied = {id(p) for p, uses in found.values() if len({one.role for one in uses}) > 1}
    embeddings = {int(p.shape[0]): int(p.shape[1]) for p in looked_up}
    return outputs(model, [one for one in own if id(one.weight) not in tied], embeddings, bool(tied))


def _adapters(own: list[Layer], found: Found) -> Iterator[str]:
    """Give the names of pairs of small matrices that stand beside a frozen one, and do together what it does."""
    name_of = {id(parameter): name for name, (parameter, _) in found.items()}
    for frozen in (layer for layer in own if not layer.weight.requires_grad):
        beside = [one for one in own if one.path.startswith(f"{frozen.path.rpartition('.')[0]}.") and one is not frozen]
        for down in (one for one in beside if one.takes == frozen.takes and one.weight.requires_grad):
            for up in beside:
                if up.takes == down.gives < min(frozen.takes, frozen.gives) and up.gives == frozen.gives:
                    yield from (name_of[id(down.weight)], name_of[id(up.weight)])


# What the user says ----------------------------------------------------------------------------------


def _declared(
    model: nn.Module, declared: Mapping[str, Declared], found: Mapping[str, Any]
) -> dict[str, tuple[str, Any]]:
    """Return the declared role of each parameter that a pattern names, itself or by a module above it."""
    answer: dict[str, tuple[str, Any]] = {}
    paths = [path for path, _ in model.named_modules() if path]
    if not isinstance(declared, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ParameterError("roles are declared by name", where=f"  roles={declared!r}",
                             fix='give a dict: roles={"lm_head": "head"}')  # fmt: skip
    for pattern, told in ((str(given), told) for given, told in declared.items()):
        role, splits = _role_of(told, pattern)
        named = [name for name in found if fnmatchcase(name, pattern)]
        above = [path for path in paths if fnmatchcase(path, pattern)]
        inside = [name for name, (own, _) in found.items()
                  if width(own) > 1 and any(name.startswith(f"{path}.") for path in above)]  # fmt: skip
        if not (named or inside):
            near = get_close_matches(pattern, [*paths, *found], 3, 0.5)
            raise ParameterError(f"no parameter, and no module with a matrix, is called {pattern!r}",
                                 where=f"  roles={{{pattern!r}: {role!r}}}",
                                 fix=f"did you mean {' or '.join(map(repr, near))}?" if near else
                                     "names are those of model.named_parameters() and named_modules()")  # fmt: skip
        answer |= dict.fromkeys([*inside, *named], (role, splits))
    return answer


def _role_of(told: Any, pattern: str) -> tuple[str, Any]:
    """Return a declared role and the matrices in a tensor; a list of these is as good as a tuple."""
    both = isinstance(told, tuple | list) and len(told) == 2
    role, splits = told if both else (told, STACK if told == STACK else None)
    if not isinstance(role, str) or role not in ROLES:
        raise ParameterError(f"there is no role {role!r}", where=f"  roles={{{pattern!r}: {told!r}}}",
                             fix=f"use one of {', '.join(ROLES)}")  # fmt: skip
    splits = tuple(splits) if isinstance(splits, list) else splits
    read(splits)
    return role, splits


def _unclear(found: Mapping[str, tuple[torch.Tensor, str]]) -> ParameterError:
    """Return the error for roles that nothing shows, with the line to write for the first."""
    lines = dict.fromkeys(f"  {_starred(name)}: shape {tuple(own.shape)}; {why}" for name, (own, why) in found.items())
    name = _starred(next(iter(found)))
    return ParameterError(
        f"the role of {len(found)} parameter{'s' * (len(found) > 1)} is not clear",
        where="\n".join([*list(lines)[:8], *([f"  and {len(lines) - 8} more"] if len(lines) > 8 else [])]),
        fix=f"say it: roles={{{name!r}: 'hidden'}} if it is {ROLES['hidden'][0]}, 'head' if it gives the output, "
            f"or one of {', '.join(role for role in ROLES if role not in {'hidden', 'head'})}",
    )  # fmt: skip


def _starred(name: str) -> str:
    """Return a name as it is in every block."""
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


# The groups ------------------------------------------------------------------------------------------


Grouped = tuple[Any, Formula, dict[str, Route]]
"""What an optimiser is made of: groups, its own rule, and the route of each parameter."""


def grouped(params: Any, rule: Any, declared: Mapping[str, Declared] | None) -> Grouped:
    """Return the groups of a model, if that is what is given; by their roles, if there are several rules."""
    if isinstance(rule, Mapping):
        rules: Mapping[Any, Any] = rule
        if not isinstance(params, nn.Module):
            raise ParameterError("rules by role need the model, whose modules tell what each parameter is",
                                 where=f"  a {type(params).__name__} is given",
                                 fix="pass the model itself: steprule.Optimizer(model, {...})")  # fmt: skip
        _check_keys(rules)
        groups, routes = by_role(params, rules, declared)
        return groups, rules.get(REST, [*rules.values()][-1]), routes
    if declared is not None:
        raise ParameterError("roles are declared, but one rule steps all parameters",
                             fix="give rules by role: {'hidden': a_rule, 'rest': another}")  # fmt: skip
    return list(params.named_parameters()) if isinstance(params, nn.Module) else params, rule, {}


def _check_keys(rules: Mapping[Any, Any]) -> None:
    """Raise `ParameterError` for a key that is no role, and for no rules."""
    for key in rules or ("",):
        if key not in ROLES and key != REST:
            near = get_close_matches(str(key), [*ROLES, REST], 1, 0.6)
            told = f"did you mean {near[0]!r}? " if near else ""
            raise ParameterError(f"there is no role {key!r}", where="  in the rules by role",
                                 fix=f"{told}roles are {', '.join(ROLES)}, and {REST} for all others")  # fmt: skip


def _key_of(role: str, rules: Mapping[str, Any]) -> str | None:
    """Return the key under which the rules have a role."""
    while role not in rules:
        if role == REST:
            return None
        role = ROLES[role][1]
    return role


def _routed(told: Use, rules: Mapping[str, Formula]) -> tuple[Use, str | None]:
    """Return a use, without its splits if the rule under whose key it is found cannot step parts; and that key."""
    key = _key_of(told.role, rules)
    cut = read(told.splits)
    if key is not None and cut is not None and cut.suits(rules[key].graph):
        return told, key
    if told.role == STACK and STACK not in rules:  # a rule would take it for one matrix
        key = _key_of(REST, rules)
    return told._replace(splits=None), key


def by_role(
    model: nn.Module, rules: Mapping[str, Formula], declared: Mapping[str, Declared] | None
) -> tuple[list[dict[str, Any]], dict[str, Route]]:
    """Return a group for every rule that steps parameters of a model, and the route of each parameter."""
    routes: dict[str, Route] = {}
    own: dict[tuple[str, Any], list[tuple[str, torch.Tensor]]] = {(key, None): [] for key in rules}
    for name, (parameter, found) in roles(model, declared).items():
        told, key = _routed(found, rules)
        if key is None:
            raise ParameterError(
                f"no rule is given for `{name}`, whose role is {told.role!r}",
                where=f"  rules are given for {', '.join(map(repr, rules))}",
                fix=f"add {told.role!r}: a_rule, or {REST!r}: a_rule for all others",
            )
        reason = "; ".join(filter(None, (told.reason, words(told.splits, parameter.shape))))
        routes[name] = Route(name, told.role, key, getattr(rules[key], "name", ""), reason, told.splits)
        own.setdefault((key, told.splits), []).append((name, parameter))
    return [
        {"params": params, RULE: rules[key], **({} if splits is None else {SPLITS: splits})}
        for (key, splits), params in sorted(own.items(), key=lambda item: [*rules].index(item[0][0]))
        if params
    ], routes


def table(routes: Iterable[Route]) -> list[str]:
    """Word routes, a line for parameters whose names differ in numbers alone."""
    alike: dict[Route, list[str]] = {}
    for route in routes:
        alike.setdefault(replace(route, name=_starred(route.name)), []).append(route.name)
    rows = [(f"{one.name} ({len(names)})" if len(names) > 1 else names[0], one.role, one.rule, one.reason)
            for one, names in alike.items()]  # fmt: skip
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
