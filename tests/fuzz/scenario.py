"""A random life of an optimiser: what is drawn, what is done to it, and what must hold after each step."""

from __future__ import annotations

import copy
import io
import pickle
import random
from collections.abc import Callable
from typing import Any

import torch
from fenced import LAYOUTS, Fenced
from oracle import NUDGE, Expected, by_interpreter, by_torch, deviates, gradients

import steprule as sr
from steprule.errors import NonFiniteError, StepruleError

DTYPES = [torch.float32] * 5 + [torch.float64] * 4 + [torch.bfloat16, torch.float16]
CLASSES: dict[str, dict[str, list[Any]]] = {
    "SGD": {"lr": [0.1, 0.01], "momentum": [0, 0.9], "dampening": [0, 0.3], "nesterov": [False, True]},
    "Adagrad": {"lr": [0.1], "lr_decay": [0, 0.1], "initial_accumulator_value": [0, 0.5], "eps": [1e-10, 1e-3]},
    "RMSprop": {"alpha": [0.99, 0.9], "momentum": [0, 0.9], "centered": [False, True], "eps": [1e-8, 1e-3]},
    "Adam": {"lr": [0.1, 1e-3], "betas": [(0.9, 0.999), (0.5, 0.9)], "amsgrad": [False, True]},
    "AdamW": {"lr": [0.1, 1e-3], "betas": [(0.9, 0.999), (0, 0.9)], "amsgrad": [False, True]},
    "NAdam": {"momentum_decay": [4e-3, 0.1], "decoupled_weight_decay": [False, True]},
    "RAdam": {"lr": [0.01], "betas": [(0.9, 0.999), (0.5, 0.7)], "decoupled_weight_decay": [False, True]},
    "Adamax": {"lr": [0.1], "betas": [(0.9, 0.999), (0.5, 0.9)], "eps": [1e-8, 1e-3]},
    "Adadelta": {"lr": [1.0, 0.1], "rho": [0.9, 0.5], "eps": [1e-6, 1e-3]},
    "ASGD": {"lr": [0.1], "lambd": [1e-4, 0.1], "t0": [1e6, 3], "alpha": [0.75, 0.5]},
    "Rprop": {"lr": [0.01], "etas": [(0.5, 1.2), (0.3, 1.5)], "step_sizes": [(1e-6, 50), (1e-3, 0.1)]},
}
PAPERS: dict[str, dict[str, list[Any]]] = {
    "Lion": {"lr": [0.01]},
    "AdaBelief": {"lr": [0.01], "eps": [1e-8]},
    "Yogi": {"lr": [0.01]},
    "ADOPT": {"lr": [0.01]},
    "AdEMAMix": {"lr": [0.01], "alpha_warmup": [None, 5], "beta3_warmup": [None, 5]},
    "Adan": {"lr": [0.01]},
    "LAMB": {"lr": [0.01]},
    "LARS": {"lr": [0.1]},
}
RULES = [sr.board.gd, sr.board.sgd, sr.board.momentum, sr.board.adagrad, sr.board.rmsprop, sr.board.adam]
TRANSFORMS: list[Callable[[], Any]] = [
    lambda: sr.clip_global_norm(max_norm=0.5),
    lambda: sr.clip_norm(max_norm=0.3),
    lambda: sr.clip_value(limit=0.4),
    lambda: sr.weight_decay(0.1),
    lambda: sr.board.clip_norm,
    lambda: sr.board.clip_component(limit=0.2),
]
SIGNED = {"Lion", "Yogi", "Rprop"}
"""Rules with a sign in them: a NaN gradient has none for torch, which moves by nothing; ours goes through."""


class Mismatch(AssertionError):
    """What the fuzzer looks for."""


class Scenario:
    """One optimiser with its parameters; everything in it follows from a seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.log: list[str] = []
        self.fences: dict[torch.Tensor, list[Fenced]] = {}
        self.nonfinite = self.dice.choice(["propagate", "propagate", "skip", "raise"])
        self.clip = self.dice.choice([None, None, 0.5])
        self.kind = self.dice.choice(["torch", "torch", "paper", "rule"])
        self.dtypes = self.dice.choices(DTYPES, k=self.dice.choice([1, 1, 2]))
        self._draw_maker()
        self.common = {name: self.dice.choice(values) for name, values in self.options.items()}
        groups = [self._group() for _ in range(self.dice.choice([1, 1, 2, 3]))]
        self.log.append(f"{self.name}, clip={self.clip}, nonfinite={self.nonfinite!r}")
        self.optimizer: sr.Optimizer = self.make(groups)

    # What is drawn -------------------------------------------------------------------------------

    def _draw_maker(self) -> None:
        extra = {"nonfinite": self.nonfinite, "backend": self.dice.choice([None] * 9 + ["eager"])}
        extra["rounding"] = self.dice.choice(["nearest", "stochastic", "compensated"])
        extra |= {"state": self.dice.choice([None, "float32"]), "seed": self.dice.randrange(2**64)}
        if self.kind == "rule":
            chosen = [make() for make in self.dice.sample(TRANSFORMS, self.dice.choice([0, 1, 1, 2]))]
            rule = self.dice.choice(RULES)
            program = sr.chain(*chosen, rule) if chosen else rule
            self.name, self.options = program.name, {}
            self.make = lambda groups: sr.Optimizer(groups, program, **extra)
            return
        table = CLASSES if self.kind == "torch" else PAPERS
        self.name = self.dice.choice(list(table))
        self.options = {**table[self.name], **({} if self.name == "Rprop" else {"weight_decay": [0, 0.1]})}
        if self.kind == "torch":
            self.options["maximize"] = [False, True]
        cls = getattr(sr.optim, self.name)
        self.make = lambda groups: cls(groups, clip=self.clip, **extra)

    def _group(self) -> dict[str, Any]:
        count = self.dice.choice([0, 1, 2, 3, 6])
        group: dict[str, Any] = {"params": [self._parameter() for _ in range(count)]}
        if self.kind == "paper":  # the interpreter runs one formula: all groups have the same flags
            return group | self.common
        group |= {name: self.dice.choice(values) for name, values in self.options.items()}
        if group.get("nesterov"):
            group |= {"momentum": 0.9, "dampening": 0}
        return group

    def _shape(self) -> tuple[int, ...]:
        if self.dice.random() < 0.02:
            return (self.dice.choice([33_000, 270_000]),)
        sizes = [0, 1, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33]
        return tuple(self.dice.choices(sizes, k=self.dice.choice([0, 1, 1, 2, 2, 3, 4]))[:4])

    def _values(self, shape: tuple[int, ...]) -> torch.Tensor:
        scale = self.dice.choice([1.0, 1.0, 1.0, 1e-2, 10.0])
        return torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale

    def fenced(self, owner: torch.Tensor | None, values: torch.Tensor, layout: str | None = None) -> torch.Tensor:
        fence = Fenced(values, layout or self.dice.choice(("contiguous",) * 5 + LAYOUTS), self.dice)
        if owner is not None:
            self.fences.setdefault(owner, []).append(fence)
        else:
            self._newest = fence
        return fence.tensor

    def _parameter(self) -> torch.nn.Parameter:
        dtype = self.dice.choice(self.dtypes)
        parameter = torch.nn.Parameter(self.fenced(None, self._values(self._shape()).to(dtype)))
        self.fences[parameter] = [self._newest]
        return parameter

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def give_gradients(self) -> None:
        """Give most parameters a gradient: fresh or in place, of any layout, expanded, negated, not finite."""
        bad = self.dice.random() < 0.06
        for parameter in self.parameters:
            values = self._values(tuple(parameter.shape)).to(parameter.dtype)
            if bad and values.numel() and self.dice.random() < 0.3:
                values.view(-1)[self.dice.randrange(values.numel())] = self.dice.choice([torch.nan, torch.inf])
            chance = self.dice.random()
            if chance < 0.08 or not parameter.requires_grad:
                parameter.grad = None
            elif chance < 0.5 and parameter.grad is not None and parameter.grad.shape == parameter.shape:
                if parameter.grad.is_neg() or (0 in parameter.grad.stride() and parameter.grad.numel()):
                    parameter.grad = values
                else:
                    parameter.grad.copy_(values)
            elif chance < 0.55 and values.numel():
                parameter.grad = None
                parameter.grad = self.fenced(parameter, values.view(-1)[:1].clone()).reshape(()).expand(values.shape)
            else:
                parameter.grad = None
                made = self.fenced(parameter, values)
                parameter.grad = torch._neg_view(made) if chance > 0.97 else made

    # What is done --------------------------------------------------------------------------------

    def act(self) -> None:
        """Do one thing that happens to optimisers."""
        action = self.dice.choice(ACTIONS)
        if action(self) is not NotImplemented:
            self.log.append(action.__name__.strip("_"))

    def _add_group(self) -> Any:
        self.optimizer.add_param_group(self._group())

    def _freeze(self) -> Any:
        for parameter in self.parameters:
            parameter.requires_grad_(self.dice.random() < 0.8)

    def _move(self) -> Any:
        """Give a parameter other memory in another layout; its gradient stays."""
        for parameter in self.dice.sample(self.parameters, min(2, len(self.parameters))):
            parameter.data = self.fenced(parameter, parameter.detach().clone())

    def _move_state(self) -> Any:
        """Put state between fences; also in a layout that is not the parameter's."""
        for parameter in self.parameters:
            state = self.optimizer.state.get(parameter, {})
            for key, value in state.items():
                if value.shape == parameter.shape and value.dim():
                    state[key] = self.fenced(parameter, value.clone())

    def _replace(self) -> Any:
        """Put another Parameter in a group's place of an old one."""
        group = self.dice.choice(self.optimizer.param_groups)
        if not group["params"]:
            return NotImplemented
        place = self.dice.randrange(len(group["params"]))
        self.optimizer.state.pop(group["params"][place], None)
        group["params"][place] = self._parameter()
        return None

    def _resize(self) -> Any:
        """Give a parameter another size, and forget what belonged to the old one."""
        parameter = self.dice.choice(self.parameters or [None])
        if parameter is None:
            return NotImplemented
        parameter.grad = None
        parameter.data = self.fenced(parameter, self._values(self._shape()).to(parameter.dtype))
        self.optimizer.state.pop(parameter, None)
        return None

    def _schedule(self) -> Any:
        for group in self.optimizer.param_groups:
            group["lr"] = self.dice.choice([0.1, 0.01, torch.tensor(0.125), 0.0])

    def _flag(self) -> Any:
        for group in self.optimizer.param_groups if self.kind == "torch" else []:
            if "weight_decay" in group:
                group["weight_decay"] = self.dice.choice([0, 0.1])
            group["maximize"] = self.dice.random() < 0.5

    def _threads(self) -> Any:
        torch.set_num_threads(self.dice.choice([1, 2]))

    def _reload(self) -> Any:
        """Save, and load into a new optimiser: directly, through a file, or through torch's own class."""
        saved = self.optimizer.state_dict()
        groups = [{**group, "params": group["params"]} for group in self.optimizer.param_groups]
        if self.dice.random() < 0.5:
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        elif self.kind == "torch" and len({p.dtype for p in self.parameters} - {torch.float32, torch.float64}) == 0:
            peer = getattr(torch.optim, self.name)([{"params": group["params"]} for group in groups])
            peer.load_state_dict(saved)
            saved = peer.state_dict()
        self.optimizer = self.make(groups)
        self.optimizer.load_state_dict(saved)

    def _copy(self) -> Any:
        """Go on with a deep or pickled copy of everything; memory is new, fences included."""
        both = (self.optimizer, self.parameters)
        self.optimizer, parameters = (
            copy.deepcopy(both) if self.dice.random() < 0.5 else pickle.loads(pickle.dumps(both))  # noqa: S301
        )
        self.fences = {}
        for parameter in parameters:
            parameter.data = self.fenced(parameter, parameter.detach().clone())
            parameter.grad = None

    # What must be refused ------------------------------------------------------------------------

    def _refused(self) -> Any:
        """Break something; the step must be refused with nothing written; then mend it."""
        usable = [p for p in self.parameters if p.grad is not None and p.numel() > 1 and p.dim()]
        if not usable:
            return NotImplemented
        parameter = self.dice.choice(usable)
        kept, gradient = parameter.data, parameter.grad
        way = self.dice.choice(["expanded", "other size", "shared", "freed"])
        if way == "expanded":
            parameter.data = kept.flatten()[:1].clone().expand(kept.shape)
        elif way == "other size":
            parameter.data = kept.new_zeros(kept.numel() + 3)
        elif way == "freed":
            parameter.data = torch.empty_like(kept)
            parameter.data.untyped_storage().resize_(0)
        else:
            other = next((p for p in usable if p is not parameter and p.dtype == parameter.dtype), None)
            if other is None or other.numel() < parameter.numel():
                return NotImplemented
            parameter.data = other.data.as_strided((parameter.numel(),), (1,)).view(parameter.shape)
        before = self._bits({parameter})
        try:
            self.optimizer.step()
        except (StepruleError, RuntimeError):
            pass
        else:
            raise Mismatch(f"a parameter that is {way} was not refused")
        if self._bits({parameter}) != before:
            raise Mismatch(f"something was written beside a parameter that is {way}")
        parameter.data, parameter.grad = kept, gradient
        return None

    def _bits(self, without: set[torch.Tensor]) -> list[bytes]:
        found: list[bytes] = []
        for parameter in self.parameters:
            state = self.optimizer.state.get(parameter, {})
            tensors = [*([] if parameter in without else [parameter]), *state.values()]
            found += [_raw(tensor) for tensor in tensors]
        return found

    # A step --------------------------------------------------------------------------------------

    def step(self) -> None:
        """Take a step, and hold everything against the oracle."""
        self.give_gradients()
        bad = any(p.grad is not None and not bool(torch.isfinite(p.grad).all()) for p in self.parameters)
        with_gradient = [p for p in self.parameters if p.grad is not None]
        gradients = {p: _raw(p.grad) for p in with_gradient}
        resting = {p: _raw(p) for p in self.parameters if p.grad is None}
        if bad and self.nonfinite != "propagate":
            self._step_left_out()
        else:
            expected = self._expected(0.0)
            # A sign may turn either way.
            nudged = [self._expected(way * self._nudge()) for way in ((1, -1) if self.name in SIGNED else (1,))]
            before = {p: {"": p.detach().double().numpy().copy()} for p in self.parameters}
            for parameter, keys in before.items():
                keys.update((k, v.double().numpy().copy()) for k, v in self.optimizer.state.get(parameter, {}).items())
            self.optimizer.step()
            self._compare(expected, nudged, before, finite=not bad)
        if any(_raw(p.grad) != gradients[p] for p in with_gradient):
            raise Mismatch("a gradient was written")
        if any(_raw(p) != bits for p, bits in resting.items()):
            raise Mismatch("a parameter without gradient was written")
        if any(fence.broken() for fences in self.fences.values() for fence in fences):
            raise Mismatch("a byte beside a tensor was written")

    def _step_left_out(self) -> None:
        before = self._bits(set())
        try:
            self.optimizer.step()
        except NonFiniteError:
            if self.nonfinite != "raise":
                raise
        if self._bits(set()) != before:
            raise Mismatch("a step that was left out wrote something")

    def _nudge(self) -> float:
        """Return what rounding does to a gradient: that of the coarsest dtype, since norms are of all tensors."""
        kinds = [NUDGE[parameter.dtype] for parameter in self.parameters if parameter.grad is not None]
        return max(kinds, default=0.0)

    def _expected(self, nudge: float) -> Expected:
        given = gradients(self.optimizer, nudge)
        if self.kind == "torch":
            return by_torch(self.optimizer, given, self.clip)
        return by_interpreter(self.optimizer, given)

    def _counts(self, parameter: torch.Tensor) -> bool:
        """Whether the rule itself counts steps."""
        group = next(own for own in self.optimizer.param_groups if any(p is parameter for p in own["params"]))
        return self.optimizer._choose(group).formula.graph.uses_step

    def _compare(
        self, expected: Expected, nudged: list[Expected], before: dict[torch.Tensor, dict[str, Any]], *, finite: bool
    ) -> None:
        for number, (parameter, keys) in enumerate(expected):
            state = self.optimizer.state.get(parameter, {})
            if parameter.grad is None:
                continue
            slots = [own for own in state.values() if own.shape == parameter.shape and own.dim()]
            dtypes = [parameter.dtype, *(own.dtype for own in slots if own.is_floating_point())]
            if self.kind == "rule":  # the norm of what one dtype has rounded reaches all others
                dtypes += [other.dtype for other in self.parameters if other.grad is not None]
            dtype = max(dtypes, key=_eps)
            for key, want in keys.items():
                if key == "remainder" or (key == "step" and not self._counts(parameter)):
                    continue  # of the parameter, with which it is compared; of the draws
                if not key and not finite and self.name in SIGNED:
                    continue  # a NaN gradient is no sign for torch's Rprop; ours lets it through, and says so
                have = parameter if not key else state.get(key)
                if have is None:
                    raise Mismatch(f"parameter {number} has no state {key!r}")
                base = before[parameter].get(key, 0.0)
                coarse = dtype if have.dim() else max(dtype, torch.float32, key=_eps)
                said = deviates(have, want, [other[number][1][key] for other in nudged], base, coarse)
                if said:
                    what = f"state {key!r} of parameter" if key else "parameter"
                    where = f"{tuple(parameter.shape)}, {parameter.dtype}, strides {parameter.stride()}"
                    raise Mismatch(f"{what} {number} ({where}) {said}")


def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def _raw(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().clone(memory_format=torch.contiguous_format).resolve_neg()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


ACTIONS: list[Callable[[Scenario], Any]] = [
    Scenario._add_group, Scenario._freeze, Scenario._move, Scenario._move_state, Scenario._replace, Scenario._resize,
    Scenario._schedule, Scenario._flag, Scenario._threads, Scenario._reload, Scenario._copy, Scenario._refused,
]  # fmt: skip


def live(seed: int, steps: int = 10) -> list[str]:
    """Run one scenario; raise what it finds, with what was done so far as a note."""
    threads = torch.get_num_threads()
    scenario: Scenario | None = None
    try:
        scenario = Scenario(seed)
        for number in range(steps):
            scenario.log.append(f"step {number + 1}")
            scenario.step()
            if scenario.dice.random() < 0.5:
                scenario.act()
    except Exception as error:
        error.add_note(f"seed {seed}: " + "; ".join(scenario.log if scenario else []))
        raise
    finally:
        torch.set_num_threads(threads)
    return scenario.log
