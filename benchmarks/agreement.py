"""How long each rule of a paper is, what its step moves and keeps, and how far it is from other implementations.

    make agreement                          installs the peers, measures, writes the record and BENCHMARKS.md
    python benchmarks/agreement.py          measures with what is installed, and prints

Twenty steps of the same gradients. A difference is the greatest of a parameter over the greatest number of its tensor:
in float64 from formulas which the tests write again in plain NumPy or torch, and from peers in the type that stands
there. Where conventions differ the table says which; ours is then compared with options that make both agree.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import steprule as sr
from steprule.rule import Formula

HERE = Path(__file__).parent
RECORD = HERE / "records" / "agreement.json"
STEPS, LR = 20, 1e-2
MIXED = ((6, 4), (4,), (5, 5), (3, 7))
MATRICES = ((6, 4), (5, 5), (3, 7))
COUNTED = (256, 1024)
"""The matrix whose state is counted."""
Make = Callable[[Any], Any]
KOZISTR, FREE, PRODIGY, TORCH = "pytorch_optimizer", "schedulefree", "prodigyopt", "torch"
ONE = {"foreach": False}
optim, adam = sr.optim, sr.zoo.adam.adam


@dataclass(frozen=True)
class Peer:
    """Another implementation: its package, how it is made from that and parameters, and what differs there."""

    package: str
    make: Callable[[Any, Any], Any]
    differs: str = ""
    ours: Make | None = None
    """Ours with options that make both agree, if those are not the row's."""
    shapes: Sequence[tuple[int, ...]] = MIXED
    dtype: torch.dtype = torch.float64


@dataclass(frozen=True)
class Row:
    """A line of the table: a formula, an optimiser of it, where tests write it again, and its peers."""

    formula: Formula
    make: Make
    again: str
    """The tests' file, and the name that it has there."""
    peers: tuple[Peer, ...] = ()


def _behind(change: Any) -> Make:
    return lambda p: sr.Optimizer(p, sr.chain(adam, change), lr=LR)


def _before(change: Any) -> Make:
    return lambda p: sr.Optimizer(p, sr.chain(change, adam), lr=LR)


def _of_heads(module: Any, parameters: Any) -> Any:
    model, model.q_proj = (torch.nn.Module() for _ in range(2))
    (model.q_proj.weight,) = parameters
    size = len(parameters[0])
    return module.AdamMini(model, lr=LR, weight_decay=0.0, num_embeds=size, num_heads=size)


def rows() -> list[Row]:
    """List the rules and their peers."""
    return [*_adams(), *_changes(), *_factored(), *_matrices(), *_free()]


def _adams() -> list[Row]:
    papers = sr.zoo.papers
    return [
        Row(papers.lion, lambda p: optim.Lion(p, lr=LR, weight_decay=0.1), "zoo/test_papers LION",
            (Peer(KOZISTR, lambda m, p: m.Lion(p, lr=LR, weight_decay=0.1, **ONE)),)),
        Row(papers.adabelief, lambda p: optim.AdaBelief(p, lr=LR, eps=1e-16), "zoo/test_papers ADABELIEF",
            (Peer(KOZISTR, lambda m, p: m.AdaBelief(p, lr=LR, **ONE)),)),
        Row(papers.yogi, lambda p: optim.Yogi(p, lr=LR), "zoo/test_papers YOGI",
            (Peer(KOZISTR, lambda m, p: m.Yogi(p, lr=LR, **ONE),
                  "its first moment starts from 1e-6, and v is bias-corrected: neither is in the paper"),)),
        Row(papers.adopt, lambda p: optim.ADOPT(p, lr=LR, eps=1e-6), "zoo/test_papers ADOPT",
            (Peer(KOZISTR, lambda m, p: m.ADOPT(p, lr=LR, clip_lambda=lambda t: (t - 1) ** 0.25, **ONE),
                  "its steps are counted from 1 where the bound is made, the authors' from 0; asked for (t − 1)^¼"),)),
        Row(papers.ademamix, lambda p: optim.AdEMAMix(p, lr=LR, alpha=5.0), "zoo/test_papers ADEMAMIX",
            (Peer(KOZISTR, lambda m, p: m.AdEMAMix(p, lr=LR, **ONE)),)),
        Row(papers.adan, lambda p: optim.Adan(p, lr=LR), "zoo/test_papers ADAN",
            (Peer(KOZISTR, lambda m, p: m.Adan(p, lr=LR, **ONE)),)),
        Row(papers.lamb, lambda p: optim.LAMB(p, lr=LR), "zoo/test_papers LAMB",
            (Peer(KOZISTR, lambda m, p: m.Lamb(p, lr=LR, max_grad_norm=0.0, **ONE),
                  "it does not correct the moments, and no length of a tensor counts above 10"),)),
        Row(papers.lars, lambda p: optim.LARS(p, lr=LR, weight_decay=0.1), "zoo/test_papers LARS",
            (Peer(KOZISTR, lambda m, p: m.LARS(p, lr=LR, weight_decay=0.1, **ONE),
                  "it leaves vectors to SGD: matrices alone", shapes=MATRICES),)),
        Row(papers.signum, lambda p: optim.Signum(p, lr=LR), "zoo/test_free signum",
            (Peer(KOZISTR, lambda m, p: m.SignSGD(p, lr=LR, **ONE)),)),
        Row(papers.sgld, lambda p: optim.SGLD(p, lr=LR), "zoo/test_free sgld"),
        Row(papers.stable_adamw, lambda p: optim.StableAdamW(p, lr=LR), "zoo/test_free stable_adamw",
            (Peer(KOZISTR, lambda m, p: m.StableAdamW(p, lr=LR, kahan_sum=False, **ONE)),)),
        Row(papers.mars, lambda p: optim.MARS(p, lr=LR, weight_decay=0), "zoo/test_free mars",
            (Peer(KOZISTR, lambda m, p: m.MARS(p, lr=LR, optimize_1d=True, **ONE)),)),
        Row(papers.mars_exact, lambda p: papers.mars_exact.optimizer(p, lr=LR), "optim/test_two_gradients mars"),
    ]  # fmt: skip


def _changes() -> list[Row]:
    return [
        Row(sr.adagc, _before(sr.adagc(start=4)), "zoo/test_free adagc",
            (Peer(KOZISTR, lambda m, p: m.AdaGC(p, lr=LR, weight_decay=0.0, warmup_steps=5, **ONE),
                  "its warm-up of 5 ends a step earlier than ours of 5: compared with ours of 4"),)),
        Row(sr.cautious, _behind(sr.cautious), "zoo/test_free cautious"),
        Row(sr.cautious_weight_decay, _behind(sr.cautious_weight_decay(weight_decay=0.1)), "zoo/test_matrices normuon"),
        Row(sr.lookahead, _behind(sr.lookahead), "zoo/test_free lookahead",
            (Peer(KOZISTR, lambda m, p: m.Lookahead(torch.optim.Adam(p, lr=LR))),)),
        Row(sr.ema, _behind(sr.ema), "zoo/test_free ema"),
        Row(sr.sam, lambda p: sr.Optimizer(p, sr.sam(sr.zoo.descent.sgd, rho=0.3), lr=LR),
            "optim/test_two_gradients sam",
            (Peer(KOZISTR, lambda m, p: m.SAM(p, torch.optim.SGD, lr=LR, rho=0.3, **ONE)),)),
    ]  # fmt: skip


def _factored() -> list[Row]:
    factored = sr.zoo.factored
    return [
        Row(factored.adafactor, lambda p: optim.Adafactor(p, lr=LR), "parity/test_factored Adafactor",
            (Peer(TORCH, lambda m, p: m.optim.Adafactor(p, lr=LR)),
             Peer(KOZISTR, lambda m, p: m.AdaFactor(p, lr=LR, betas=(None, 0.999), **ONE),
                  "asked for no first moment"))),
        Row(factored.came, lambda p: optim.CAME(p, lr=LR), "parity/test_factored CAME",
            (Peer(KOZISTR, lambda m, p: m.CAME(p, lr=LR, **ONE)),)),
        Row(factored.sm3, lambda p: optim.SM3(p, lr=LR, momentum=0.9), "parity/test_factored SM3",
            (Peer(KOZISTR, lambda m, p: m.SM3(p, lr=LR, momentum=0.9, **ONE)),)),
        Row(factored.adam_mini, lambda p: optim.AdamMini(p, lr=LR), "parity/test_factored AdamMini",
            (Peer(KOZISTR, _of_heads, "it cuts queries and keys by heads: one query matrix with a head a row",
                  shapes=MATRICES[1:2], dtype=torch.float32),)),
    ]  # fmt: skip


def _matrices() -> list[Row]:
    matrices = sr.zoo.matrices
    return [
        Row(matrices.muon, lambda p: optim.Muon(p, lr=LR), "zoo/test_matrices muon",
            (Peer(TORCH, lambda m, p: m.optim.Muon(p, lr=LR), "in float64, too, it iterates in bfloat16: in float32",
                  shapes=MATRICES, dtype=torch.float32),
             Peer(KOZISTR, lambda m, p: m.Muon([{"params": p, "use_muon": True}], lr=LR, weight_decay=0.1, **ONE),
                  "as torch", shapes=MATRICES, dtype=torch.float32))),
        Row(matrices.normuon, lambda p: matrices.normuon.optimizer(p, lr=LR), "zoo/test_matrices normuon",
            (Peer(KOZISTR, lambda m, p: m.NorMuon([{"params": p, "use_muon": True}], lr=LR, update_scale="match_rms",
                                                  **ONE), "as torch", shapes=MATRICES, dtype=torch.float32),)),
        Row(matrices.shampoo, lambda p: optim.Shampoo(p, lr=LR), "zoo/test_matrices shampoo",
            (Peer(KOZISTR, lambda m, p: m.Shampoo(p, lr=LR), "its sums start from εI, ours from 0", shapes=MATRICES),)),
        Row(matrices.soap, lambda p: optim.SOAP(p, lr=LR, weight_decay=0), "zoo/test_matrices soap",
            (Peer(KOZISTR, lambda m, p: m.SOAP(p, lr=LR, weight_decay=0.0, precondition_frequency=100),
                  "it sorts eigenvectors by their values when it refreshes them, where ours keep their order: compared "
                  "before that, on square matrices, whose first gradient has a basis of its own",
                  lambda p: optim.SOAP(p, lr=LR, weight_decay=0, precondition_frequency=100), ((5, 5), (4, 4))),)),
    ]  # fmt: skip


def _free() -> list[Row]:
    free = sr.zoo.free
    return [
        Row(free.polyak, lambda p: optim.Polyak(p, lr=LR), "zoo/test_free polyak"),
        Row(free.dog, optim.DoG, "zoo/test_free dog"),
        Row(free.prodigy, lambda p: optim.Prodigy(p, d0=1e-2), "zoo/test_free prodigy",
            (Peer(PRODIGY, lambda m, p: m.Prodigy(p, d0=1e-2)),
             Peer(KOZISTR, lambda m, p: m.Prodigy(p, d0=1e-2, **ONE)))),
        Row(free.schedule_free_sgd, lambda p: free.schedule_free_sgd.optimizer(p, lr=LR),
            "zoo/test_free schedule_free_sgd",
            (Peer(FREE, lambda m, p: m.SGDScheduleFree(p, lr=LR, **ONE)),)),
        Row(free.schedule_free_adamw, lambda p: free.schedule_free_adamw.optimizer(p, lr=LR, warmup_steps=5),
            "zoo/test_free schedule_free_adamw",
            (Peer(FREE, lambda m, p: m.AdamWScheduleFree(p, lr=LR, warmup_steps=5, **ONE)),)),
    ]  # fmt: skip


def stepped(
    make: Make, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, *, twice: bool = False
) -> tuple[list[torch.Tensor], Any]:
    """Return where parameters end, and the optimiser; `twice` gives it a closure."""
    torch.manual_seed(0)
    own = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64).to(dtype)) for shape in shapes]
    optimizer = make(own)
    if hasattr(optimizer, "train"):
        optimizer.train()
    for t in range(STEPS):

        def closure(t: int = t) -> float:
            draw = torch.Generator().manual_seed(100 + t)
            for p in own:
                p.grad = 2 * p.detach() + torch.randn(p.shape, dtype=torch.float64, generator=draw).to(dtype)
            return 1.0

        closure()
        loss = {"loss": 1.0} if isinstance(optimizer, sr.Optimizer) else {}
        optimizer.step(closure) if twice else optimizer.step(**loss)
    return [p.detach().double() for p in own], optimizer


def apart(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Return the greatest difference of numbers, over the greatest of their tensor."""
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True))


def beside(row: Row, peer: Peer) -> dict[str, Any]:
    """Compare a row with a peer."""
    module = import_module(peer.package)
    twice = bool(row.formula.graph.first)
    ours, _ = stepped(peer.ours or row.make, peer.shapes, peer.dtype, twice=twice)
    theirs, _ = stepped(lambda p: peer.make(module, p), peer.shapes, peer.dtype, twice=twice)
    return {"package": peer.package, "version": version(peer.package).partition("+")[0], "apart": apart(ours, theirs),
            "dtype": str(peer.dtype).removeprefix("torch."), "differs": peer.differs}  # fmt: skip


def lines_of(formula: Formula) -> int:
    """Return how many lines a formula, its point and what they call have, below their docstrings."""
    found: dict[str, Any] = {}
    waiting = [formula.part.function, *filter(None, [formula.part.evaluate_at])]
    while waiting:
        function = waiting.pop()
        if function.__name__ in found:
            continue
        found[function.__name__] = function
        home = vars(sys.modules[function.__module__])
        called = (home.get(name) for name in function.__code__.co_names)
        waiting += [own for own in called if inspect.isfunction(own) and own.__module__.startswith("steprule.zoo")]
    return sum(map(_lines, found.values()))


def _lines(function: Callable[..., Any]) -> int:
    if function.__name__ == "<lambda>":
        return 1
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef), function
    return sum(own.end_lineno - own.lineno + 1 for own in node.body if not isinstance(own, ast.Expr))


def own(row: Row) -> float:
    """Return how far a rule is from the formula that the tests write again."""
    home, _, case = row.again.partition(" ")
    folder = str(HERE.parent / "tests" / Path(home).parent)
    if folder not in sys.path:
        sys.path[:0] = [folder, str(HERE.parent / "tests")]
    tests = import_module(Path(home).name)
    named = getattr(tests, case, None)
    pairs = tests.beside(named if isinstance(named, tuple) else case)
    return max(apart([ours], [right]) for ours, right in pairs)


def kept(make: Make) -> float:
    """Return how many bytes of state an element has, of one float32 matrix, step counts left out."""
    p = torch.nn.Parameter(torch.ones(COUNTED))
    p.grad = torch.full(COUNTED, 1e-3)
    optimizer = make([p])
    optimizer.step(lambda: 1.0)
    slots = [own for name, own in optimizer.state[p].items() if name != "step" and isinstance(own, torch.Tensor)]
    return sum(own.numel() * own.element_size() for own in slots) / p.numel()


def measured(row: Row) -> dict[str, Any]:
    """Return a row's numbers."""
    told = sr.explain(stepped(row.make, MATRICES, torch.float32, twice=bool(row.formula.graph.first))[1])
    return {
        "rule": row.formula.name,
        "lines": lines_of(row.formula),
        "passes": len(told.passes),
        "bytes": told.bytes_per_parameter,
        "scratch": told.scratch_bytes_per_parameter,
        "state": kept(row.make),
        "own": own(row),
        "peers": [beside(row, peer) for peer in row.peers],
    }


HEAD = f"""## Rules of papers

`make agreement`: lines below the docstring, those of a point and of functions that a formula calls counted; passes
over memory and bytes that they move, an element of float32; bytes of state an element of a {COUNTED[0]} × {COUNTED[1]}
matrix, and of scratch. What moves parameters to the point of a gradient and back is not counted. Then the
greatest difference of a parameter, over the greatest number of its tensor: from formulas that the tests write
again, in float64, and from peers after {STEPS} steps, in float64 where nothing else stands there.
"""


def section(record: dict[str, Any]) -> str:
    """Return the part of BENCHMARKS.md that a record makes."""
    lines = [HEAD, f"steprule {record['steprule']}, torch {record['torch']}.", "",
             "| rule | lines | passes | bytes moved | state | scratch | own reference | peers |",
             "|---|---:|---:|---:|---:|---:|---:|---|"]  # fmt: skip
    notes: list[str] = []
    for row in record["rules"]:
        peers = [_peer(peer, notes) for peer in row["peers"]]
        sizes = " | ".join(f"{row[key]:.3g}" for key in ("lines", "passes", "bytes", "state", "scratch"))
        lines.append(f"| {row['rule']} | {sizes} | {_power(row['own'])} | {'; '.join(peers)} |")
    return "\n".join([*lines, "", *notes, ""])


def _peer(peer: dict[str, Any], notes: list[str]) -> str:
    mark = ""
    if peer["differs"]:
        notes.append(f"{len(notes) + 1}. {peer['package']}: {peer['differs']}.")
        mark = f" [{len(notes)}]"
    kind = "" if peer["dtype"] == "float64" else f" in {peer['dtype']}"
    return f"{peer['package']} {peer['version']}: {_power(peer['apart'])}{kind}{mark}"


def _power(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"


def main() -> None:
    """Measure, print, and write down if that is asked for."""
    asking = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asking.add_argument("--record", action="store_true", help="write records/agreement.json")
    given = asking.parse_args()
    warnings.simplefilter("ignore")  # of peers
    found = {"page": "agreement", "steprule": sr.__version__, "torch": torch.__version__.partition("+")[0],
             "rules": [measured(row) for row in rows()]}  # fmt: skip
    print(section(found))
    if given.record:
        RECORD.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
