"""The documentation of an optimiser's class: each argument is described once, and an error names the class.

`documented` writes the arguments under a class's docstring, from its signature and the sentences here, gives
`inspect.signature` every argument by its name, and answers a call that does not fit before anything is made.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ..errors import ArgumentError
from .groups import meant
from .options import Options

C = TypeVar("C", bound=type)
_BY_NAME, _OPEN = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD

DECAY = "parameters shrink by lr · weight_decay a step, apart from the gradient; at least 0"
"""The effect of decoupled weight decay."""

MEANINGS = {
    "params": "tensors, groups (dicts) or named parameters, as any torch optimiser takes them; by role, a model",
    "rule": 'a rule or a chain, as steprule.board.adam; a group may have another under the key "rule". Or rules by '
            'role, as {"hidden": a_rule, "rest": another}, for a model',
    "roles": "roles of parameters of the model that its modules do not show, or show otherwise: names of parameters or "
             'modules, or patterns, as {"lm_head": "head", "*.A_log": "vector"}; with the matrices in a tensor, as '
             '{"*.qkv_proj": ("qkv", (64, 16, 16))}, which a group says by "splits"',
    "hyper": "hyperparameters of the rules and of the clipping, the defaults of every group that has such ones",
    "lr": "the learning rate, how far a step goes; at least 0",
    "betas": "how much is kept a step of the average gradient, and of its square; each from 0, below 1",
    "eps": "keeps denominators from 0; at least 0",
    "weight_decay": "this times the parameter is added to its gradient, an L2 penalty; at least 0",
    "decoupled_weight_decay": "True takes weight decay out of the gradient: parameters shrink by lr · weight_decay",
    "cautious_decay": "True leaves weight decay out where it goes against the update (Chen et al., 2025)",
    "amsgrad": "True divides by the greatest second moment so far (Reddi et al., 2018)",
    "momentum": "the share of the last step's direction that is kept; at least 0",
    "maximize": "True goes up the gradient",
    "foreach": "accepted and without effect: one kernel updates all tensors, whatever it is",
    "fused": "True lets GradScaler hand over its scale: the kernel unscales gradients and leaves out a step that "
             "overflowed; it changes nothing else, since a step is one kernel anyhow",
    "capturable": "True lets a CUDA graph hold a step, for parameters on a GPU with Triton; hyperparameters that are "
                  "tensors there are read at every replay, and their range is not checked",
    "differentiable": "True is refused: no gradient flows through a compiled step",
}  # fmt: skip
"""The meanings of arguments that several classes take; a class has sentences of its own in `_meanings`."""

OPTIONS = {
    "clip": "a number, the greatest global norm of the gradients; or a transform, as steprule.clip_value(limit=0.5); "
            "done inside the kernel, before weight decay. None clips nothing",
    "nonfinite": 'what NaN or infinity in a gradient does: "propagate" as torch; "skip" leaves the whole step out, and '
                 'no parameter, state or count changes; "raise" does that and names the parameter',
    "backend": '"numba_cpu", "triton_gpu" or "eager" forces one; None chooses, and steprule.explain says which and why',
    "compensated": 'True means rounding="compensated"',
    "rounding": 'how 16 bits hold a result: "nearest", as in torch, drops steps below half of the last bit; '
                '"stochastic" takes either neighbour, the nearer one more often, for parameters and state, so that '
                'small steps add up on average; "compensated" keeps 16 more bits of bfloat16 and float16 parameters in '
                'an int16 slot `remainder`: together they are float32; "compensated8" keeps 8 more, in an int8 slot',
    "state": 'how slots as large as their parameter are kept: "float32" beside narrower parameters, too; "bfloat16", '
             'rounded stochastically; "8bit", minifloats in units of a group of 32, for parameters of two dimensions '
             'and 4,096 elements or more, float32 for others; "8bit-all", for all; a dict names some, as '
             '{"exp_avg": "8bit"}. State that is '
             "loaded is made so, too. None makes them as torch does, in the parameter's type, and keeps what is loaded",
    "seed": 'for stochastic rounding and what a rule draws, a whole number from 0. A draw is a function of it, of the '
            "step, of the parameter's place in the optimiser and the element's in the parameter, whatever threads and "
            "shards; give optimisers that work side by side different ones",
    "watch": "True watches every gauge, a list those of these names, and False none: what a step did, reduced on its "
             "way through memory; gauges() reads them. None watches those that the rule writes itself",
}  # fmt: skip
"""Our classes' options, beside torch's arguments."""

_READ = (
    "Hyperparameters may differ between groups, may be tensors of one element, are read at every step, and never "
    "compile anything. clip, nonfinite, watch and backend can be set later, and hold from the next step on."
)
_RAISES = (
    "Raises `ArgumentError`, a TypeError, for an argument that it does not take, `HyperparameterError` for a value out "
    "of its range, `ParameterError` for a tensor that cannot be updated, and `BackendError` where a forced backend "
    "cannot run; a step with nonfinite=\"raise\" raises `NonFiniteError`. Each before anything is written."
)  # fmt: skip


def _signature(init: Callable[..., Any]) -> inspect.Signature:
    """Return a constructor's signature, with our options by name where it takes them as a whole."""
    found = inspect.signature(init, eval_str=True)
    *named, last = found.parameters.values()
    if last.kind is not _OPEN or last.name != "own":
        return found
    hints = inspect.get_annotations(Options, eval_str=True)
    ours = [inspect.Parameter(item.name, _BY_NAME, default=item.default, annotation=hints[item.name])
            for item in fields(Options) if item.name in OPTIONS]  # fmt: skip
    return found.replace(parameters=[*named, *ours])


def _listed(title: str, names: Iterable[str], signature: inspect.Signature, told: Mapping[str, str]) -> list[str]:
    lines = [title]
    for name in names:
        part = signature.parameters[name]
        value = "" if part.default is part.empty else f"={part.default!r}"
        stars = "**" * (part.kind is _OPEN)
        lines += textwrap.wrap(
            f"{stars}{name}{value}: {told[name]}.", 100, initial_indent="    ", subsequent_indent=" " * 8
        )
    return [*lines, ""]


def _docstring(cls: Any, signature: inspect.Signature) -> str:
    """Return a class's own words, then its arguments, our options, and its errors."""
    own = vars(cls)
    decay = {"weight_decay": DECAY} if getattr(cls, "_decoupled", False) else {}
    meanings = {**MEANINGS, **decay, **own.get("_meanings", {})}
    arguments = [name for name in list(signature.parameters)[1:] if name not in OPTIONS]
    return "\n".join([
        inspect.cleandoc(cls.__doc__), "", *_listed("Arguments:", arguments, signature, meanings),
        *_listed("Options that torch does not have:", OPTIONS, signature, OPTIONS),
        *textwrap.wrap(_READ, 104), "", *textwrap.wrap(_RAISES, 104),
    ])  # fmt: skip


def _misfit(name: str, signature: inspect.Signature, given: Mapping[str, Any], error: TypeError) -> ArgumentError:
    """Return the error for a call that does not fit, with the argument that was likely meant."""
    own = [part.replace(annotation=part.empty) for part in list(signature.parameters.values())[1:]]
    names = [part.name for part in own]
    unknown = [key for key in given if key not in names]
    near = meant(unknown[0], names) if unknown else None
    fix = f"did you mean {near}?" if near else f"it is called as {name}{inspect.Signature(own)}"
    return ArgumentError(f"{name}: {error}", fix=fix)


def described(cls: C, begin: Callable[[Any, inspect.BoundArguments], None]) -> C:
    """Describe every argument under a class's docstring; let `begin` make an instance of a call that fits."""
    init = cls.__init__
    signature = _signature(init)

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            given = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise _misfit(cls.__name__, signature, kwargs, error) from None
        begin(self, given)

    vars(checked)["__signature__"] = signature
    cls.__init__ = checked
    cls.__doc__ = _docstring(cls, signature)
    return cls


def documented(cls: C) -> C:
    """Describe every argument under a class's docstring, and let errors of a call that does not fit name the class."""
    init = cls.__init__
    return described(cls, lambda _, given: init(*given.args, **given.kwargs))
