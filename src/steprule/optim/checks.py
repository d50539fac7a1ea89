"""Has anything changed that a raw pointer relies on? The questions before every launch, and the slow way to ask them.

`Facts` list what must stay true. `SlowCheck` asks in Python and defines what is asked; `FastCheck`, next door, asks the
same in one compiled call. Why that is enough for memory safety: a tensor's bytes are reachable from its address, sizes
and strides alone, and these are compared with values that were checked against the storage's size. A storage that is
freed or resized changes its size, which is compared too: its address may be the old one again. Tensors and storages are
held.

What a tensor is, all but its address, torch's own compiler asks of its inputs too, and answers it for a whole list in
one call of C++ (`TensorGuards`); that call is used where this version of torch has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, compress
from operator import getitem, is_, le
from typing import Any, NamedTuple

import torch

from ..backends.base import Gradients, addresses_of
from .aliasing import Written
from .bucket import Bucket
from .tensors import Entry, extent

try:
    from torch._C._dynamo import guards  # pyright: ignore[reportMissingModuleSource]

    TensorGuards: Any = getattr(guards, "TensorGuards", None)
except ImportError:
    TensorGuards = None

CHANGED, SAME, OTHERS = range(3)
"""What a check answers: bind anew; all is as it was; all is, but other gradients may be absent."""
Comparison = Callable[..., bool]
"""Called with the tensors of now, one an argument."""
_address = torch.Tensor.data_ptr
_offset = torch.Tensor.storage_offset
_storage, _size = torch.Tensor.untyped_storage, torch.UntypedStorage.nbytes


class Form(NamedTuple):
    """What the gradient of one parameter must be: like this tensor, and as far from the beginning of a storage.

    `needed` are the bytes that the storage must have, if a kernel is told where it begins; `address` and `length` say
    where the gradient lies and how far it reaches.
    """

    like: torch.Tensor
    offset: int
    needed: int
    address: int
    length: int


class Facts:
    """The facts that must stay true from step to step.

    The state holds the very tensors it held: another view of their memory is another slot. Storages are those of
    parameters and slots that kernels point at. A gradient that has moved must not lie where something is written.
    Numbers of the state that are counted here are as they were written last.
    """

    def __init__(
        self,
        lists: Sequence[list[Any]],
        states: Sequence[Mapping[str, Any]],
        entries: Sequence[Entry],
        buckets: Sequence[Bucket],
    ) -> None:
        self.lists, self.states = lists, states
        self.parameters = [entry.parameter for entry in entries]
        self.slots = [slot for bucket in buckets for slot in bucket.arrays]
        self.cells = [cell for bucket in buckets for cell in bucket.cells]
        self.items = [(own, name, own[name]) for bucket in buckets for own in bucket.states for name in bucket.names]
        self.storages = [storage for bucket in buckets for storage in bucket.storages]
        self.numbers = [(own.counts, own.counted) for own in buckets if own.hosts and not own.decides]
        self.written = Written([*self.parameters, *self.slots])
        self.buckets = buckets


def forms(entries: Sequence[Entry], buckets: Sequence[Bucket]) -> list[Form]:
    """Note the gradients' facts, for a short time: the note holds them, and zero_grad must free them."""
    pointed = {place for bucket in buckets if bucket.pointed for place in bucket.members}
    addresses = addresses_of([entry.gradient if entry.present else None for entry in entries])
    found: list[Form] = []
    for place, (entry, address) in enumerate(zip(entries, addresses, strict=True)):
        gradient, length = entry.gradient, extent(entry.gradient)
        offset = int(gradient.storage_offset()) if place in pointed else 0
        needed = offset * gradient.element_size() + length if place in pointed else 0
        found.append(Form(gradient, offset, needed, address, length))
    return found


class SlowCheck:
    """Ask in Python whether a step may use the binding of the last one; if so, batches point at its gradients."""

    def __init__(self, facts: Facts, forms: Sequence[Form]) -> None:
        self._facts = facts
        self._listed = list(chain.from_iterable(facts.lists))
        self._dicts, self._keys, self._values = zip(*facts.items, strict=True) if facts.items else ((), (), ())
        self._tensors = [*facts.parameters, *facts.slots, *facts.cells]
        self._same_tensors = comparison(self._tensors)
        self._where = list(map(_address, self._tensors))
        self._sizes = list(map(_size, facts.storages))
        self._same_gradients = comparison([form.like for form in forms])
        self._shapes = [(tuple(form.like.shape), form.like.stride()) for form in forms]
        self._stand_ins: list[torch.Tensor] = []
        self._offsets, self._needed = [form.offset for form in forms], [form.needed for form in forms]
        self._reach = [form.needed > 0 for form in forms]
        self._addresses, self._lengths = [form.address for form in forms], [form.length for form in forms]

    def __call__(self, gradients: Gradients, states: list[Any]) -> int:
        """Return `CHANGED`, or `OTHERS`: all is as it was, but other gradients may be absent."""
        facts = self._facts
        try:
            same = (
                all(map(is_, chain.from_iterable(facts.lists), self._listed))
                and all(map(is_, states, facts.states))
                and all(map(is_, map(getitem, self._dicts, self._keys), self._values))
                and all(now.tobytes() == then.tobytes() for now, then in facts.numbers)  # by bits: NaN equals itself
                and self._same_tensors(*self._tensors)
                and list(map(_address, self._tensors)) == self._where
                and list(map(_size, facts.storages)) == self._sizes
                and self._same_form(gradients)
                and self._same_reach(gradients)
                and self._apart(addresses_of(gradients))
            )
        except (KeyError, AttributeError, TypeError, RuntimeError):  # a slot is gone, or no dense tensor any more
            return CHANGED
        for bucket in facts.buckets if same else ():
            bucket.set_gradients(gradients)
        return OTHERS if same else CHANGED

    def _same_form(self, gradients: Gradients) -> bool:
        """Whether gradients look as they did; a stand-in answers for an absent one."""
        if all(gradient is not None for gradient in gradients):
            return self._same_gradients(*gradients)
        if not self._stand_ins:
            owners = zip(self._facts.parameters, self._shapes, strict=True)
            self._stand_ins = [owner.detach().as_strided(*shape) for owner, shape in owners]
        own = zip(gradients, self._stand_ins, strict=True)
        return self._same_gradients(*(like if gradient is None else gradient for gradient, like in own))

    def _same_reach(self, gradients: Gradients) -> bool:
        """Whether gradients begin where in their storages they began, and the storages hold all of them."""
        kept = [reach and gradient is not None for reach, gradient in zip(self._reach, gradients, strict=True)]
        there: list[Any] = list(compress(gradients, kept))
        sizes = map(_size, map(_storage, there))
        return list(map(_offset, there)) == list(compress(self._offsets, kept)) and all(
            map(le, compress(self._needed, kept), sizes)
        )

    def _apart(self, addresses: list[int]) -> bool:
        """Whether gradients that have moved lie outside written memory."""
        if addresses != self._addresses:
            rows = zip(addresses, self._addresses, self._lengths, strict=True)
            if any(now != before and now and self._facts.written.touches(now, length) for now, before, length in rows):
                return False
            self._addresses = addresses
        return True


# What tensors are, all but their addresses ------------------------------------------------------------


def comparison(tensors: Sequence[torch.Tensor]) -> Comparison:
    """Return a function that tells whether tensors look exactly as these do now, address apart."""
    if not tensors:
        return lambda *now: not now
    if TensorGuards is None:
        return _slow(tensors)
    try:
        sizes: Any = [list(tensor.shape) for tensor in tensors]
        strides: Any = [list(tensor.stride()) for tensor in tensors]
        guard = TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    except (TypeError, RuntimeError):
        return _slow(tensors)
    return guard.check


def by() -> tuple[str, str]:
    """Return the comparer of tensors, `"torch"` or `"python"`, and why not torch; `explain` quotes it."""
    if TensorGuards is not None:
        return "torch", ""
    return "python", f"torch {torch.__version__} has no guards for lists of tensors (TensorGuards)"


def _slow(tensors: Sequence[torch.Tensor]) -> Comparison:
    seen = [_described(tensor) for tensor in tensors]
    return lambda *now: [_described(tensor) for tensor in now] == seen


def _described(tensor: torch.Tensor) -> tuple[Any, ...]:
    form = (type(tensor), tensor.dtype, tensor.device, tensor.layout, tensor.shape)
    strided = tensor.layout is torch.strided
    return (*form, tensor.stride(), tensor.is_neg(), tensor.is_conj()) if strided else form
