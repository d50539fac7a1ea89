"""The keys of a param group: the constructor's arguments, a rule of its own, and notes of trainers.

torch keeps any key and reads those it knows, so that a misspelt one changes nothing and says nothing. Here a key that
looks like a hyperparameter, or asks for what no group can have, is refused when its group is added. What a checkpoint
brings, or is written into a group later, is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from ..errors import HyperparameterError, StateError
from ..rule import Formula
from ..rule.signature import OPTIONS
from .cut import SPLITS
from .settings import plain

RULE = "rule"
"""The key of a group for a rule of its own; None is the optimiser's."""
RuleIn = Callable[[Mapping[str, Any]], Formula]
"""Returns the rule of a group."""
TORCH = frozenset({
    *("lr", "betas", "eps", "amsgrad", "momentum", "dampening", "nesterov", "alpha", "centered", "rho", "lr_decay"),
    *("initial_accumulator_value", "lambd", "t0", "etas", "step_sizes", "momentum_decay", "maximize"),
})  # fmt: skip
"""Hyperparameters as torch.optim spells them, but for weight decay, which trainers put into every group."""
_OTHER_WORDS = {"learning_rate": "lr", "wd": "weight_decay", "l2": "weight_decay", "epsilon": "eps"}
_OTHERS = {"layer_decay", "params", "param_names", "foreach", "fused", "capturable", "differentiable", RULE, SPLITS}
"""Keys that are no hyperparameters, and resemble one at most by chance."""
_NEAR = 0.8  # of the letters: `beat1` for `beta1`


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def meant(key: str, reads: Collection[str]) -> str | None:
    """Return the hyperparameter that a key resembles.

    A name with a word more or less (`initial_lr`, `lr_scale`, `weight_decay_mult`) is another one.
    """
    pairs = {name: sorted((key, name), key=len) for name in reads}
    others = {name for name, (short, long) in pairs.items()
              if f"_{short}_" in f"_{long}_" and len(long) > len(short) + 2}  # fmt: skip
    bare = {_bare(name): name for name in reads if name not in others}
    near = get_close_matches(_bare(_OTHER_WORDS.get(key.lower(), key)), bare, 1, _NEAR)
    return bare[near[0]] if near else None


def _refuse(what: str, which: str, key: str, value: Any, fix: str) -> HyperparameterError:
    return HyperparameterError(what, where=f"  {which}: {key}={value!r}", fix=fix)


def check_rule_keys(
    group: Mapping[str, Any], which: str, title: str, reads: Collection[str], *, capturable: bool
) -> None:
    """Raise `HyperparameterError` for a key that means something, and would not be read by the rule of a group."""
    betas = ", ".join(name for name in reads if name.startswith("beta"))
    asked = [key for key in group if key in TORCH and plain(group[key])]  # torch's classes fill what is off into groups
    theirs = {key: (key == "betas" and betas) or f"what {title} has, {', '.join(reads)}" for key in asked}
    check_keys(group, which, title, reads, theirs, capturable=capturable)


def check_keys(
    group: Mapping[str, Any],
    which: str,
    title: str,
    reads: Collection[str],
    other_names: Mapping[str, str],
    *,
    capturable: bool,
) -> None:
    """Raise `HyperparameterError` for a key that means something and would not be read.

    `other_names` are spellings of hyperparameters that look like none, with the name that is read.
    """
    refused = OPTIONS if group.get("capturable") and not capturable else OPTIONS - {"capturable"}
    for key in refused & group.keys():
        fix = f"give it to the constructor, {key}=...; groups that differ in it are two optimisers"
        raise _refuse(f"`{key}` is an option of the whole optimiser", which, key, group[key], fix)
    if group.get("differentiable"):
        raise HyperparameterError(
            "differentiable=True asks for what a compiled step cannot give",
            where=f"  {which}",
            fix="leave differentiable=False, or use torch.optim",
        )
    for key, value in group.items():
        if key in reads or key in _OTHERS or not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            continue
        wanted = other_names.get(key) or meant(key, reads)
        if wanted is not None:
            fix = f"write {wanted}; a key of your own needs a name that is less like it"
            raise _refuse(f"{title} has no hyperparameter `{key}`", which, key, value, fix)


def routed(groups: Iterable[Mapping[str, Any]]) -> bool:
    """Whether any group has a rule of its own."""
    return any(RULE in group for group in groups)


def recognise(group: Mapping[str, Any], saved: dict[str, Any], rule: Formula, which: str) -> None:
    """Put the rule of a group into a saved one in place of its name, and its splits, which are the model's.

    Raises `StateError` where the rule is another's.
    """
    name = saved.pop(RULE, None)
    if name not in (None, rule.name):
        raise StateError(
            f"the saved {which} was stepped by `{name}`, and this optimiser's is by `{rule.name}`",
            fix="make the optimiser with the rules that it was saved with, group by group",
        )
    saved.pop(SPLITS, None)
    saved.update({key: group[key] for key in (RULE, SPLITS) if key in group})
