"""GPU kernels compiled for sm_90 without a GPU: correctly rounded arithmetic, wide loads, no atomics."""

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

ASKED = [("adam", "float32", True), ("adam", "float32", False), ("board", "bfloat16", True),
         ("everything", "float32", True), ("adam", "float64", True), ("board", "float16", True)]  # fmt: skip
HALF = [("half", "bfloat16", True), ("half", "float16", True)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, bool], dict[str, str]]:
    """Compile in a process that does not interpret, and keeps machine code of no other run."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("triton_compile.py")), json.dumps(ASKED + HALF)],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(ASKED + HALF, json.loads(done.stdout), strict=True))


def test_compiled_kernels_round_correctly_load_widely_and_use_no_atomics(compiled: Any) -> None:
    for name, dtype, aligned in ASKED:
        kernels = compiled[name, dtype, aligned]
        assert {"pass_0", "end_0", "pass_1"} <= set(kernels)
        for text in kernels.values():
            assert not re.search(r"\b(atom|red)\.(global|shared|relaxed)", text)
            assert not re.search(r"\b(div|sqrt|rsqrt)\.(full|approx)", text)
        update = kernels["pass_1"]
        if name != "everything":
            kind = "f64" if dtype == "float64" else "f32"
            assert f"div.rn.{kind}" in update
            assert f"sqrt.rn.{kind}" in update
        wide = re.search(r"ld\.global\.v\d\.b\d\d", update), re.search(r"st\.global\.v\d\.b\d\d", update)
        assert [bool(found) for found in wide] == [aligned, aligned]


def test_formulas_of_16_bits_compile_with_words_of_32(compiled: Any) -> None:
    assert "cvt.rn.f16" in compiled[HALF[1]]["every"]
    for case in HALF:
        wide, narrow = (re.findall(rf"mul\.lo\.s{size}", compiled[case]["every"]) for size in (64, 32))
        assert len(wide) < 8 <= len(narrow)  # those of a key, and two an element
