"""The contract of a backend: the tensors that it takes, and batches that run a plan's passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import BackendError
from ..graph.node import Node
from ..graph.ops import OPS
from ..plan.program import Program
from ..plan.schedule import Pass, Plan
from ..version import __version__
from .calls import Calls
from .render import Dialect

Table = NDArray[np.float64]
Gradients = Sequence[torch.Tensor | None]
DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""The dtypes of parameters that have kernels."""
ABSENT, EMPTY = 0, 16
"""Stands for the address of an absent gradient, and of one without elements, which has no address either."""


def addresses_of(gradients: Gradients) -> list[int]:
    """Return the addresses of gradients for kernels."""
    return [ABSENT if gradient is None else gradient.data_ptr() or EMPTY for gradient in gradients]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the random bits of a tensor come from, and where it lies in a whole one, of which it may be a part."""

    stream: int
    shape: tuple[int, ...]
    """That of the whole."""
    offset: tuple[int, ...]
    """Where in it the first element is."""
    part: bool = False
    """Whether other processes may have the rest of it."""

    @property
    def first(self) -> int:
        """The index of the first element in the whole tensor, row by row."""
        index = 0
        for size, start in zip(self.shape, self.offset, strict=True):
            index = index * size + start
        return index


Where = Sequence[Place]
Share = tuple[slice, int, torch.Tensor]
"""Neighbouring rows of hyperparameters, a column, and the number on the device that stands there."""
Arrays = Mapping[str, Sequence[Any]]
"""The parameter, the gradient and every slot that is no host slot, by name: one tensor a parameter. A gradient may be
absent, i.e. None."""


class Kernel(ABC):
    """A program as one backend runs it. Compilation waits for the first batch; its `source` can be read before."""

    dialect: type[Dialect] | None = None
    """The language of its source, or None without a source."""

    def __init__(self, program: Program, *, capturable: bool = False) -> None:
        if self.dialect is not None and (why := self.dialect.lacks(program)):
            raise BackendError(f"`{program.plan.graph.name}` has no such kernel: {why}", fix='backend="eager" runs it')
        self.program, self.capturable = program, capturable
        own = self._writer()
        self.source = "" if own is None else own.module(__version__)

    def _writer(self) -> Dialect | None:
        """Return what writes the source, if there is one."""
        return None if self.dialect is None else self.dialect(self.program)

    def table_of(self, counts: NDArray[Any], device: torch.device) -> torch.Tensor:  # noqa: ARG002
        """Return where the state keeps step counts and host slots: in this table, or in its like where kernels count.

        It has a row a tensor, and columns as `host_columns` says.
        """
        return torch.from_numpy(counts)

    @abstractmethod
    def batch(self, arrays: Arrays, rows: Sequence[int], counts: torch.Tensor, where: Where | None = None) -> Batch:
        """Bind tensors; `rows` are theirs in the table of hyperparameters, `counts` is what `table_of` gave.

        Where tensors lie must be known if the program draws.
        """


class Backend(ABC):
    """Runs plans on tensors of some kinds. Callers ask for its capabilities, never for its name."""

    name: str
    kernel: type[Kernel]
    """The class that runs a program."""
    pointed: bool = True
    """Whether its batches hold addresses, so that tensors must stay where they are."""
    decides: bool = False
    """Whether its kernels find out by themselves, on their device, that a step is left out; they count steps there."""

    @abstractmethod
    def home(self, device: torch.device) -> bool:
        """Whether parameters on a device go to this backend, if nothing is in the way."""

    @abstractmethod
    def obstacle(self, device: torch.device, dtype: torch.dtype) -> str:
        """Return why it cannot update parameters of a dtype on a device, or ""."""

    @abstractmethod
    def reason(self, device: torch.device) -> str:
        """Word why parameters on a device are updated by this backend."""

    def lacks(self, program: Program) -> str:
        """Return why it has no kernel for a program, or ""."""
        return "" if self.kernel.dialect is None else self.kernel.dialect.lacks(program)

    def remedy(self) -> str:
        """Return the advice for a user who chose this backend for a parameter that it cannot update."""
        return "leave backend=None"


class Processes(ABC):
    """What several processes tell each other in a step, of which each has parts of the same tensors.

    All of them must ask for the same passes in the same order, whatever gradients are absent where.
    """

    passes: int
    """How many passes a step has somewhere."""

    @abstractmethod
    def begin(self) -> None:
        """Forget the step before."""

    @abstractmethod
    def totals(self, index: int) -> dict[Node, Any]:
        """Join what parts were reduced to in a pass, −1 being every plan's last one.

        What parts of one tensor reduce to becomes that of all of it in the batches that have it; what is reduced of all
        tensors that are cut is returned, in the words of all plans. Asked again in the same step, nothing is sent.
        """

    @abstractmethod
    def refuses(self) -> bool:
        """Whether the guard of some plan has found NaN or infinity."""


class Batch(ABC):
    """Tensors of one dtype and device, bound to a plan.

    The caller runs `begin`, then `call` and `sweep` for every pass, after which it may replace the totals of global
    reductions by those of all batches; then `end`, and of one batch of a plan `end_all`. `step` does all of it for a
    batch that is alone. After an interrupt `begun` tells whether anything was written, `finish` ends the last pass, and
    the ends are left as they are if they were done; `clear` forgets a step that has been counted.
    """

    plan: Plan
    total: Any
    """One number a reduction, as an array or, where reading it would wait, a tensor on a device; after `sweep`,
    this batch's own share of each global one."""
    shares: Sequence[Share] = ()
    """Hyperparameters that are on the device already, where kernels decide by themselves."""
    why_slow = ""
    """Why its launches cost more than they could, or ""."""
    calls: Calls | None = None
    """What is computed on whole tensors between passes."""
    host: Table | None = None
    """After `begin`, the plan's `host` values, a row a setting, unless they are computed where used."""
    parts = False
    """Whether its tensors are parts, of which other processes have others."""

    @abstractmethod
    def set_gradients(self, gradients: Gradients) -> None:
        """Point at this step's gradients; their shape, dtype, strides and device have been checked.

        A pass skips a tensor whose gradient is absent, with its slots, and no reduction includes it.
        """

    def gradient_cells(self) -> list[int] | None:
        """List the places in main memory for the addresses of gradients, or return None if they belong elsewhere."""
        return None

    def shared(self) -> bool:
        """Whether several threads of the host share a pass."""
        return False

    def stopped(self) -> bool:
        """Whether the guard of kernels that decide by themselves stopped the last step; this waits for the device."""
        return False

    def left_out(self) -> bool:
        """Whether the last step that was begun wrote nothing; this may wait for a device."""
        return self.refuses(0)

    def skipped(self) -> torch.Tensor | None:
        """Return where kernels that decide by themselves count the steps that they leave out, if they do."""
        return None

    def leave_out_if(self, found: torch.Tensor | None) -> None:  # noqa: B027
        """Leave the next step out if this number is above 0, on backends whose kernels decide by themselves."""

    def leave_out(self, present: NDArray[np.bool_]) -> None:  # noqa: B027
        """Prepare for steps in which only some of the tensors have gradients."""

    def set_rows(self, rows: Sequence[int]) -> None:  # noqa: B027
        """Read each tensor's hyperparameters from another row from now on."""

    @abstractmethod
    def begin(self, hyper: Table) -> None:
        """Take this step's hyperparameters: a row a distinct setting, columns as `hyper_columns` says."""

    def call(self, index: int) -> None:
        """Compute what pass `index` needs of whole tensors. Whatever fails here fails before anything is written."""
        if self.calls is not None:
            self.calls.before(index, self)

    def present(self) -> NDArray[np.bool_]:
        """Say which tensors have gradients in this step."""
        raise NotImplementedError

    def numbers(self, nodes: Sequence[Node]) -> Table:
        """Return the values of nodes below element rank, a row a tensor; this may wait for a device."""
        raise NotImplementedError

    def scalars(self, nodes: Sequence[Node]) -> torch.Tensor:
        """Return the same in float64 where the tensors are; of what stands on a device, without waiting."""
        return torch.from_numpy(self.numbers(nodes))

    @abstractmethod
    def sweep(self, index: int) -> None:
        """Walk over memory once, and reduce: pass `index`."""

    @abstractmethod
    def end(self) -> None:
        """Write the slots that no pass writes, after the last one, unless this step has written them.

        It may come after `clear`, when the gradients are gone, but where slots are matrices of other shapes.
        """

    @abstractmethod
    def end_all(self) -> None:
        """Write the slots of one number for all tensors, which batches of a plan share, unless this step has done so.

        Nobody reads them after it in the same step; it may come after `clear`.
        """

    @abstractmethod
    def reduced(self) -> Table:
        """Return the row of each tensor in the table `reduced`, of the last step; this may wait for a device."""

    def reduced_at(self, places: Sequence[int]) -> torch.Tensor:
        """Return what each tensor was reduced to, at some places of the table `reduced`, without waiting."""
        raise NotImplementedError

    def put_reduced(self, places: Sequence[int], numbers: torch.Tensor) -> None:
        """Let these be what each tensor was reduced to."""
        raise NotImplementedError

    @abstractmethod
    def begun(self) -> bool:
        """Whether this step has begun to write."""

    @abstractmethod
    def finish(self) -> None:
        """Write the rest of an interrupted last pass, and reduce it whole; a second call does no harm."""

    @abstractmethod
    def clear(self) -> None:
        """Forget how far this step has come: it is over."""

    def step(self, hyper: Table) -> bool:
        """Run every pass; return whether anything was written (a guarded plan stops at a bad gradient)."""
        self.begin(hyper)
        for item in self.plan.passes:
            self.call(item.index)
            self.sweep(item.index)
            if self.refuses(item.index):
                return False
        self.end()
        self.end_all()
        return True

    def refuses(self, index: int) -> bool:
        """Whether the plan's guard, which ends in pass `index`, found NaN or infinity."""
        guard = self.plan.guard
        if guard is None or guard not in self.plan.passes[index].reductions:
            return False
        return not np.isfinite(self.total[self.plan.reductions.index(guard)])


def run(work: Sequence[tuple[Batch, Table]], *, ending: bool = True, processes: Processes | None = None) -> bool:
    """Run one step of every batch's plan, sharing global reductions; return whether it wrote anything.

    Without its `ending`, which `conclude` makes up for, slots of one number a tensor are not yet written. Other
    `processes` share reductions of tensors that they have parts of.
    """
    if len(work) == 1 and ending and processes is None:
        batch, hyper = work[0]
        return batch.step(hyper)
    if processes is not None:
        processes.begin()
    for batch, hyper in work:
        batch.begin(hyper)
    batches = [batch for batch, _ in work]
    passes = max([len(batch.plan.passes) for batch in batches], default=1)
    for index in range((passes if processes is None else max(passes, processes.passes)) - 1):
        walking = [batch for batch in batches if index < len(batch.plan.passes) - 1]
        for batch in walking:
            batch.call(index)
            batch.sweep(index)
        _share_totals([(batch, batch.plan.passes[index]) for batch in walking], processes, index)
        if any(batch.refuses(index) for batch in walking) or (processes is not None and processes.refuses()):
            return False
    for batch in batches:
        batch.call(len(batch.plan.passes) - 1)
    for batch in batches:
        batch.sweep(len(batch.plan.passes) - 1)
    if ending:
        _wind_up(batches, processes)
    return True


def conclude(batches: Sequence[Batch]) -> None:
    """End steps of batches that ran apart, without their ending: share all totals, and write what waits for them."""
    _share_totals([(batch, item) for batch in batches for item in batch.plan.passes])
    _end(batches)
    for batch in batches:
        batch.clear()


def settle(work: Sequence[tuple[Batch, Table]], *, ending: bool = True, processes: Processes | None = None) -> bool:
    """Finish a step that was interrupted while it wrote; return False if it had not come so far."""
    batches = [batch for batch, _ in work]
    written = any(batch.begun() for batch in batches)
    if written:
        for batch in batches:
            batch.finish()
        if ending:
            _wind_up(batches, processes)
    return written


def _wind_up(batches: Sequence[Batch], processes: Processes | None) -> None:
    """Share the totals that only slots of one number a tensor wait for, and write these."""
    _share_totals([(batch, batch.plan.passes[-1]) for batch in batches], processes)
    _end(batches)


def _end(batches: Sequence[Batch]) -> None:
    """Write the slots that no pass writes; when all have read them, and once a plan, those that all tensors share."""
    for batch in batches:
        batch.end()
    for batch in {id(batch.plan): batch for batch in reversed(batches)}.values():
        batch.end_all()


def _share_totals(ended: Sequence[tuple[Batch, Pass]], processes: Processes | None = None, index: int = -1) -> None:
    """Replace each batch's share of a global reduction by the whole; equal formulas are one, in any plan.

    Totals on a device are added there, and waited for only if a batch in main memory needs them.
    """
    shared = [(batch, node) for batch, item in ended for node in item.reductions if node.kind == "global"]
    whole: dict[Node, Any] = {} if processes is None else processes.totals(index)
    for batch, node in ((batch, node) for batch, node in shared if not batch.parts):
        key, share = batch.plan.shared[node], batch.total[batch.plan.reductions.index(node)]
        whole[key] = join(node.reducer.combine, whole[key], share) if key in whole else share
    for batch, node in shared:
        share, held = whole[batch.plan.shared[node]], batch.total
        on_host = isinstance(held, np.ndarray) and isinstance(share, torch.Tensor)
        held[batch.plan.reductions.index(node)] = float(share) if on_host else share


def join(op: str, a: Any, b: Any) -> Any:
    """Apply an operation to two numbers, of which either may be on a device; there the first becomes the result."""
    held = next((x for x in (a, b) if isinstance(x, torch.Tensor)), None)
    if held is None:
        with np.errstate(all="ignore"):
            return float(OPS[op].meaning(float(a), float(b)))
    a, b = (x.to(held.device) if isinstance(x, torch.Tensor) else held.new_full((), float(x)) for x in (a, b))
    return getattr(torch, OPS[op].torch)(a, b, out=a)
