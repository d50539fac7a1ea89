"""What an optimiser of another library is here: the line there, the line here, how far apart both come.

    python benchmarks/moves.py                  measures with what is installed, and prints
    python benchmarks/moves.py optax --record   writes that library's record, of which docs/move/ is made

Both lines are run as they stand for twenty steps; p are parameters and lr is 0.01. A difference is the greatest of a
parameter over the greatest number of its tensor. What a library needs is installed by hand, into an environment of its
own: pip install optax jax; timm torchvision; heavyball; bitsandbytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import steprule as sr
from steprule import optim

HERE = Path(__file__).parent
RECORDS = HERE / "records" / "moves"
STEPS, LR = 20, 1e-2
SHAPES = ((6, 4), (4,), (5, 5), (3, 7))
SINGLE = {"heavyball", "bitsandbytes"}
"""Libraries that are compared in float32, in which they compute."""
Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Move:
    """A line of another library and ours, and what differs if they are not equal."""

    theirs: str
    ours: str
    differs: str = ""


_RULE = "{}.optimizer(p, lr=lr{})".format
_DECAYED = "sr.chain(sr.weight_decay(0.1), {}).optimizer(p, lr=lr)".format
_START = "its average starts at 1, ours at 0"

OPTAX = (
    Move("optax.sgd(lr)", "optim.SGD(p, lr)"),
    Move("optax.sgd(lr, momentum=0.9)", "optim.SGD(p, lr, momentum=0.9)"),
    Move("optax.sgd(lr, momentum=0.9, nesterov=True)", "optim.SGD(p, lr, momentum=0.9, nesterov=True)"),
    Move("optax.adam(lr, b1=0.9, b2=0.99)", "optim.Adam(p, lr, betas=(0.9, 0.99))"),
    Move("optax.adamw(lr, weight_decay=0.1)", "optim.AdamW(p, lr, weight_decay=0.1)"),
    Move("optax.rmsprop(lr, decay=0.9)", _RULE("sr.board.rmsprop", ", beta=0.9")),
    Move("optax.rmsprop(lr, decay=0.9, eps_in_sqrt=False)", "optim.RMSprop(p, lr, alpha=0.9)"),
    Move("optax.adagrad(lr, initial_accumulator_value=0.0)", _RULE("sr.board.adagrad", ", eps=1e-7")),
    Move("optax.adagrad(lr)", _RULE("sr.board.adagrad", ", eps=1e-7"), "its sum starts at 0.1, ours at 0"),
    Move("optax.adadelta(lr, rho=0.9, eps=1e-6)", "optim.Adadelta(p, lr, rho=0.9, eps=1e-6)"),
    Move("optax.adamax(lr)", "optim.Adamax(p, lr)"),
    Move("optax.nadam(lr)", "optim.NAdam(p, lr)", "its β₁ has no schedule; torch's has one, and so ours"),
    Move("optax.radam(lr)", "optim.RAdam(p, lr)"),
    Move("optax.lion(lr, weight_decay=0.1)", "optim.Lion(p, lr, weight_decay=0.1)"),
    Move("optax.adabelief(lr)", "optim.AdaBelief(p, lr, eps=1e-16)"),
    Move("optax.yogi(lr)", "optim.Yogi(p, lr)", "its moments start at 1e-6 and are bias-corrected: not in the paper"),
    Move("optax.lamb(lr, weight_decay=0.01)", "optim.LAMB(p, lr)"),
    Move("optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(lr))", "optim.SGD(p, lr, clip=1.0)",
         "ours adds 1e-6 to the norm, as torch does"),
    Move("optax.chain(optax.clip(0.5), optax.adam(lr))", "optim.Adam(p, lr, clip=sr.clip_value(limit=0.5))"),
    Move("optax.chain(optax.add_decayed_weights(0.1), optax.sgd(lr))", "optim.SGD(p, lr, weight_decay=0.1)"),
)  # fmt: skip
TIMM = (
    Move("timm.optim.AdamW(p, lr, weight_decay=0.1)", "optim.AdamW(p, lr, weight_decay=0.1)"),
    Move("timm.optim.AdamWLegacy(p, lr, weight_decay=0.1, caution=True)", _DECAYED("sr.cautious(sr.zoo.adam.adam)")),
    Move("timm.optim.SGDW(p, lr, momentum=0.9, weight_decay=0.1)", _DECAYED("sr.zoo.descent.heavy_ball")),
    Move("timm.optim.NAdam(p, lr)", "optim.NAdam(p, lr)"),
    Move("timm.optim.NAdamW(p, lr)", "optim.NAdam(p, lr)", "its β₁ has no schedule; torch's has one, and so ours"),
    Move("timm.optim.RMSpropTF(p, lr)", _RULE("sr.board.rmsprop", ", beta=0.9, eps=1e-10"), _START),
    Move("timm.optim.Lion(p, lr, weight_decay=0.1)", "optim.Lion(p, lr, weight_decay=0.1)"),
    Move("timm.optim.Adan(p, lr)", "optim.Adan(p, lr)"),
    Move("timm.optim.AdaBelief(p, lr, rectify=False)", "optim.AdaBelief(p, lr, eps=1e-16)"),
    Move("timm.optim.Adopt(p, lr, clip_exp=0.25)", "optim.ADOPT(p, lr)"),
    Move("timm.optim.Adopt(p, lr)", "optim.ADOPT(p, lr)", "it clips at t^0.333, the paper and ours at t^¼"),
    Move("timm.optim.Lamb(p, lr)", "optim.LAMB(p, lr, clip=1.0)", "ours adds 1e-6 to the norm, as torch does"),
    Move("timm.optim.Lamb(p, lr, max_grad_norm=None)", "optim.LAMB(p, lr)"),
    Move("timm.optim.Lars(p, lr, momentum=0.9, weight_decay=0.1)", "optim.LARS(p, lr, momentum=0.9, weight_decay=0.1)"),
    Move("timm.optim.Mars(p, lr, betas=(0.95, 0.99), optimize_1d=True)", "optim.MARS(p, lr)"),
)
HEAVYBALL = (
    Move("heavyball.SGD(p, lr, beta=0.9)", "optim.SGD(p, lr, momentum=0.9)"),
    Move("heavyball.SGD(p, lr, beta=0.9, weight_decay=0.1)", _DECAYED("sr.zoo.descent.heavy_ball")),
    Move("heavyball.AdamW(p, lr, betas=(0.9, 0.99), weight_decay=0.1)",
         "optim.AdamW(p, lr, betas=(0.9, 0.99), weight_decay=0.1)"),
    Move("heavyball.NAdam(p, lr, betas=(0.9, 0.999))", "optim.NAdam(p, lr)"),
    Move("heavyball.AdEMAMix(p, lr)", "optim.AdEMAMix(p, lr)"),
    Move("heavyball.SFAdamW(p, lr, betas=(0.9, 0.999))", _RULE("sr.schedule_free_adamw", "")),
    Move("heavyball.RMSprop(p, lr)", "optim.RMSprop(p, lr)",
         "it corrects the bias of the second moment, and divides by max(√v, ε)"),
)  # fmt: skip
BITSANDBYTES = (
    Move("bitsandbytes.optim.Adam32bit(p, lr)", "optim.Adam(p, lr)"),
    Move("bitsandbytes.optim.AdamW32bit(p, lr, weight_decay=0.1)", "optim.AdamW(p, lr, weight_decay=0.1)"),
    Move("bitsandbytes.optim.Adam32bit(p, lr, weight_decay=0.1)", "optim.AdamW(p, lr, weight_decay=0.1)"),
    Move("bitsandbytes.optim.SGD32bit(p, lr, momentum=0.9)", "optim.SGD(p, lr, momentum=0.9)"),
    Move("bitsandbytes.optim.RMSprop32bit(p, lr)", "optim.RMSprop(p, lr)"),
    Move("bitsandbytes.optim.Adagrad32bit(p, lr)", "optim.Adagrad(p, lr)"),
    Move("bitsandbytes.optim.Lion32bit(p, lr)", "optim.Lion(p, lr)"),
    Move("bitsandbytes.optim.AdamW8bit(p, lr)", 'optim.AdamW(p, lr, state="8bit")'),
)
MOVES = {"optax": OPTAX, "timm": TIMM, "heavyball": HEAVYBALL, "bitsandbytes": BITSANDBYTES}


def started(dtype: torch.dtype) -> Tensors:
    """Return the parameters that every run begins with."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, generator=draw).to(dtype) for shape in SHAPES]


def gradients(tensors: Sequence[torch.Tensor], t: int) -> Tensors:
    """Return those of a noisy bowl."""
    draw = torch.Generator().manual_seed(100 + t)
    return [2 * x + torch.randn(x.shape, dtype=torch.float64, generator=draw).to(x.dtype) for x in tensors]


def stepped(line: str, names: dict[str, Any], dtype: torch.dtype) -> Tensors:
    """Return where an optimiser with torch's face has come."""
    own = [torch.nn.Parameter(tensor) for tensor in started(dtype)]
    optimizer = eval(line, {**names, "p": own, "lr": LR})  # noqa: S307 - the lines above
    for t in range(STEPS):
        for parameter, gradient in zip(own, gradients([x.detach() for x in own], t), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return [parameter.detach().double() for parameter in own]


def transformed(line: str, names: dict[str, Any], dtype: torch.dtype) -> Tensors:
    """Return where a transformation of optax has come."""
    jax = import_module("jax")
    jax.config.update("jax_enable_x64", True)
    made = eval(line, {**names, "lr": LR})  # noqa: S307 - the lines above
    own = [jax.numpy.asarray(tensor.numpy()) for tensor in started(dtype)]
    state = made.init(own)
    for t in range(STEPS):
        found = gradients([torch.tensor(np.array(x)) for x in own], t)
        updates, state = made.update([jax.numpy.asarray(x.numpy()) for x in found], state, own)
        own = names["optax"].apply_updates(own, updates)
    return [torch.tensor(np.array(x)).double() for x in own]


def imported(library: str) -> dict[str, Any]:
    """Import a library as its lines name it."""
    if library == "timm":
        sys.path.append(str(HERE.parent / "tests" / "hosts"))
        import_module("hosting")  # torchvision's binary may have been built for another torch
        import_module("timm.optim")
    module = import_module(library)
    if library == "heavyball":
        module.utils.compile_mode = None
    return {library: module}


def measured(library: str) -> dict[str, Any]:
    """Return how far apart the lines of a library and ours are."""
    names, dtype = imported(library), torch.float32 if library in SINGLE else torch.float64
    run = transformed if library == "optax" else stepped
    apart: list[float] = []
    for move in MOVES[library]:
        theirs, ours = run(move.theirs, names, dtype), stepped(move.ours, {"optim": optim, "sr": sr}, dtype)
        apart.append(max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(ours, theirs, strict=True)))
    return {"version": version(library), "steprule": sr.__version__, "torch": torch.__version__.partition("+")[0],
            "lines": [[move.theirs, move.ours] for move in MOVES[library]], "apart": apart}  # fmt: skip


def power(value: float) -> str:
    """Word a difference by its order."""
    return "0" if value == 0 else f"{value:.0e}"


def table(library: str) -> str:
    """Return the table that the record makes of a library; the record must be of these lines."""
    found = json.loads((RECORDS / f"{library}.json").read_text(encoding="utf-8"))
    assert found["lines"] == [[move.theirs, move.ours] for move in MOVES[library]], f"record {library} anew"
    lines = [f"{library} {found['version']}, steprule {found['steprule']}, torch {found['torch']}.", "",
             f"| {library} | here | apart | what differs |", "|---|---|---:|---|"]  # fmt: skip
    for move, value in zip(MOVES[library], found["apart"], strict=True):
        lines.append(f"| `{move.theirs}` | `{move.ours}` | {power(value)} | {move.differs} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write down if that is asked for."""
    asking = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asking.add_argument("libraries", nargs="*", default=[name for name in MOVES if importlib.util.find_spec(name)])
    asking.add_argument("--record", action="store_true", help="write records/moves")
    given = asking.parse_args()
    warnings.simplefilter("ignore")  # of peers
    for library in given.libraries:
        found = measured(library)
        for (theirs, ours), value in zip(found["lines"], found["apart"], strict=True):
            print(f"{power(value):>6}  {theirs}  {ours}")
        if given.record:
            (RECORDS / f"{library}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
