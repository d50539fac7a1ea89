"""GPU kernels compiled without a GPU: correctly rounded arithmetic, wide loads, subnormals, no atomics."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interp

ASKED = [("adam", "float32"), ("board", "bfloat16"), ("everything", "float32"), ("adam", "float64"),
         ("board", "float16")]  # fmt: skip
HALF = [("half", "bfloat16"), ("half", "float16")]
GOLDEN = ["board.sgd", "papers.lion"]
NARROW = {"float32": "b32", "float64": "b64", "bfloat16": "b16", "float16": "b16"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Compile in a process that does not interpret, and keeps machine code of no other run."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("triton_compile.py")), json.dumps([ASKED + HALF, GOLDEN])],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compiled(answers: list[Any]) -> dict[tuple[str, str], dict[str, str]]:
    """Return PTX, by program and dtype, by kernel."""
    return dict(zip(ASKED + HALF, answers[0], strict=True))


def test_compiled_kernels_round_correctly_load_widely_and_use_no_atomics(compiled: Any) -> None:
    """Two walks: whole blocks by 16 bytes, whose pointers are known to begin there, and the rest one by one."""
    for name, dtype in ASKED:
        kernels = compiled[name, dtype]
        assert {"pass_0", "pass_1"} <= set(kernels)
        for text in kernels.values():
            assert not re.search(r"\b(atom|red)\.(global|shared|relaxed)", text)
            assert not re.search(r"\b(div|sqrt|rsqrt)\.(full|approx)", text)
        update = kernels["pass_1"]
        if name != "everything":
            kind = "f64" if dtype == "float64" else "f32"
            assert f"div.rn.{kind}" in update
            assert f"sqrt.rn.{kind}" in update
        wide, alone = ("v2.b64" if dtype == "float64" else "v4.b32"), NARROW[dtype]
        for kind in ("ld", "st"):
            moved = set(re.findall(rf"\b{kind}\.global\.(\S+)", update))
            assert alone in moved
            assert {word for word in moved if word.startswith("v")} == {wide}


def test_what_is_subnormal_is_not_taken_for_0(compiled: Any) -> None:
    """Also in exp, log and pow of NVIDIA's library, which approximates 2^x and 1/x where neither is subnormal."""
    used = {word for case in ASKED for text in compiled[case].values() for word in re.findall(r"\S+\.ftz\S*", text)}
    assert used == {"ex2.approx.ftz.f32", "rcp.approx.ftz.f32", "rcp.approx.ftz.f64"}


def test_no_product_and_sum_are_one_operation_but_in_sums_of_squares(compiled: Any) -> None:
    """An element becomes the same in both walks, whatever the compiler makes of them, and on a CPU."""
    for name, dtype in (("adam", "float32"), ("board", "bfloat16"), ("board", "float16")):
        assert not re.search(r"\bfma\.", compiled[name, dtype]["pass_1"])


def test_formulas_of_16_bits_compile_with_words_of_32(compiled: Any) -> None:
    assert "cvt.rn.f16" in compiled[HALF[1]]["every"]
    for case in HALF:
        wide, narrow = (re.findall(rf"mul\.lo\.s{size}", compiled[case]["every"]) for size in (64, 32))
        assert len(wide) < 8 <= len(narrow)  # those of a key, and two an element
