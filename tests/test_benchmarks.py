"""BENCHMARKS.md says what the committed records say, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from steprule.rule import Formula
from steprule.zoo import factored, free, matrices, papers

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu_kernels  # noqa: E402


@pytest.mark.null
def test_the_benchmark_page_is_generated_from_the_records() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/report.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list((ROOT / "benchmarks" / "records").glob("*.json"))


@pytest.mark.null
def test_every_rule_of_a_paper_is_short_and_agrees_with_own_references_and_with_peers() -> None:
    """Where a peer's conventions cannot be asked for, the table says so: Yogi's and LAMB's."""
    found = json.loads((ROOT / "benchmarks" / "records" / "agreement.json").read_text(encoding="utf-8"))["rules"]
    zoo = [vars(module) for module in (papers, factored, free, matrices)]
    own = {name for names in zoo for name, value in names.items() if isinstance(value, Formula) and "_of_" not in name}
    assert {row["rule"] for row in found} >= own | {"sam", "adagc", "cautious", "lookahead", "ema"}
    assert max(row["own"] for row in found) < 1e-12
    assert max(row["lines"] for row in found) <= 12
    far = {row["rule"] for row in found for peer in row["peers"] if peer["apart"] > 1e-5}
    assert far == {"yogi", "lamb"}
    assert all(peer["differs"] for row in found for peer in row["peers"] if row["rule"] in far)


# Machine code of GPU kernels ----------------------------------------------------------------------------

SASS = """
        /*0000*/                   LDG.E.64 R2, desc[UR4][R4.64] ;                         /* 0x01 */
        /*0010*/                   LDG.E.128 R4, desc[UR4][R8.64] ;                        /* 0x02 */
        /*0020*/                   LDG.E.128 R12, desc[UR4][R10.64] ;                      /* 0x03 */
        /*0030*/                   FADD R4, R4, R12 ;                                      /* 0x04 */
        /*0040*/                   STG.E.128 desc[UR4][R8.64], R4 ;                        /* 0x05 */
        /*0048*/                   LDG.E R16, desc[UR4][R4.64] ;                           /* 0x05 */
        /*0050*/              @!P0 BRA 0x0010 ;                                            /* 0x06 */
        /*0060*/                   LDG.E R2, desc[UR4][R4.64] ;                            /* 0x07 */
        /*0070*/               @P1 BRA 0x0060 ;                                            /* 0x08 */
        /*0080*/                   STL [R1], R0 ;                                          /* 0x09 */
        /*0090*/                   EXIT ;                                                  /* 0x0a */
"""


@pytest.mark.null
def test_machine_code_is_counted_in_the_loop_with_the_widest_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"-res-usage": " Function pass_0:\n  REG:24 STACK:0", "-sass": SASS}
    monkeypatch.setattr(gpu_kernels, "_told", lambda _tool, asked, _file: told[asked])
    wide = {"load": 128, "store": 128, "instructions": 1.5}
    assert gpu_kernels.measured(b"", [32, 32], [32]) == {"registers": 24, "spills": 1, **wide}, "a row's number is not"
    assert gpu_kernels.measured(b"", [32, 32], []) == {"registers": 24, "spills": 1, **wide, "store": 0}
    assert gpu_kernels.measured(b"", [], []) == {"registers": 24, "spills": 1}
    line = next(line for line in SASS.splitlines() if "R16" in line)
    halves = SASS.replace(
        line, "\n".join(line.replace("0048", at).replace("LDG.E", "LDG.E.64") for at in ("0048", "004c"))
    )
    monkeypatch.setitem(told, "-sass", halves)
    assert gpu_kernels.measured(b"", [32, 32, 32], [32])["load"] == 64, "one of three arrays"
    monkeypatch.setitem(told, "-sass", halves.replace("LDG.E.128 R12", "FADD R12"))
    assert gpu_kernels.measured(b"", [32, 32], [32])["load"] == 64


@pytest.mark.null
def test_what_a_kernel_calls_is_in_its_fingerprint_and_nothing_else_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sources = gpu_kernels.sources()
    before = {name: gpu_kernels.fingerprint(source) for name, source in sources.items()}
    other = tmp_path / "helpers.py"
    monkeypatch.setattr(gpu_kernels, "HELPERS", other)
    text = (ROOT / "src" / "steprule" / "backends" / "triton_helpers.py").read_text(encoding="utf-8")
    other.write_text(text.replace("tl.div_rn(x, y)", "x / y"), encoding="utf-8")
    changed = {name for name, source in sources.items() if gpu_kernels.fingerprint(source) != before[name]}
    assert changed == {name for name, source in sources.items() if "divide(" in source}
    assert gpu_kernels.fingerprint(sources["board.sgd"] + "\n") != before["board.sgd"]
