"""The binding: the tensors of a step, checked once in full, then compared every step at little cost.

`Binding` is built by looking at everything. `still_holds` then asks, before every launch, whether anything
that a raw pointer depends on has changed since: the address, size and layout of each parameter, gradient
and slot, a lazily negated gradient, the groups themselves. Whatever differs makes the optimiser build a new
binding, and with it check everything again, before anything is written.

Gradients may be absent: such parameters stay where they are in all tables, marked, and are left alone with
their state. Only a gradient of a parameter that the binding does not hold makes another one, which holds both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch

from ..backends import BACKENDS
from ..backends.base import Gradients, addresses_of, run, settle
from ..errors import NonFiniteError, StepruleError
from ..plan.tables import array_rows
from .aliasing import Written, set_apart
from .bucket import Bucket, Groups, TensorCheck, lay_out
from .compiled import Compiled, Kernels
from .device_bucket import DeviceBucket
from .fast_check import FastCheck, loop, obstacle
from .fast_check_source import CHANGED, OTHERS
from .settings import Settings
from .shards import Shards, distributed, local
from .state import ensure
from .tensors import Entry, check, extent, here, label

NO_KERNELS = "some parameters are not updated by kernels in main memory"
_gradient = attrgetter("grad")
_torch: Any = torch
_bump: Callable[[Any], None] = getattr(_torch._C, "_increment_version", torch.autograd.graph.increment_version)  # noqa: SLF001


class Binding:
    """All tensors of a step, sorted into one bucket a plan."""

    def __init__(
        self,
        choose: Callable[[dict[str, Any]], Kernels],
        mood: object,
        groups: Groups,
        state: Any,
        backend: str | None,
        former: Sequence[torch.Tensor] = (),
    ) -> None:
        self._state = state
        self._settings = [Settings(group, choose) for group in groups]
        self._chosen = [settings.kernels for settings in self._settings]
        self.choose = choose
        self._mood = mood
        self._changed = True
        self._groups = [list(group["params"]) for group in groups]
        self._all = [parameter for group in self._groups for parameter in group]
        self._entries = self._gather(groups, set(former))
        self.parameters = [entry.owner for entry in self._entries]
        self._new = [owner for owner in self.parameters if not state.get(owner)]
        for entry in self._entries:
            ensure(self._chosen[entry.group], groups[entry.group], entry.owner, state[entry.owner])
        self._dicts = list(state.values())
        self._bound = list(map(set(self.parameters).__contains__, self._all))
        self._all_bound = all(self._bound)
        try:
            self._muster(backend)
        except BaseException:
            self._forget_new()
            raise
        slots = (slot for bucket in self.buckets for own in bucket.checks for _, held in own.kept() for slot in held)
        self._shards = Shards(self.parameters, slots) if any(map(distributed, self.parameters)) else None
        self._lists = [group["params"] for group in groups]
        self._fast = self._make_fast_check()
        self._far = self._fast if self._fast is not None and self._fast.is_far else None
        self._gradients: Gradients = []
        self._present, self._stepped = [True] * len(self.parameters), self.parameters
        self._leave_out([entry.present for entry in self._entries])
        self._named = [(entry.label, entry.owner) for entry in self._entries]
        del self._entries  # they hold gradients, which zero_grad is to free

    def _gather(self, groups: Groups, former: set[torch.Tensor]) -> list[Entry]:
        """List and check the parameters with gradients, and those of the former binding that have none in this step."""
        entries: list[Entry] = []
        for i, group in enumerate(groups):
            for j, parameter in enumerate(group["params"]):
                gradient = parameter.grad
                if gradient is not None or (parameter in former and self._state.get(parameter)):
                    form = parameter.detach() if gradient is None else gradient
                    entries.append(here(Entry(label(group, i, j), i, parameter, form, gradient is not None)))
        for entry in entries:
            check(entry)
        return entries

    def _muster(self, backend: str | None) -> None:
        members: dict[tuple[object, ...], list[int]] = {}
        compiled = [self._compiled_for(entry, backend) for entry in self._entries]
        slots = [self._slots(entry) for entry in self._entries]
        self._entries = set_apart(self._entries, slots)
        written = [[entry.parameter, *own.values()] for entry, own in zip(self._entries, slots, strict=True)]
        self._written = Written([tensor for own in written for tensor in own])
        self._lengths = [extent(entry.gradient) for entry in self._entries]
        self._addresses = addresses_of([entry.gradient if entry.present else None for entry in self._entries])
        for index, (entry, own) in enumerate(zip(self._entries, compiled, strict=True)):
            kind = (own,) if BACKENDS[own.backend].decides else ()
            members.setdefault((id(self._chosen[entry.group]), *kind), []).append(index)
        self._members = list(members.values())
        self.buckets: list[Bucket | DeviceBucket] = []
        for indices in self._members:
            entries = [self._entries[i] for i in indices]
            kernels = self._chosen[entries[0].group]
            own = [compiled[i] for i in indices]
            if BACKENDS[own[0].backend].decides:
                self.buckets.append(DeviceBucket(kernels, entries, self._state, own[0]))
            else:
                self.buckets.append(Bucket(kernels, entries, self._state, own))
        self._on_device = [bucket for bucket in self.buckets if isinstance(bucket, DeviceBucket)]
        self.device_decides = bool(self.buckets) and len(self._on_device) == len(self.buckets)
        """Whether kernels find out by themselves that a step must be left out."""
        self._work = [pair for bucket in self.buckets for pair in bucket.work()]
        self._counted = True

    def _compiled_for(self, entry: Entry, backend: str | None) -> Compiled:
        """Lay a parameter's slots out as it is, and return what updates it."""
        kernels, state = self._chosen[entry.group], self._state[entry.owner]
        lay_out(kernels.plan, entry.owner, state, entry.label)
        return kernels.for_entry(entry, state, backend)

    def _slots(self, entry: Entry) -> dict[str, torch.Tensor]:
        """Return a parameter's slots in memory, by name."""
        state = self._state[entry.owner]
        return {name: local(state[name]) for name in array_rows(self._chosen[entry.group].plan)[2:]}

    def still_holds(
        self, choose: Callable[[dict[str, Any]], Kernels], mood: object, groups: Groups, state: Any
    ) -> bool:
        """Whether this binding may be used again; if so, it points at this step's gradients.

        While a group's entries and the optimiser's mood are what they were, so are its kernels and hyperparameters.
        """
        if state is not self._state or len(groups) != len(self._groups) or len(state) != len(self._dicts):
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
            if group["params"] is not self._lists[index] or len(self._lists[index]) != len(self._groups[index]):
                return False
        self._mood, self.choose = mood, choose
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
        return self._same_by_slow(gradients) if self._fast is None else self._same_by_fast(self._fast, gradients)

    def _same_by_fast(self, fast: FastCheck, gradients: Gradients) -> bool:
        """Ask in one call whether all is as it was."""
        answer = fast(gradients, list(self._state.values()))
        if answer == CHANGED:
            return False
        self._gradients = gradients
        if answer == OTHERS:
            self._leave_out([gradient is not None for gradient in gradients])
        return True

    def _leave_out(self, present: list[bool]) -> None:
        """Step those parameters alone that have gradients."""
        if present == self._present:
            return
        there = np.array(present)
        for bucket, members in zip(self.buckets, self._members, strict=True):
            bucket.leave_out(there[members])
        self._work = [pair for bucket in self.buckets for pair in bucket.work()]
        self._present, self._stepped = present, list(compress(self.parameters, present))

    def _same_by_slow(self, gradients: Gradients) -> bool:
        """Ask one by one whether all is as it was."""
        if not all(map(is_, self._state.values(), self._dicts)):
            return False
        for now, before in zip(self._lists, self._groups, strict=True):
            if not all(map(is_, now, before)):
                return False
        for bucket, members in zip(self.buckets, self._members, strict=True):
            if not bucket.still_holds([gradients[i] for i in members]):
                return False
        self._leave_out([gradient is not None for gradient in gradients])
        return self._apart(addresses_of(gradients))

    def _apart(self, addresses: list[int]) -> bool:
        """Whether gradients that have moved lie where nothing is written."""
        if addresses != self._addresses:
            rows = zip(addresses, self._addresses, self._lengths, strict=True)
            if any(now != before and now and self._written.touches(now, length) for now, before, length in rows):
                return False
            self._addresses = addresses
        return True

    def _obstacle(self, checks: list[TensorCheck]) -> str:
        """Return why these tensors and dicts cannot be asked in one call; nothing if they can."""
        if any(batch.gradient_cells() is None for bucket in self.buckets for batch in bucket.batches):
            return NO_KERNELS
        if not all(own.given for own in checks):
            return "a gradient has to be copied at every step: its dtype or layout is not the parameter's"
        if not all(type(own) is list for own in self._lists) or not all(type(own) is dict for own in self._dicts):
            return "a list of parameters, or the state of one, is of a class of its own"
        return "" if checks else "no parameter has a gradient"

    def _make_fast_check(self) -> FastCheck | None:
        """Tell a fast check what to ask; None if a batch is no kernel's or a gradient had to be copied."""
        checks = [own for bucket in self.buckets for own in bucket.checks]
        self.why_slow = self._obstacle(checks)
        found = None if self.why_slow else loop()
        if found is None:
            self.why_slow = self.why_slow or obstacle() or "there is none here"
            return None
        rows: dict[int, tuple[torch.Tensor, int, int, int, tuple[int, int]]] = {}
        for bucket, members in zip(self.buckets, self._members, strict=True):
            for own, batch, order in zip(bucket.checks, bucket.batches, bucket.order, strict=True):
                gradients = [self._entries[members[i]].gradient for i in order]
                places = [(self._addresses[members[i]], self._lengths[members[i]]) for i in order]
                facts = zip(gradients, batch.gradient_cells() or [], own.needed, own.offsets, places, strict=True)
                rows.update(zip((members[i] for i in order), facts, strict=True))
        return FastCheck(
            found,
            lists=self._lists,
            states=self._dicts,
            entries=[
                entry
                for owner in (*checks, *(bucket.cells for bucket in self.buckets))
                for name, held in owner.kept()
                for entry in zip(owner.states, [name] * len(held), held, strict=True)
            ],
            tensors=[row for own in checks for row in own.pointed_at()],
            gradients=[rows[place] for place in range(len(rows))],
            written=self._written.bounds,
            cells=[cell for bucket in self.buckets for cell in bucket.cells.tensors],
            numbers=[(own.counts, own.counted) for own in self.buckets if isinstance(own, Bucket) and own.hosts],
        )

    def step(self, groups: Groups, found: torch.Tensor | None = None) -> bool:
        """Read hyperparameters, run the plans on every batch, count the step; return False if a guard stopped it.

        A step is also left out if `found` is above 0, which is no reason to complain: the answer is True. Where kernels
        run on every parameter, they look at `found` themselves.
        """
        if not self._stepped:
            return True
        self._counted = False
        if found is not None and not self.device_decides and float(found) > 0:
            self._forget_new()
            return True
        try:
            for bucket in self._on_device:
                bucket.leave_out_if(found)
            for bucket in self.buckets:
                if self._changed:
                    bucket.set_hypers(groups)
                bucket.advance(1)
            self._changed = False
            written = run(self._work)
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
            for bucket in self.buckets:
                bucket.advance(-1)
        return written

    def stopped(self) -> bool:
        """Whether a guard on a device stopped the last step; this waits for it."""
        return any(bucket.stopped() for bucket in self._on_device)

    def _forget_new(self) -> None:
        """Take state back that was made for a step which did not happen: only what has been stepped has state."""
        for parameter in self._new:
            self._state.pop(parameter, None)

    def _count(self) -> None:
        """Write step counts and the like, once all parameters are written; doing it again changes nothing."""
        for bucket in self.buckets:
            bucket.commit()
        _bump(self._stepped)
        self._new = []
        self._counted = True

    def _settle(self) -> None:
        """After an interrupt, however many follow: finish a step that had begun to write, and count it."""
        while not self._counted:
            try:
                if not settle(self._work):
                    return
                self._count()
            except KeyboardInterrupt:
                continue

    def blame(self) -> NonFiniteError:
        """Return the error that names the first parameter whose gradient is not finite."""
        culprits = self._culprits()
        more = f" (and of {len(culprits) - 1} more)" if len(culprits) > 1 else ""
        return NonFiniteError(
            f"the gradient of {culprits[0][0]}{more} is not finite; nothing was updated",
            where=f"  shape {tuple(culprits[0][1].shape)}",
            fix='lower the learning rate, clip, or pass nonfinite="skip" to leave such steps out',
        )

    def _culprits(self) -> list[tuple[str, torch.Tensor]]:
        now = [(label, parameter, parameter.grad) for label, parameter in self._named]
        return [(label, p) for label, p, g in now if g is not None and not bool(torch.isfinite(local(g)).all())]


def bind(
    choose: Callable[[dict[str, Any]], Kernels],
    mood: object,
    groups: Groups,
    state: Any,
    backend: str | None,
    former: Binding | None,
) -> Binding:
    """Make a binding of all parameters with gradients, and of those in the former one, unless one cannot be kept."""
    if former is not None:
        try:
            return Binding(choose, mood, groups, state, backend, former.parameters)
        except StepruleError:  # without them it is either another parameter's fault, or none at all
            pass
    return Binding(choose, mood, groups, state, backend)
