"""Optimizer: any rule behind torch's own interface."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch

from ..errors import HyperparameterError, StateError
from ..graph.graph import LOSS
from ..rule import Formula
from .binding import Binding, bind
from .compiled import Compiled, Kernels, Reader
from .documented import documented
from .gauges import Gauging, merged
from .groups import RULE, check_rule_keys, routed
from .in_backward import Releasing
from .options import NAMES, Option, Options, State
from .roles import Declared, Route, grouped
from .rules import Rules
from .settings import plain, told
from .shards import distributed
from .state import check_saved, ensure, held, in_float32, lay_out, packed
from .surroundings import GLOBAL_POST, GLOBAL_PRE, observed, profiling, uncompiled
from .tensors import Entry, check_capturable, label, oddity, stand_in

Running = tuple[torch.Tensor, Compiled]
"""A parameter, and the compiled plan that updates it."""


@documented
class Optimizer(Releasing, Gauging):
    """Run a rule on a model's parameters; a real `torch.optim.Optimizer`.

    >>> import torch, steprule as sr
    >>> model = torch.nn.Linear(3, 1)
    >>> opt = sr.Optimizer(model.parameters(), sr.board.adam, lr=1e-2, clip=1.0)
    >>> model(torch.ones(2, 3)).sum().backward()
    >>> opt.step()
    >>> sorted(opt.param_groups[0])
    ['beta1', 'beta2', 'eps', 'lr', 'max_norm', 'params']

    Groups may differ in hyperparameters; `explain` shows what runs on each. Checkpoints, hooks, schedulers and closures
    are torch's. A group may have a rule of its own:

    >>> groups = [{"params": [model.weight], "rule": sr.board.momentum(lr=0.1)}, {"params": [model.bias]}]
    >>> opt = sr.Optimizer(groups, sr.board.adam, lr=1e-2, clip=1.0)
    >>> [group["lr"] for group in opt.param_groups]
    [0.1, 0.01]

    Clipping, guards, gauges, counts, hooks and checkpoints are of all groups together. A keyword holds for every group
    whose rule has such a hyperparameter, unless the group says otherwise, or its rule was configured with one.
    """

    def __init__(
        self,
        params: Iterable[Any] | torch.nn.Module,
        rule: Formula | Mapping[str, Formula],
        *,
        roles: Mapping[str, Declared] | None = None,
        clip: Formula | float | None = None,
        nonfinite: str = "propagate",
        backend: str | None = None,
        compensated: bool = False,
        rounding: str = "nearest",
        state: State = None,
        seed: int = 0,
        watch: bool | Sequence[str] | None = None,
        capturable: bool = False,
        **hyper: Any,
    ) -> None:
        groups, self._rule, self._routes = grouped(params, rule, roles)
        self._given = hyper
        options = Options(clip, nonfinite, backend, compensated, rounding, state, seed, watch, capturable)
        self._make(groups, options, hyper)
        self._rules.check(hyper)

    def _make(self, params: Iterable[Any], options: Options, given: dict[str, Any]) -> None:
        """Make an optimiser, however it chooses its rules: their constructors take different arguments."""
        self._start(options)
        self._install(options)
        super().__init__(params, self._defaults(given))

    def _defaults(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return what groups without a rule of their own have: hyperparameters, as given or declared."""
        return self._rules.own.defaults(given, own=True)

    def _defaults_of(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a group has that says nothing else: of its own rule, if it has one."""
        return self.defaults if group.get(RULE) is None else self._rules.of(group).defaults(self._given, own=False)

    # What runs -----------------------------------------------------------------------------------

    clip, nonfinite, backend, compensated = Option(), Option(), Option(), Option()
    rounding, state_dtype, seed, watch, capturable = Option(), Option("state"), Option(), Option(), Option()

    @property
    def program(self) -> Formula:
        """The formula that runs on groups without a rule of their own: the rule, with the transforms before it."""
        return self._rules.own.formula

    @property
    def routes(self) -> dict[str, Route]:
        """The role and the rule of each parameter, by name, with what shows it; nothing if rules are not by role."""
        return dict(self._routes)

    def _start(self, options: Options) -> None:
        """Make the attributes that are not derived from others."""
        self._options = options
        self._binding: Binding | None = None
        self._loss: Any = None
        self._skipped, self._skipped_there = 0, list[torch.Tensor]()
        self._at_home()

    def _install(self, options: Options) -> None:
        """Make the attributes that follow from the rules and the options; they are neither copied nor saved."""
        self._rules = Rules(self._rule, options, self._reader)
        self._options, self._points = options, self._rules.points

    def _configure(self, options: Options) -> None:
        """Take other options from the next step on, or change nothing if they are refused."""
        with self._busy:
            groups = [self.defaults, *self.param_groups]
            before, old = dict(vars(self)), list(map(self._of_clip, groups))
            try:
                self._install(options)
                new = old if options.clip is before["_options"].clip else list(map(self._of_clip, groups))
                check_capturable(self.param_groups, options.backend, asked=options.capturable)
                for index, group in enumerate(self.param_groups):
                    self._check_group({**group, **new[index + 1]}, f"group {index}")
                    self._choose(group).check(group, index)
                if self._in_backward is not None:
                    self._in_backward.renew()
            except BaseException:
                vars(self).update(before)
                raise
            for group, former, later in zip(groups, old, new, strict=True) if new is not old else ():
                for name in former:
                    group.pop(name, None)
                group.update(later)
            self._look()
            self._binding = None

    def _of_clip(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the hyperparameters that stand in a group because of the option `clip`."""
        return self._rules.of(group).of_clip()

    def _reader(self, name: str) -> Reader:
        """Return how a hyperparameter is found in a group, by its name; the loss is what this step is told."""
        if name == LOSS.name:
            return lambda group: told(self._loss, self._choose(group).plan.graph)
        return lambda group: group.get(name)

    def _choose(self, group: dict[str, Any]) -> Kernels:
        """Return the kernels for a group."""
        return self._rules.kernels(group)

    def _look(self, groups: Iterable[Mapping[str, Any]] = ()) -> None:
        """Note whether any group wants its gradient elsewhere, of those that have chosen kernels and of these."""
        for group in groups:
            self._rules.of(group)
        self._points = self._rules.points

    def _mood(self) -> object:
        """Return the facts besides the groups that decide their updates: none here."""
        return None

    def __repr__(self) -> str:
        head, _, groups = super().__repr__().partition("\n")
        told = {"rule": self._formulas(), **{name: repr(getattr(self._options, name)) for name in NAMES}}
        return "\n".join([head, *(f"    {name}: {value}" for name, value in told.items()), groups])

    def _formulas(self) -> str:
        """Name the formulas that run, as far as the groups let one tell."""
        try:
            return ", ".join(dict.fromkeys(self._choose(group).formula.name for group in self.param_groups))
        except Exception:  # noqa: BLE001 - repr works with anything in a group
            return "unknown"

    _routes: Mapping[str, Route] = {}
    _hidden: ClassVar[Mapping[str, float]] = {}
    """Slots that torch does not keep, with their values for a parameter that has been stepped."""
    _kept: ClassVar[tuple[str, ...]] = ("_rule", "_given", "_routes")
    """The attributes that copies and pickles keep besides torch's own and the options."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: vars(self)[name] for name in self._kept}, **self._options.kept()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        options = Options.taken(state := dict(state))
        super().__setstate__(state)
        if "program" in vars(self):  # written before clip could be set: it is in the program
            self._rule = vars(self).pop("program")
        vars(self).update({"_given": {}, "_routes": {}} | vars(self))  # written before groups could have rules
        if "_busy" not in vars(self):
            self._start(options)
            self._install(self._options)
            self._look(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, after the constructor's checks.

        Raises `HyperparameterError` for a value out of its range, and for a key that looks like a hyperparameter and is
        none (`beat1`, or `betas` where there are `beta1` and `beta2`). Keys of your own are kept. With `"rule"` another
        rule steps the group, and decides what it may ask for.
        """
        with self._busy:
            if self._inside:
                raise self._misplaced("add_param_group()")
            index, others = len(self.param_groups), set[str]()
            if isinstance(param_group, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
                group = {**self._defaults_of(param_group), **param_group}
                self._check_keys(group, f"group {index}")
                self._check_group(group, f"group {index}")
                others = self.defaults.keys() - group.keys()
                param_group.update(group)
            super().add_param_group(param_group)
            for name in others:  # torch has filled them in
                del self.param_groups[-1][name]
            try:
                check_capturable(self.param_groups[-1:], self.backend, asked=self.capturable)
                self._choose(self.param_groups[-1]).check(self.param_groups[-1], index)
            except BaseException:
                self.param_groups.pop()
                raise
            self._look()
            self._binding = None

    def _check_keys(self, group: dict[str, Any], which: str) -> None:
        """Check a new group as the constructor does."""
        known = self._rules.of(group).formula.hypers
        check_rule_keys(group, which, self._title(group), known, capturable=self.capturable)

    def _check_group(self, group: dict[str, Any], which: str) -> None:
        """Refuse a group with a hyperparameter that is missing or out of its range, or a decay that nothing applies."""
        title = self._title(group)
        if "weight_decay" not in self._defaults_of(group) and plain(group.get("weight_decay", 0)):
            raise HyperparameterError(
                f"{title} has no weight decay, but {which} asks for {group['weight_decay']}",
                fix="put sr.weight_decay(...) in front of the rule with sr.chain, or leave it 0",
            )
        self._check_numbers(self._choose(group), group, which)

    def _check_numbers(self, kernels: Kernels, group: dict[str, Any], which: str) -> None:
        for hyper, read in zip(kernels.plan.graph.hypers, kernels.readers, strict=True):
            if not hyper.told:
                hyper.check(plain(read(group)), f"{self._title(group)}, {which}")

    def _title(self, group: Mapping[str, Any]) -> str:
        """Name what steps a group, for errors."""
        return f"`{self._rules.of(group).formula.name}`"

    def _rule_in(self, group: Mapping[str, Any]) -> Formula:
        """Return the rule of a group, by whose name checkpoints know it."""
        return self._rules.of(group).rule

    @uncompiled
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient; return the closure's value, if one is given.

        A rule that uses the `loss` takes the closure's value, or the `loss` that is given: a number, not scaled, and
        the same in all processes. A rule with a look-ahead evaluates the closure there. Without a closure the gradients
        are taken to be those at the stored parameters, which then are that point: see `at_iterate`. An implicit rule
        evaluates it several times; if that leads nowhere, `ConvergenceError`, and all is as it was.
        """
        hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks or GLOBAL_PRE or GLOBAL_POST
        if hooks or profiling():
            return observed(self, type(self)._step, closure, loss)  # noqa: SLF001
        return self._step(closure, loss=loss)

    # torch wraps `step` in a profiler's record and the calls of hooks, about 8 µs; here only when there are any.
    step.hooked = True  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]

    def _step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:
        if self._in_backward is not None:
            return self._in_backward.step(closure)
        with self._busy:
            if self._inside:
                raise self._misplaced("step()")
            if closure is None:
                if self._points is not None and (refused := self._points.refused(self)):
                    raise refused
                self._update(self._choose, loss)
                return None
            if self._points is not None:
                with self._away("a closure at the look-ahead point"):
                    return self._points.step(self, closure, self._update_exactly)
            with torch.enable_grad():
                loss = closure()
            self._update(self._choose, loss)
            return loss

    def _update_exactly(self, loss: Any) -> None:
        """Update with gradients of the look-ahead point; the closure may have set other options."""
        assert self._points is not None
        self._update(self._points.choose, loss)

    def _update(self, choose: Callable[[dict[str, Any]], Kernels], loss: Any) -> None:
        binding, self._binding = self._binding, None  # an interrupted binding is not used again
        self._loss = loss
        if binding is None or not binding.still_holds(choose, self._mood(), self.param_groups, self.state):
            binding = self._bound(choose, binding, self.param_groups, self.state)
        stepped = binding.step(self.param_groups, getattr(self, "found_inf", None))
        self._binding, self._loss = binding, None
        if not stepped:
            self._skipped += 1
        if self._options.nonfinite == "raise" and (stepped is False or binding.stopped()):
            raise binding.blame()

    def _bound(
        self,
        choose: Callable[[dict[str, Any]], Kernels],
        former: Binding | None,
        groups: list[dict[str, Any]],
        states: Any,
        alone: int | None = None,
    ) -> Binding:
        """Bind anew, because the former binding does not hold."""
        for index, group in enumerate(groups):
            choose(group).check(group, index)
            if choose(group).plan.graph.uses_loss:
                told(self._loss, choose(group).plan.graph)
        with torch.inference_mode(mode=False), torch.no_grad():  # state outlives the caller's mode
            for index, group in enumerate(groups):
                for place, own in enumerate(group["params"]):
                    if state := held(states, group, index, place):
                        state.update(self._complete(choose(group).of(own), state))  # others may have put it there
            binding = bind(self, choose, groups, states, former, alone)
            self._look()
            self._skipped_there = merged([*self._skipped_there, *binding.skips()], graphs=self.capturable)
        return binding

    @torch.no_grad()
    def _running(self) -> Iterator[tuple[Kernels, list[Running]]]:
        """Give, group by group, the very objects that the next step would run on each parameter."""
        choose = self._choose if self._binding is None else self._binding.choose
        for index, group in enumerate(self.param_groups):
            chosen, found = choose(group), list[Running]()
            for place, parameter in enumerate(group["params"]):
                if (odd := oddity(parameter)) is not None:
                    found.append((parameter, chosen.refused(parameter, odd[0])))
                elif parameter.requires_grad or parameter.grad is not None:
                    kernels, known = chosen.of(parameter), held(self.state, group, index, place)
                    state = dict(self._complete(kernels, known)) if known else {}
                    who = label(group, index, place)
                    if not distributed(parameter):  # nothing is sent for an explanation
                        lay_out(kernels, parameter, state, who)
                    ensure(kernels, group, stand_in(parameter), state, parameter.shape)
                    entry = Entry(who, index, parameter, parameter)
                    found.append((parameter, kernels.for_entry(entry, state, self.backend)))
            yield chosen, found

    # Checkpoints ---------------------------------------------------------------------------------

    def state_dict(self, *, format: str | None = None) -> dict[str, Any]:  # type: ignore[override]  # noqa: A002
        """Return the state, in the formats that it has; with `format="float32"` as torch's optimisers have it.

        >>> import torch, steprule as sr
        >>> opt = sr.optim.AdamW(torch.nn.Linear(2, 1).parameters(), state="8bit")
        >>> torch.optim.AdamW(torch.nn.Linear(2, 1).parameters()).load_state_dict(opt.state_dict(format="float32"))

        The latter leaves out what torch does not know: exponents of 8 bits, remainders, counts that only draws need.
        """
        if format not in (None, "float32"):
            raise StateError(f"there is no format {format!r} of a state_dict", fix='use None or "float32"')
        own = self._hidden or routed(self.param_groups)
        saved = packed(self, self._rule_in, self._hidden.keys()) if own else super().state_dict()
        return saved if format is None else in_float32(self._choose, self.param_groups, saved)

    def _complete(self, kernels: Kernels, state: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG002
        """Complete one parameter's saved state with slots that its writer does not keep: none here."""
        return state

    @uncompiled
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; all of it is checked first, and nothing is shared with it.

        Hooks run in torch's order: pre hooks, each of which may return another document, then the check, then post
        hooks. State keeps the dtype it was saved with, unless `state` asks for another. Raises `StateError`, naming the
        parameter and the key, and leaves the optimiser as it was.
        """
        if self._inside:
            raise self._misplaced("load_state_dict()")
        saved: Any = state_dict.copy() if isinstance(state_dict, Mapping) else state_dict  # pyright: ignore[reportUnnecessaryIsInstance]
        for hook in list(self._optimizer_load_state_dict_pre_hooks.values()):
            answer = hook(self, saved)
            saved = saved if answer is None else answer
        with self._busy:
            groups, state = check_saved(self._choose, self._complete, self._rule_in, self.param_groups, saved)
            for index, group in enumerate(groups):
                for name, value in self._defaults_of(group).items():
                    group.setdefault(name, value)
                self._check_group(group, f"saved group {index}")
            self.__setstate__({"state": defaultdict(dict, state), "param_groups": groups})
            self._binding = None
        for hook in list(self._optimizer_load_state_dict_post_hooks.values()):
            hook(self)
