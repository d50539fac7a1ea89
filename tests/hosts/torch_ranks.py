"""What two processes do together: each scenario runs in both, and gives back numbers that a test compares."""

from __future__ import annotations

import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch_loop import PAIRS, batch, identical

import steprule as sr
from steprule import board
from steprule.backends import lots
from steprule.errors import StepruleError

WORLD = 2
STEPS = 6
HALF = STEPS // 2

TORCHS_OWN = (
    ("`torch.jit", DeprecationWarning),  # importing torch.distributed.optim
    ("TypedStorage is deprecated", UserWarning),
    ("The .grad attribute of a Tensor that is not a leaf", UserWarning),
)


def network() -> torch.nn.Module:
    """Make a model whose last layer is one row: sharded, the second process has nothing of it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()


def train(
    model: torch.nn.Module, optimizer: Any, steps: Iterable[int], part: slice = slice(None), clip: float | None = None
) -> None:
    """Train on a part of every batch."""
    for step in steps:
        inputs, targets = batch(step)
        optimizer.zero_grad()
        (model(inputs[part]) - targets[part, :1]).square().mean().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def copies(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def mine() -> slice:
    """Return this process's half of a batch of 16."""
    return slice(8 * dist.get_rank(), 8 * dist.get_rank() + 8)


# DistributedDataParallel -------------------------------------------------------------------------------------


def ddp(pair: str, view: bool, clip: float | None) -> dict[str, Any]:
    from torch.nn.parallel import DistributedDataParallel

    ours, torchs, options = PAIRS[pair]

    def wrapped() -> torch.nn.Module:
        return DistributedDataParallel(network(), gradient_as_bucket_view=view)

    found = {}
    clipped = {} if clip is None else {"clip": clip, "nonfinite": "skip"}
    for name, make, extra in (("own", ours, clipped), ("twin", torchs, {})):
        model = wrapped()
        optimizer = make(model.parameters(), **options, **extra)
        train(model, optimizer, range(HALF), mine(), None if extra else clip)
        saved = deepcopy([model.state_dict(), optimizer.state_dict()])
        train(model, optimizer, range(HALF, STEPS), mine(), None if extra else clip)
        found[name] = copies(model.parameters())
        if name == "own":
            again = wrapped()
            other = make(again.parameters(), **options, **extra)
            again.load_state_dict(saved[0])
            other.load_state_dict(saved[1])
            train(again, other, range(HALF, STEPS), mine())
            found["resumed"] = copies(again.parameters())
    alone = network()
    train(alone, ours(alone.parameters(), **options, **clipped), range(STEPS))
    return {**found, "alone": copies(alone.parameters())}


# ZeroRedundancyOptimizer -------------------------------------------------------------------------------------


def zero(pair: str, view: bool) -> dict[str, Any]:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    ours, torchs, options = PAIRS[pair]
    found: dict[str, Any] = {}
    for name, make in (("own", ours), ("twin", torchs)):
        model = network()
        optimizer = ZeroRedundancyOptimizer(
            model.parameters(), optimizer_class=make, parameters_as_bucket_view=view, **options
        )
        train(model, optimizer, range(HALF))
        optimizer.consolidate_state_dict(to=0)
        weights = copies(model.parameters())
        state = deepcopy(optimizer.state_dict()) if dist.get_rank() == 0 else None
        everyones = [state]
        dist.broadcast_object_list(everyones, src=0)
        train(model, optimizer, range(HALF, STEPS))
        found[name] = copies(model.parameters())
        if name == "own":
            found["resumed alone"] = _continued(weights, lambda p: ours(p, **options), deepcopy(everyones[0]))
            found["resumed"] = _continued(weights, lambda p: ZeroRedundancyOptimizer(p, ours, **options), everyones[0])
    return found


def _continued(weights: list[torch.Tensor], make: Any, state: Any) -> list[torch.Tensor]:
    """Go on from half-way: with half of the state in each process, or with all of it in one."""
    model = network()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(value)
    optimizer = make(model.parameters())
    optimizer.load_state_dict(state)
    train(model, optimizer, range(HALF, STEPS))
    return copies(model.parameters())


# FSDP2 -------------------------------------------------------------------------------------------------------


def sharded() -> torch.nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, mesh = network(), init_device_mesh("cpu", (WORLD,))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    return model


def locals_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return copies(parameter.to_local() for parameter in model.parameters())


def parts_of(model: torch.nn.Module, optimizer: Any) -> list[torch.Tensor]:
    """List what this process has of parameters and state."""
    held = [*model.parameters(), *(value for own in optimizer.state.values() for value in own.values())]
    return [value.to_local() if hasattr(value, "to_local") else value for value in held]


def wholes_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return copies(p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters())


def fsdp(pair: str, clip: float | None, own_clip: bool = False) -> dict[str, Any]:
    """Clip by torch's function, or ours by its own option, which joins norms over processes."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        get_state_dict,
        set_optimizer_state_dict,
        set_state_dict,
    )

    ours, torchs, options = PAIRS[pair]
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)

    def made(make: Any, parameters: Any) -> tuple[Any, float | None]:
        """Return an optimiser, and how it is to be clipped before its steps."""
        extra = {"clip": clip, "nonfinite": "skip"} if own_clip and make is ours else {}
        return make(parameters, **options, **extra), None if extra else clip

    def saved_at_half(make: Any) -> tuple[torch.nn.Module, Any, str]:
        """Train by half, write that to a directory of both processes, and train on."""
        model = sharded()
        optimizer, bound = made(make, model.parameters())
        train(model, optimizer, range(HALF), clip=bound)
        shared: list[Any] = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(shared, src=0)
        weights, state = get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=shared[0])
        return model, optimizer, shared[0]

    def continued(make: Any, folder: str) -> torch.nn.Module:
        model = sharded()
        optimizer, bound = made(make, model.parameters())
        weights, state = get_state_dict(model, optimizer)  # takes a step of its own, with rate and gradients zero
        target = {"model": weights, "optimizer": state}
        dcp.load(target, checkpoint_id=folder)
        set_state_dict(model, optimizer, model_state_dict=target["model"], optim_state_dict=target["optimizer"])
        train(model, optimizer, range(HALF, STEPS), clip=bound)
        return model

    model, optimizer, folder = saved_at_half(ours)
    everything = deepcopy(get_optimizer_state_dict(model, optimizer, options=whole))
    at_half = wholes_of(model)
    binding = optimizer._binding
    train(model, optimizer, range(HALF, STEPS), clip=None if own_clip else clip)
    twin, other, theirs = saved_at_half(torchs)
    train(twin, other, range(HALF, STEPS), clip=clip)
    found = {
        "own": wholes_of(model),
        "twin": wholes_of(twin),
        "torch's by ours": wholes_of(continued(ours, theirs)) if pair != "a rule" and not own_clip else None,
        "ours by torch's": wholes_of(continued(torchs, folder)) if pair != "a rule" and not own_clip else None,
        "same bits": identical(locals_of(model), locals_of(continued(ours, folder))),
        "same binding": optimizer._binding is binding,
        "rows": [len(part) for part in locals_of(model)],
        "state": {type(value).__name__ for value in optimizer.state[next(model.parameters())].values()},
        "backend": sr.explain(optimizer).backend,
    }
    if dist.get_rank() == 0:  # all of the state, in a process that shards nothing
        alone = network()
        with torch.no_grad():
            for parameter, value in zip(alone.parameters(), at_half, strict=True):
                parameter.copy_(value)
        single, bound = made(ours, alone.parameters())
        set_optimizer_state_dict(alone, single, everything, options=whole)
        train(alone, single, range(HALF, STEPS), clip=bound)
        found["alone"] = copies(alone.parameters())
    return found


# DTensors of every kind --------------------------------------------------------------------------------------

MAKERS: dict[str, Any] = {
    "SGD": lambda params: sr.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda params: sr.optim.AdamW(params, lr=0.02, weight_decay=0.1),
    "RMSprop": lambda params: sr.optim.RMSprop(params, lr=0.01),
    "Lion": lambda params: sr.optim.Lion(params, lr=0.01, weight_decay=0.1),
    "board.adam": lambda params: board.adam.optimizer(params, lr=0.01),
}


Kind = tuple[tuple[int, ...], Any, list[Any]]


def every_kind() -> list[Kind]:
    """List shapes, meshes and placements."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard

    line, row, column = (init_device_mesh("cpu", shape) for shape in ((WORLD,), (1, WORLD), (WORLD, 1)))
    return [
        ((7, 3), line, [Shard(0)]),
        ((1, 4), line, [Shard(0)]),  # the second process has nothing
        ((37,), line, [Shard(0)]),
        ((3, 5), line, [Shard(1)]),
        ((6,), line, [Replicate()]),
        ((5, 4), row, [Replicate(), Shard(0)]),
        ((5, 4), row, [Shard(0), Shard(1)]),
        ((5, 4), column, [Shard(1), Replicate()]),
        ((9,), line, [Replicate()]),  # its gradients are sums that are yet to be taken
        ((9, 2), line, [Shard(0)]),  # likewise, and each process needs a part of them
    ]


def shared(values: Iterable[torch.Tensor], kinds: list[Kind]) -> list[Any]:
    from torch.distributed.tensor import distribute_tensor

    return [distribute_tensor(v.detach().clone(), *kind[1:]) for v, kind in zip(values, kinds, strict=True)]


def distributed(name: str) -> dict[str, Any]:
    """Step DTensors and, here too, the whole tensors; go on from a state dict at half; see whether bits agree."""
    from torch.distributed.tensor import DTensor, Partial

    kinds = every_kind()
    line = kinds[0][1]
    late = len(kinds) - 2
    generator = torch.Generator().manual_seed(5)
    whole = [torch.nn.Parameter(torch.randn(shape, generator=generator).double()) for shape, _, _ in kinds]
    own = [torch.nn.Parameter(value) for value in shared(whole, kinds)]
    optimizer, other = MAKERS[name](own), MAKERS[name](whole)
    same: list[bool] = []
    bindings: set[Any] = set()
    for step in range(STEPS):
        if step == HALF:
            bindings = set()
            saved = deepcopy(optimizer.state_dict())
            own = [torch.nn.Parameter(value.detach().clone()) for value in own]
            optimizer = MAKERS[name](own)
            optimizer.load_state_dict(saved)
        gradients = [torch.randn(p.shape, generator=generator).double() for p in whole]
        for place, (p, q, value, new) in enumerate(zip(whole, own, gradients, shared(gradients, kinds), strict=True)):
            absent = step == 1 and place % 3 == 0  # later bindings are used again
            if place >= late:
                new = DTensor.from_local(value / WORLD, line, [Partial()])
            p.grad, q.grad = (None, None) if absent else (value, new)
        for each in (optimizer, other):
            each.param_groups[0]["lr"] = 0.02 / (step + 1)
            each.step()
        bindings.add(optimizer._binding)
        same.append(identical(copies(q.full_tensor() for q in own), copies(whole)))
    states = [(optimizer.state[q], other.state[p]) for p, q in zip(whole, own, strict=True)]
    return {
        "same": same,
        "bindings after half": len(bindings),
        "same state": all(
            torch.equal(value.full_tensor() if value.dim() else value, theirs[key])
            for ours, theirs in states
            for key, value in ours.items()
        ),
        "placed alike": all(
            value.placements == q.placements
            for q in own
            for value in optimizer.state[q].values()
            if isinstance(value, DTensor)
        ),
        "backend": sr.explain(optimizer).backend,
    }


@contextmanager
def messages() -> Iterator[list[int]]:
    """List the lengths of what is sent."""
    sent, send = list[int](), dist.all_gather
    dist.all_gather = lambda *given, **named: (sent.append(len(given[1])), send(*given, **named))[1]
    try:
        yield sent
    finally:
        dist.all_gather = send


def gauges(dtype: torch.dtype) -> dict[str, Any]:
    """Watch DTensors and, here too, the whole tensors, of which some are absent; count what is sent."""
    kinds, generator = every_kind(), torch.Generator().manual_seed(6)
    whole = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape, _, _ in kinds]
    sides = [[torch.nn.Parameter(value) for value in shared(whole, kinds)], whole]
    optimizers = [sr.optim.AdamW(side, lr=3e-3, clip=sr.clip_value(limit=0.5), watch=True) for side in sides]
    with messages() as sent:
        for step in range(3):
            gradients = [torch.randn(p.shape, generator=generator).to(dtype) for p in whole]
            if step == 2 and dtype == torch.bfloat16:
                gradients[0][-1, -1] = torch.nan  # in the second process
            for p, q, value, new in zip(*sides, shared(gradients, kinds), gradients, strict=True):
                p.grad, q.grad = (None, None) if step == 2 and q.shape == (37,) else (value, new)
            for optimizer in optimizers:
                optimizer.step()
        silent = list(sent)
        found, alone = (optimizer.gauges() for optimizer in optimizers)
    return {"found": dict(found), "alone": dict(alone), "each": found.parameters, "alone each": alone.parameters,
            "sent in steps": silent, "sent": len(sent), "lacking": found.lacking}  # fmt: skip


# What whole tensors reduce to ----------------------------------------------------------------------------------


@sr.rule
def centred(theta: Any, g: Any, widest: Any = sr.slot(rank="tensor"), *, lr: Any = 0.02) -> Any:
    """Subtract the mean from the gradient; remember the greatest element of all tensors and of this one."""
    return theta - lr * (g - sr.mean(g)), sr.maximum(widest, sr.max(g) + sr.global_norm(theta))


NORMS: dict[str, Callable[..., Any]] = {
    "LAMB": lambda params, **given: sr.optim.LAMB(params, lr=0.02, clip=sr.clip_norm, watch=True, **given),
    "a rule": lambda params, **given: centred.optimizer(params, clip=0.5, **given),
}


def norms(name: str, backend: str) -> dict[str, Any]:
    """Step DTensors and a tensor that both have, and, here too, the whole tensors."""
    kinds, generator = every_kind(), torch.Generator().manual_seed(7)
    shapes = [*(shape for shape, _, _ in kinds), (3,)]
    whole = [torch.nn.Parameter(torch.randn(shape, generator=generator).double()) for shape in shapes]
    own = [torch.nn.Parameter(value) for value in [*shared(whole[:-1], kinds), whole[-1].detach().clone()]]
    one, other = NORMS[name](own, backend=backend), NORMS[name](whole, backend=backend)
    lots.CACHED, cached = 64, lots.CACHED  # whole tensors take turns, and parts wait for others
    deviations, told = list[float](), list[list[Any]]()
    for step in range(3):
        gradients = [torch.randn(p.shape, generator=generator).double() for p in whole]
        parts = [*shared(gradients[:-1], kinds), gradients[-1].clone()]
        for place, (p, q, value, new) in enumerate(zip(whole, own, gradients, parts, strict=True)):
            p.grad, q.grad = (None, None) if step == 1 and place % 3 == 0 else (value, new)
        for optimizer in (one, other):
            optimizer.step()
        if name == "LAMB":
            found = [optimizer.gauges() for optimizer in (one, other)]
            told.append([[dict(each), *each.parameters.values()] for each in found])
        pairs = list(zip(own, whole, strict=True))
        pairs += [(value, other.state[p][key]) for q, p in pairs for key, value in one.state[q].items()]
        wholes = [q.full_tensor() if hasattr(q, "full_tensor") else q for q, _ in pairs]
        deviations.append(max(float((q - p).detach().abs().max()) for q, (_, p) in zip(wholes, pairs, strict=True)))
    lots.CACHED, known = cached, sr.explain(one)
    return {"deviation": max(deviations), "backend": known.backend, "reason": known.reason, "gauges": told}


def guards() -> dict[str, Any]:
    """Train a model of fully_shard whose gradients are bad in the second process alone, or absent there."""
    found: dict[str, Any] = {}
    for kind in ("skip", "raise"):
        model = sharded()
        optimizer = sr.optim.AdamW(model.named_parameters(), lr=0.1, clip=1.0, nonfinite=kind)
        train(model, optimizer, range(2))
        before = copies(parts_of(model, optimizer))
        first = next(model.parameters())
        if dist.get_rank() == 1:
            first.grad.to_local()[-1, -1] = torch.nan
        try:
            with messages() as sent:
                optimizer.step()
        except StepruleError as error:
            found["told"] = str(error)
        found[f"same after {kind}"] = (len(sent), identical(before, copies(parts_of(model, optimizer))))
    train(model, optimizer, range(2, 3))
    with messages() as sent:
        optimizer.step()
    found["sent"] = len(sent)
    for parameter in model.parameters() if dist.get_rank() == 1 else ():
        parameter.grad = None
    before = copies(locals_of(model))
    with messages() as sent:
        optimizer.step()
    found["where one has nothing"] = (len(sent), not identical(before, locals_of(model)))
    quiet = sr.optim.AdamW(model.parameters(), lr=0.1)
    with messages() as sent:
        quiet.step()
    found["sent without norms"], quiet.clip = len(sent), 0.5
    with messages() as sent:
        quiet.step()
    found["sent when asked to clip later"] = len(sent)
    return found


REFUSED: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "in the backward pass": lambda params: sr.optim.LAMB(params, lr=0.1).step_in_backward(),
    "rows": lambda params: sr.optim.Adafactor(params, lr=0.1),
}


def fsdp_refused(kind: str) -> dict[str, Any]:
    try:
        REFUSED[kind](sharded().parameters())
    except StepruleError as error:
        return {"told": str(error)}
    return {"told": "nothing"}


def fsdp_look_ahead() -> dict[str, Any]:
    """With closures and without, and back to the iterate."""
    ends = []
    for model in (sharded(), network()):
        optimizer = board.nesterov.optimizer(model.parameters(), lr=0.05)
        for step in range(STEPS):

            def closure(model: Any = model, optimizer: Any = optimizer, step: int = step) -> torch.Tensor:
                optimizer.zero_grad()
                inputs, targets = batch(step)
                loss = (model(inputs) - targets[:, :1]).square().mean()
                loss.backward()
                return loss

            if step < HALF:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        with optimizer.at_iterate():
            whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
            ends.append(copies(whole))
    return {"own": ends[0], "alone": ends[1]}


@sr.rule(evaluate_at=lambda theta, g_theta, *, lr: theta + lr * g_theta / sr.norm(g_theta))
def each(theta: Any, g: Any, *, lr: Any = 0.1) -> Any:
    """Take the gradient where each tensor has climbed as far."""
    return theta - lr * g


def climbing(ddp: bool, rule: Any = None) -> dict[str, Any]:
    """SAM, whose way is as long as all gradients of all processes say, beside the same in one process."""
    from torch.nn.parallel import DistributedDataParallel

    ends, points = [], list[list[torch.Tensor]]()
    part = mine() if ddp else slice(None)
    for model in (DistributedDataParallel(network()) if ddp else sharded(), network()):
        optimizer = (rule or sr.sam(board.momentum, rho=0.5)).optimizer(model.parameters(), lr=0.05, backend="eager")
        whole = slice(None) if ends else part
        for step in range(HALF):

            def closure(
                model: Any = model, optimizer: Any = optimizer, step: int = step, whole: slice = whole
            ) -> torch.Tensor:
                optimizer.zero_grad()
                inputs, targets = batch(step)
                loss = (model(inputs[whole]) - targets[whole, :1]).square().mean()
                loss.backward()
                points.append(wholes_of(model))
                return loss

            optimizer.step(closure)
        ends.append(wholes_of(model))
    half = len(points) // 2
    its = {"points": [*chain(*points[:half])], "its": [*chain(*points[half:])]}
    return {"own": ends[0], "alone": ends[1], **its}


def fsdp_in_backward(pair: str) -> dict[str, Any]:
    """Parameters of fully_shard are stepped when their gradients have been reduced, also after some without that."""
    ours, _, options = PAIRS[pair]
    ends, freed = [], []
    for released in (False, True):
        model = sharded()
        optimizer = ours(model.parameters(), **options)
        if released:
            optimizer.step_in_backward()
        for step in range(STEPS):
            for part in (slice(0, 8), slice(8, 16)):
                inputs, targets = batch(step)
                model.set_requires_gradient_sync(part.start > 0)
                (model(inputs[part]) - targets[part, :1]).square().mean().backward()
            freed.append(all(p.grad is None for p in model.parameters()))
            optimizer.step()
            optimizer.zero_grad()
        ends.append(locals_of(model))
    return {"same bits": identical(*ends), "freed": freed}


def ddp_in_backward(before: bool) -> dict[str, Any]:
    """Wrap the model before the optimiser is told, or after it."""
    from torch.nn.parallel import DistributedDataParallel

    model = network()
    optimizer = sr.optim.AdamW(model.parameters(), lr=0.1)
    start, wrapped = copies(model.parameters()), None
    try:
        if before:
            wrapped = DistributedDataParallel(model)
        optimizer.step_in_backward()
        wrapped = wrapped or DistributedDataParallel(model)
        train(wrapped, optimizer, range(1), mine())
    except StepruleError as error:
        return {"told": str(error), "untouched": identical(copies(model.parameters()), start)}
    return {"told": "nothing"}


# Both processes ----------------------------------------------------------------------------------------------

SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"DDP {pair}": lambda pair=pair: ddp(pair, view=False, clip=None) for pair in PAIRS},
    "DDP with bucket views": lambda: ddp("AdamW", view=True, clip=None),
    "DDP with clipping": lambda: ddp("AdamW", view=True, clip=0.05),
    **{f"ZeRO {pair}": lambda pair=pair: zero(pair, view=False) for pair in PAIRS},
    "ZeRO with bucket views": lambda: zero("AdamW", view=True),
    **{f"FSDP2 {pair}": lambda pair=pair: fsdp(pair, clip=None) for pair in PAIRS},
    "FSDP2 with clipping": lambda: fsdp("AdamW", clip=0.05),
    "FSDP2 clipping": lambda: fsdp("AdamW", clip=0.05, own_clip=True),
    **{f"norms of {name}": lambda name=name: norms(name, "numba_cpu") for name in NORMS},
    "norms in torch operations": lambda: norms("LAMB", "eager"),
    "guards": guards,
    **{f"FSDP2 refuses {kind}": lambda kind=kind: fsdp_refused(kind) for kind in REFUSED},
    **{f"DTensors {name}": lambda name=name: distributed(name) for name in MAKERS},
    "FSDP2 with a look-ahead": fsdp_look_ahead,
    "FSDP2 with two gradients": lambda: climbing(ddp=False),
    "DDP with two gradients": lambda: climbing(ddp=True),
    "FSDP2 with a length of each": lambda: climbing(ddp=False, rule=each),
    **{f"FSDP2 {pair} in backward": lambda pair=pair: fsdp_in_backward(pair) for pair in PAIRS},
    "DDP in backward": lambda: ddp_in_backward(True),
    "DDP in backward, later": lambda: ddp_in_backward(False),
    "gauges": lambda: gauges(torch.float64),
    "gauges of 16 bits": lambda: gauges(torch.bfloat16),
}


def process(rank: int, folder: str, names: list[str]) -> None:
    """Run scenarios as one of two processes; what each gives, or the error, is a file."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    for message, category in TORCHS_OWN:
        warnings.filterwarnings("ignore", message=message, category=category)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD, timeout=timedelta(seconds=30)
    )
    for index, name in enumerate(names):
        try:
            found: Any = SCENARIOS[name]()
        except Exception:  # noqa: BLE001
            found = traceback.format_exc()
        torch.save(found, Path(folder) / f"{index}.{rank}")
    dist.destroy_process_group()
