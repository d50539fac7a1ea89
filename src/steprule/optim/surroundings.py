"""Torch's surroundings of a step: its profiler, hooks, and the compiler, which must keep out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.optim.optimizer as torch_optimizer

_torch: Any = torch_optimizer
GLOBAL_PRE, GLOBAL_POST = _torch._global_optimizer_pre_hooks, _torch._global_optimizer_post_hooks  # noqa: SLF001
profiling: Callable[[], bool] = getattr(torch.autograd, "_profiler_enabled", lambda: True)

Step = TypeVar("Step", bound=Callable[..., Any])


def observed(
    optimizer: torch.optim.Optimizer, step: Callable[..., Any], closure: Callable[[], Any] | None, loss: Any
) -> Any:
    """Take a step inside torch's own wrapper: profiler record, pre and post hooks, which see what is given."""
    wrapped = torch.optim.Optimizer.profile_hook_step(step)
    given = () if closure is None else (closure,)
    return wrapped(optimizer, *given) if loss is None else wrapped(optimizer, *given, loss=loss)


def uncompiled(step: Step) -> Step:
    """Keep `torch.compile` out of a function and of all that it calls; a graph ends before it and begins after it.

    `torch.compiler.disable` says the same with a wrapper, about 2 µs a call. Marking the function and its code costs
    nothing where nothing is compiled; without this call (torch before 2.7), the wrapper it is.
    """
    wrap: Any = torch.compiler.disable
    try:
        from torch._C._dynamo import eval_frame  # pyright: ignore[reportMissingModuleSource]

        dynamo: Any = eval_frame
        skip = dynamo._FrameAction.SKIP  # noqa: SLF001
        dynamo.set_code_exec_strategy(step.__code__, dynamo._FrameExecStrategy(skip, skip))  # noqa: SLF001
    except (ImportError, AttributeError, TypeError):
        return wrap(step)
    told = "a step is one compiled kernel already"
    vars(step).update(_torchdynamo_disable=True, _torchdynamo_disable_msg=told)
    return step
