"""Classes for matrices that, given a model, step all of it: hidden matrices by their rule, the rest by AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ..rule import Formula, Rule
from ..zoo.adam import adam
from .compiled import Reader
from .groups import RULE
from .options import Options
from .roles import grouped
from .settings import plain
from .torch_classes import TorchOptimizer, part_of

BETAS = "how much is kept a step of AdamW's averages, for what is stepped by it, and checked where something is"
ROLES = 'roles that the modules of a model do not show, as {"lm_head": "head"}; see steprule.Optimizer'
EPS = 1e-8
"""AdamW's ε, for what is stepped by that."""


class WholeModel(TorchOptimizer):
    """A class for matrices, whose groups may name AdamW in place of its rule; a model's groups are found by role."""

    _matrices: ClassVar[Rule]
    """The rule, in any of its variants: it is named in `routes`."""
    _decoupled = True
    _others: ClassVar[Mapping[str, Rule]] = {"adam": adam}
    _kept: ClassVar[tuple[str, ...]] = ("_step_supports_amp_scaling", "_aside", "_routes")

    def _make(self, params: Any, options: Options, given: dict[str, Any]) -> None:
        declared, self._routes = given.pop("roles"), {}
        self._aside = self._of_adam(given)
        for name in ("beta1", "beta2"):
            adam.hypers[name].check(plain(part_of(self._aside, "betas", int(name[-1]) - 1)), type(self).__name__)
        if declared is not None or isinstance(params, torch.nn.Module):
            rules: dict[str, Formula] = {"hidden": self._matrices, "rest": adam}
            params, _, self._routes = grouped(params, rules, declared)
            given |= self._of_a_model(given)
            params = [{**group, RULE: None if group[RULE] is self._matrices else "adam"} for group in params]
        super()._make(params, options, given)

    def _of_adam(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return what groups of AdamW have besides lr and decay; what they alone have is no argument of the others."""
        return {"betas": given.pop("betas"), "eps": EPS, "cautious_decay": given["cautious_decay"]}

    def _of_a_model(self, given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Return the arguments that mean something else of a model."""
        return {}

    def _defaults_of(self, group: Mapping[str, Any]) -> dict[str, Any]:
        if group.get(RULE) is None:
            return self.defaults
        return {"lr": self.defaults["lr"], "weight_decay": self.defaults["weight_decay"], **self._aside}

    def _reader(self, name: str) -> Reader:
        own = super()._reader(name)
        if self._parts_of.get(name, ("",))[0] != "betas":
            return own
        return lambda group: own(group) if "betas" in group else group.get(name)

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:
        """Return the rule that a group names, or the variant that its flags choose."""
        return self._variant_of(group) if group.get(RULE) is None else self._others[group[RULE]]

    def _variant_of(self, group: Mapping[str, Any]) -> Rule:
        """Return the class's own rule, as a group's flags choose it."""
        raise NotImplementedError


__all__ = ["BETAS", "ROLES", "WholeModel"]
