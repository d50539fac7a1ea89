"""The binding: the tensors of a step, checked once in full, then compared every step at little cost.

Whatever differs from what was checked makes the optimiser build a new binding, and with it check everything again,
before anything is written; `checks` says what is compared. Gradients may be absent: such parameters stay where they are
in all tables, marked, and are left alone with their state. Only a gradient of a parameter that the binding lacks makes
another one, which holds both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from ..backends.base import Batch, Gradients, run, settle
from ..errors import NonFiniteError, ParameterError, StepruleError
from ..graph.node import Rank
from .aliasing import set_apart
from .blame import blame
from .bucket import Bucket, Groups
from .checks import CHANGED, OTHERS, Facts, SlowCheck, forms
from .compiled import Compiled, Kernels
from .crossings import Crossings, crossings_of
from .fast_check import FastCheck, loop, obstacle
from .global_slots import check_common, unite
from .settings import Settings
from .shards import Shards, distributed, local, spread
from .state import ensure, lay_out
from .tensors import Entry, check, here, in_order_of, label, like

NO_KERNELS = "some parameters are updated by torch operations, not by kernels"
SEVERAL = "some parameters hold several matrices, each of which has an address"
_gradient = attrgetter("grad")
_torch: Any = torch
_bump: Callable[[Any], None] = getattr(_torch._C, "_increment_version", torch.autograd.graph.increment_version)  # noqa: SLF001


class Binding:
    """All tensors of a step, sorted into buckets."""

    def __init__(
        self,
        owner: Any,
        choose: Callable[[dict[str, Any]], Kernels],
        groups: Groups,
        state: Any,
        former: Sequence[torch.Tensor] = (),
        alone: int | None = None,
    ) -> None:
        self._first = alone or 0
        self._state, self._mood, self.choose = state, owner._mood(), choose  # noqa: SLF001
        self._settings = [Settings(group, choose) for group in groups]
        self._chosen = [settings.kernels for settings in self._settings]
        self._changed = self._counted = True
        self._lists = [group["params"] for group in groups]
        self._sizes = list(map(len, self._lists))
        self._all = [parameter for own in self._lists for parameter in own]
        entries = self._gather(groups, set(former))
        self.parameters = [entry.owner for entry in entries]
        self._named = [(entry.label, entry.owner) for entry in entries]
        self._new = [owner for owner in self.parameters if not state.get(owner)]
        for entry in entries:
            ensure(self._kernels(entry), groups[entry.group], entry.owner, state[entry.owner])
        self._dicts = list(state.values())
        self._bound = list(map(set(self.parameters).__contains__, self._all))
        self._all_bound = all(self._bound)
        self._gradients: Gradients = []
        try:
            unite(choose, owner.param_groups, owner.state, self.parameters)
            self._bind(entries, owner.backend)
        except BaseException:
            self._forget_new()
            raise
        slots = (value for bucket in self.buckets for own in bucket.states for value in map(own.get, bucket.names))
        plans = [bucket.plan for bucket in self.buckets]
        self.late = alone is not None and any(plan.remembered for plan in plans)
        """Whether the end of a step waits for other bindings: a parameter alone does not know what they reduce to."""
        self._shards = Shards(self.parameters, slots) if any(map(distributed, self.parameters)) else None
        self._present, self._stepped = [True] * len(self.parameters), self.parameters
        self._leave_out([entry.present for entry in entries])

    def _gather(self, groups: Groups, former: set[torch.Tensor]) -> list[Entry]:
        """List and check the parameters with gradients, and those of the former binding that have none in this step."""
        entries: list[Entry] = []
        position = self._first - 1
        for i, group in enumerate(groups):
            for j, parameter in enumerate(group["params"]):
                position += 1
                gradient = parameter.grad
                if gradient is not None or (parameter in former and self._state.get(parameter)):
                    form = parameter.detach() if gradient is None else gradient
                    entry = Entry(label(group, i, j), i, parameter, form, gradient is not None, position=position)
                    entries.append(here(entry))
        for entry in entries:
            check(entry)
        return entries

    def _bind(self, entries: list[Entry], backend: str | None) -> None:
        """Sort tensors into buckets, and note the facts that must stay true of them."""
        kinds: dict[int, dict[tuple[Compiled, Any], list[int]]] = {}
        slots: list[dict[str, torch.Tensor]] = []
        self._sharing = set[int]()
        for index, entry in enumerate(entries):
            compiled, state = self._compiled_for(entry, backend), self._state[entry.owner]
            apart = spread(entry.owner) if compiled.plan.needed else None
            kinds.setdefault(id(self._kernels(entry)), {}).setdefault((compiled, apart), []).append(index)
            slots.append({name: local(state[name]) for name in self._claimed(entry, compiled)})
        entries = set_apart(entries, slots)
        gradients = [in_order_of(entry.parameter, entry.gradient) for entry in entries]
        self.buckets: list[Bucket] = []
        for (compiled, apart), members in (pair for own in kinds.values() for pair in own.items()):
            own, kernels = [entries[i] for i in members], self._kernels(entries[members[0]])
            present = [gradients[i] if entries[i].present else None for i in members]
            self.buckets.append(Bucket(kernels, compiled, members, own, present, self._state))
            self.buckets[-1].batch.parts = apart is not None
        self._recalling = any(bucket.plan.recalled or bucket.plan.graph.uses_loss for bucket in self.buckets)
        self._common = any(bucket.plan.graph.common for bucket in self.buckets)
        self._counting = [bucket for bucket in self.buckets if not bucket.decides]
        self._deciding = [bucket for bucket in self.buckets if bucket.decides]
        self._work = [(bucket.batch, bucket.hyper) for bucket in self.buckets]
        self._crossings = self._crossing(entries)
        # What cannot be walked in its parameter's order is copied at every step; until then nothing holds a gradient.
        copied = [gradient is not entry.gradient for entry, gradient in zip(entries, gradients, strict=True)]
        self._copied = [(i, replace(entries[i], gradient=entries[i].parameter)) for i in np.flatnonzero(copied)]
        self._make_check([replace(e, gradient=g) for e, g in zip(entries, gradients, strict=True)])

    def _claimed(self, entry: Entry, compiled: Compiled) -> list[str]:
        """List the slots that are written for a parameter: what all tensors share, for the first that is stepped."""
        ranks, key = compiled.plan.graph.ranks, id(self._kernels(entry))
        shared = key in self._sharing
        if entry.present:
            self._sharing.add(key)
        return [name for name in compiled.slots if not (shared and ranks.get(name) is Rank.GLOBAL)]

    def _crossing(self, entries: list[Entry]) -> Crossings | None:
        """Return what a step sends, whatever parameters are bound here: other processes may have other gradients."""
        groups = zip(self._chosen, self._lists, strict=True)
        parts = [(own, kernels.of(own).plan) for kernels, group in groups for own in group if distributed(own)]
        owners = [[entries[i].owner for i in bucket.members] for bucket in self.buckets]
        return crossings_of(parts, [(bucket.batch, own) for bucket, own in zip(self.buckets, owners, strict=True)])

    def _kernels(self, entry: Entry) -> Kernels:
        """Return what runs for a parameter."""
        return self._chosen[entry.group].of(entry.owner)

    def _compiled_for(self, entry: Entry, backend: str | None) -> Compiled:
        """Lay a parameter's slots out as it is, and return the plan that updates it."""
        kernels, state = self._kernels(entry), self._state[entry.owner]
        lay_out(kernels, entry.owner, state, entry.label)
        return kernels.for_entry(entry, state, backend)

    def _make_check(self, entries: list[Entry]) -> None:
        """Choose the check of later steps: the fast one if possible."""
        cells = {i: cell for own in self.buckets for i, cell in zip(own.members, own.gradient_cells() or ())}  # noqa: B905
        self.why_slow = self._why_slow(kernels=len(cells) == len(entries))
        found = None if self.why_slow else loop()
        if found is None:
            self.why_slow = self.why_slow or obstacle() or "there is none here"
        facts, found_forms = Facts(self._lists, self._dicts, entries, self.buckets), forms(entries, self.buckets)
        self._fast = FastCheck(found, facts, found_forms, [cells[i] for i in range(len(entries))]) if found else None
        self._check: Callable[[Gradients, list[Any]], int] = self._fast or SlowCheck(facts, found_forms)
        if any(entry.copied for entry in entries):  # it lies where something is written: binding looks for that
            self._check = _never
        self._far = self._fast if self._fast is not None and self._fast.is_far else None

    def costs(self) -> dict[str, str]:
        """Return what makes steps slower than they could be, besides slow checks, and why."""
        copied = "a gradient is copied at every step: its dtype or layout is not the parameter's"
        launches = next((bucket.batch.why_slow for bucket in self.buckets if bucket.batch.why_slow), "")
        found = {"gradients": copied if self._copied else "", "launches": launches}
        return {name: why for name, why in found.items() if why}

    def _why_slow(self, *, kernels: bool) -> str:
        """Return why one call cannot check these tensors and dicts, or ""."""
        if not kernels:
            return SEVERAL if any(bucket.cut is not None for bucket in self.buckets) else NO_KERNELS
        usual = [*(type(own) is list for own in self._lists), *(type(own) is dict for own in self._dicts)]
        if not all(usual):
            return "a list of parameters, or the state of one, is of a class of its own"
        return "" if self.parameters else "no parameter has a gradient"

    def still_holds(
        self, choose: Callable[[dict[str, Any]], Kernels], mood: object, groups: Groups, state: Any
    ) -> bool:
        """Whether this binding may be used again; if so, it points at this step's gradients."""
        if state is not self._state or len(state) != len(self._dicts) or not self._same_groups(choose, mood, groups):
            return False
        if self._far is not None:
            self._far.fetch()
        gradients: list[Any] = list(map(_gradient, self._all))
        if not self._all_bound:
            if any(gradient is not None and not bound for gradient, bound in zip(gradients, self._bound, strict=True)):
                return False
            gradients = list(compress(gradients, self._bound))
        if self._shards is not None:
            parts = self._shards.parts(gradients)
            if parts is None:
                return False
            gradients = parts
        if self._copied and not self._copy(gradients):
            return False
        answer = self._check(gradients, list(self._state.values()))
        if answer == CHANGED:
            return False
        self._gradients = gradients
        if answer == OTHERS:
            self._leave_out([gradient is not None for gradient in gradients])
        return True

    def _copy(self, gradients: list[Any]) -> bool:
        """Copy those gradients that must be; return False if one is wrong, which a new binding words."""
        with torch.inference_mode(mode=False), torch.no_grad():
            for place, entry in self._copied:
                if gradients[place] is not None:
                    try:
                        check(replace(entry, gradient=gradients[place]))
                    except ParameterError:
                        return False
                    gradients[place] = like(entry.parameter.detach(), gradients[place].detach())
        return True

    def _same_groups(self, choose: Callable[[dict[str, Any]], Kernels], mood: object, groups: Groups) -> bool:
        """Whether kernels and lists are the same; hyperparameters are read anew where any may have changed.

        While a group's entries and the optimiser's mood are what they were, so are its kernels and hyperparameters.
        """
        if len(groups) != len(self._lists):
            return False
        same = mood == self._mood and choose == self.choose
        for index, group in enumerate(groups):
            settings = self._settings[index]
            if not (same and settings.still_hold(group)):
                if not (same and settings.only_numbers_changed(group)):
                    self._settings[index] = settings = Settings(group, choose)
                    if settings.kernels is not self._chosen[index]:
                        return False
                self._changed = True
            if group["params"] is not self._lists[index] or len(self._lists[index]) != self._sizes[index]:
                return False
        self._mood, self.choose = mood, choose
        return True

    def _leave_out(self, present: list[bool]) -> None:
        """Step only the parameters that have gradients."""
        if present == self._present:
            return
        there = np.array(present)
        for bucket in self.buckets:
            bucket.leave_out(there[bucket.members])
        self._work = [(bucket.batch, bucket.hyper) for bucket in self.buckets]
        self._present, self._stepped = present, list(compress(self.parameters, present))

    def step(self, groups: Groups, found: torch.Tensor | None = None) -> bool | None:
        """Read hyperparameters, run the plans on every batch, count the step; return False if a guard stopped it.

        A step is also left out if `found` is above 0, which is no reason to complain: the answer is None. Where kernels
        run on every parameter, they look at `found` themselves.
        """
        if not self._stepped and self._crossings is None:
            return True
        self._counted = False
        if found is not None and (self._counting or not self._deciding) and float(found) > 0:
            self._forget_new()
            return None
        try:
            if self._changed:
                self._set_hypers(groups)
            for bucket in self._deciding:
                bucket.batch.leave_out_if(found)
            for bucket in self._counting:
                bucket.advance(1)
            self._changed = self._recalling
            written = run(self._work, ending=not self.late, processes=self._crossings)
            if written:
                self._count()
        except BaseException:
            self._settle()
            raise
        finally:
            if not self._counted:
                self._forget_new()
        self._gradients = []
        for batch, _ in self._work:
            batch.clear()
        if not written:
            self._take_back()
        return written

    def _set_hypers(self, groups: Groups) -> None:
        """Read every group's hyperparameters, and check them, before anything is written."""
        if self._common:
            check_common(self.choose, groups)
        for bucket in self.buckets:
            bucket.set_hypers(groups)

    def _take_back(self) -> None:
        """Uncount a step that a guard has left out."""
        for bucket in self._counting:
            bucket.advance(-1)

    @property
    def names(self) -> list[str]:
        """The name of each parameter, or its place."""
        return [name.strip("`") for name, _ in self._named]

    @property
    def present(self) -> list[bool]:
        """Whether each parameter had a gradient in the last step."""
        return self._present

    @property
    def batches(self) -> list[Batch]:
        """The batches that a step runs."""
        return [batch for batch, _ in self._work]

    def skips(self) -> list[torch.Tensor]:
        """Return where a device counts the steps that are left out, if one does; all batches leave out the same."""
        found = [own for bucket in self.buckets if (own := bucket.batch.skipped()) is not None]
        return found[:1]

    def left_out(self) -> bool:
        """Whether a guard stopped the last step that was begun, or a scale that overflowed; this waits for a device."""
        return any(bucket.batch.left_out() for bucket in self.buckets)

    def stopped(self) -> bool:
        """Whether a guard on a device stopped the last step; this waits for it."""
        return any(bucket.batch.stopped() for bucket in self._deciding)

    def _forget_new(self) -> None:
        """Take state back that was made for a step which did not happen: only what has been stepped has state."""
        for parameter in self._new:
            self._state.pop(parameter, None)

    def _count(self) -> None:
        """Write step counts and the like, once all parameters are written; doing it again changes nothing."""
        for bucket in self._counting:
            bucket.commit()
        _bump(self._stepped)
        self._new = []
        self._counted = True

    def _settle(self) -> None:
        """After an interrupt, however many follow: finish a step that had begun to write, and count it."""
        while not self._counted:
            try:
                if not settle(self._work, ending=not self.late, processes=self._crossings):
                    return
                self._count()
            except KeyboardInterrupt:
                continue

    def blame(self) -> NonFiniteError:
        """Return the error that names the first parameter whose gradient is not finite."""
        return blame(self._named)


def _never(gradients: Gradients, states: list[Any]) -> int:  # noqa: ARG001
    """Answer that something has changed."""
    return CHANGED


def bind(
    owner: Any,
    choose: Callable[[dict[str, Any]], Kernels],
    groups: Groups,
    state: Any,
    former: Binding | None,
    alone: int | None = None,
) -> Binding:
    """Make a binding of all parameters with gradients, and of those in the former one, unless one cannot be kept.

    `alone` is the position of a parameter that is stepped without the others of its owner, an optimiser: then groups
    and state are this parameter's.
    """
    if former is not None:
        try:
            return Binding(owner, choose, groups, state, former.parameters, alone)
        except StepruleError:  # without them it is either another parameter's fault, or none at all
            pass
    return Binding(owner, choose, groups, state, alone=alone)
