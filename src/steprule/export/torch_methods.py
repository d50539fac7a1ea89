"""The methods of an exported torch file: each rule of its groups, with what its update is called and reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, Literal

import torch

from ..errors import BackendError
from ..graph.graph import Graph, Hyper, Slot
from ..graph.look_ahead import LookAhead
from ..graph.node import Node
from ..graph.twice import Twice, paths
from ..optim.compiled import Kernels
from ..optim.preconditioned import Longer
from ..optim.torch_classes import is_flat
from ..plan.program import Program, lower
from ..plan.schedule import Plan, schedule
from ..plan.storage import WORDS, layout
from .subject import Subject
from .torch_lines import TAKEN

BOUND = "max_precond_dim"
"""The key of the longest side for which a matrix of that size is kept."""


@dataclass(frozen=True)
class FileRule:
    """One rule of a file: its kernels here, its name in groups, where its numbers stand there."""

    rule: str
    kernels: Kernels
    group: Mapping[str, Any]
    reading: Mapping[str, str]
    """Hyperparameters, and how each is read from a group."""
    starts: Mapping[str, str]
    """Slots of the class that start from a number of a group, and its key."""
    flat: Kernels | None = None
    """What steps tensors of fewer than two dimensions, if it is another formula."""
    bounded: Literal["", "matrices", "all"] = ""
    """Which tensors' sides the rule bounds."""

    names: dict[str, str] = field(default_factory=dict[str, str])
    """What else its functions are called."""

    @property
    def name(self) -> str:
        """What its function is called."""
        return self.names["update"]

    @property
    def graph(self) -> Graph:
        """Its graph, on the stored parameters."""
        return self.kernels.plan.graph

    @property
    def implicit(self) -> bool:
        """Whether its gradient is taken where its step ends."""
        return self.kernels.formula.graph.implicit

    @property
    def paths(self) -> LookAhead | Twice | None:
        """The graphs of a rule whose gradient is taken elsewhere."""
        return paths(self.kernels.formula.graph)

    @property
    def hypers(self) -> list[Hyper]:
        """Its hyperparameters, as groups have them."""
        own = {hyper.name: hyper for hyper in (*self.kernels.formula.graph.hypers, *self.graph.hypers)}
        return [hyper for hyper in own.values() if not hyper.told]

    @property
    def keys(self) -> list[str]:
        """The keys of its groups, in their order."""
        texts = [text.rpartition(" is None else ")[2] for text in self.reading.values()]
        asked = {text.split('"')[1] for text in texts if '"' in text} | set(self.inits.values())
        asked |= {BOUND} if self.bounded else set()
        return [key for key in self.group if key in asked] + sorted(asked - self.group.keys())

    @property
    def inits(self) -> Mapping[str, str]:
        """The slots that start from a number of a group, and its key."""
        return {slot: own for slot, own in self.starts.items() if slot in self.kernels.inits}

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Its slots, of either formula."""
        return self.graph.slots + (() if self.flat is None else self.flat.plan.graph.slots)

    def program(self, graph: Graph | None = None) -> Program:
        """Return the program of one of its graphs, for parameters of 16 bits: others differ in nothing told."""
        return lowered(self.kernels.plan if graph is None else schedule(graph), self.kernels)


def lowered(plan: Plan, kernels: Kernels) -> Program:
    """Return a program as the options ask for it."""
    own = kernels.options
    return lower(plan, layout(plan.graph, "bfloat16", own.rounding, own.state))


def methods(subject: Subject) -> list[FileRule]:
    """List the methods of a subject, one a rule of its groups; refuse options that the file cannot have."""
    _check(subject)
    starts: Mapping[str, str] = getattr(type(subject.optimizer), "_inits", {})
    found: dict[str, FileRule] = {}
    for group in subject.optimizer.param_groups:
        kernels: Kernels = subject.optimizer._choose(group)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        rule = subject.optimizer._rule_in(group).name  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if rule not in found:
            reading, (flat, bounded) = _reading(subject, kernels, group), _flat(subject, kernels)
            names = {"update": _called(rule, [subject.name, *(own.name for own in found.values())])}
            found[rule] = FileRule(rule, kernels, group, reading, starts, flat, bounded, names)
    return list(found.values())


def _called(rule: str, others: Sequence[str]) -> str:
    """Name the function of a rule as its last part, unless something else of the file is called so."""
    own = re.sub(r"\W+", "_", rule.rpartition("+")[2])
    taken = {*TAKEN, *others, *(f"{name}_flat" for name in others)}
    names = chain([own, f"{own}_rule"], (f"{own}_rule_{number}" for number in count(2)))
    return next(name for name in names if name not in taken)


def _check(subject: Subject) -> None:
    """Refuse options that need what the file has not."""
    options = subject.options
    refused = {
        "nonfinite": options.nonfinite != "propagate" and "a file looks for NaN in no gradient",
        "rounding": options.rounding in {"compensated", "compensated8"} and "remainders are not written out",
        "state": any(word in WORDS for word in _formats(options.state)) and "8 bits need tables of groups and codes",
        "capturable": options.capturable and "a file counts its steps in main memory",
    }
    both = options.rounding == "stochastic" and options.state is not None
    looks = any(own.graph.evaluate_at is not None for own in subject.formulas)
    refused["rounding"] = refused["rounding"] or (
        options.rounding != "nearest" and looks and "what moves to another point is rounded to the nearest"
    )
    refused |= {"rounding and state": both and "which arrays draw would depend on the parameters' type"}
    for name, why in refused.items():
        if why:
            value = getattr(options, name, (options.rounding, options.state))
            raise BackendError(
                f"an exported torch file cannot have {name}={value!r}: {why}",
                where=f"  {subject.command}",
                fix="leave it out; the library's own optimiser has it",
            )


def _formats(state: Any) -> list[str]:
    return list(state.values()) if isinstance(state, Mapping) else [state]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _flat(subject: Subject, kernels: Kernels) -> tuple[Kernels | None, Literal["", "matrices", "all"]]:
    """Return what steps tensors of fewer than two dimensions, and which sides are bounded; refuse other choices."""
    found, bounded = None, ""
    for fits, own in kernels.others:
        if fits is is_flat:
            found = own
        elif isinstance(fits, Longer):  # the file has no rule for these, and refuses them
            bounded = bounded or ("all" if found is None else "matrices")
        else:
            raise BackendError(
                f"{subject.name} chooses its rule by the sizes of a tensor, which a file does not",
                where=f"  {subject.command}",
                fix="export the rule of one shape, such as sr.export(steprule.zoo.matrices.shampoo)",
            )
    return found, bounded


def _reading(subject: Subject, kernels: Kernels, group: Mapping[str, Any]) -> dict[str, str]:
    """Say how each hyperparameter is read from a group: by its name, or from a tuple."""
    parts: Mapping[str, tuple[str, int]] = getattr(type(subject.optimizer), "_parts_of", {})
    found: dict[str, str] = {"loss": "loss"}
    for hyper, reader in zip(kernels.plan.graph.hypers, kernels.readers, strict=True):
        if hyper.told:
            continue
        key, place = parts.get(hyper.name, (hyper.name, None))
        own = hyper.name if key not in group else key
        whole = own == key and place is not None
        text = f'group["{own}"]' + (f"[{place}]" if whole else "")
        if own in group and (group[own][place] if whole else group[own]) is None:  # its class knows what that means
            value = reader(dict(group))
            text = f"{UNIT if value == SINGLE else repr(value)} if {text} is None else {text}"
        found[hyper.name] = text
    return found


SINGLE, UNIT = torch.finfo(torch.float32).eps, 'torch.finfo(group["params"][0].dtype).eps'
"""What some numbers are that nobody gives, and how it is spelled: the unit of a parameter's type."""


def labels(plans: list[Plan]) -> dict[Node, str]:
    """Name every total over all tensors: equal ones alike, in whatever rules they are."""
    names: dict[Node, str] = {}
    for plan in plans:
        for node, shared in plan.shared.items():
            known = {own for other, own in names.items() if other.op == node.op}
            names.setdefault(shared, node.op if not known else f"{node.op} {len(known) + 1}")
    return {node: names[shared] for plan in plans for node, shared in plan.shared.items()}


__all__ = ["SINGLE", "UNIT", "FileRule", "labels", "lowered", "methods"]
