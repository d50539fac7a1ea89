"""GPU kernels compiled without a GPU: correctly rounded arithmetic, wide loads, subnormals, no atomics, no spills.

The whole zoo is compiled by `make gpu-kernels`, whose record is held to the sources here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from floor import PROJECT, floors

sys.path.insert(0, str(PROJECT.with_name("benchmarks")))
import gpu_kernels

pytestmark = pytest.mark.interp

ASKED = [("adam", "float32"), ("board", "bfloat16"), ("everything", "float32"), ("adam", "float64"),
         ("board", "float16")]  # fmt: skip
LIBRARY = ("library", "float32")
HALF = [("half", "bfloat16"), ("half", "float16")]
GOLDEN = ["board.sgd", "papers.lion"]
NARROW = {"float32": "b32", "float64": "b64", "bfloat16": "b16", "float16": "b16"}
RECORD = gpu_kernels.read()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Compile in a process that does not interpret, and keeps machine code of no other run."""
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("triton_compile.py")),
            json.dumps([[*ASKED, *HALF, LIBRARY], GOLDEN]),
        ],
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
    return dict(zip([*ASKED, *HALF, LIBRARY], answers[0], strict=True))


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


def test_remainders_and_angles_compile_to_what_rounds_in_the_end(compiled: Any) -> None:
    """A remainder is exact: its last steps are fused products and differences, whatever quotient it began with."""
    text = compiled[LIBRARY]["pass_1"]
    assert "div.approx" in text
    assert text.count("fma.rn.f32") > 10


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


# The record of all golden kernels ----------------------------------------------------------------------


def test_the_record_of_machine_code_is_of_the_golden_kernels_as_they_are() -> None:
    """Under the lowest version of Triton that may be installed, and another."""
    lowest, now = floors(PROJECT.read_text(encoding="utf-8"))["triton"], gpu_kernels.sources()
    assert set(RECORD["kernels"]) == set(now), f"run `{gpu_kernels.COMMAND}`"
    for name, source in now.items():
        own = RECORD["kernels"][name]
        assert len(own) > 1
        assert lowest in own
        for version, found in own.items():
            told = f"{name} under Triton {version} is not what was compiled: run `{gpu_kernels.COMMAND}`"
            assert found["source"] == gpu_kernels.fingerprint(source), told
            launched = re.findall(rf"^def ({gpu_kernels.LAUNCHED})\(", source, re.MULTILINE)
            assert set(found["compiled"]) == set(launched)


def test_no_golden_kernel_spills_and_all_move_16_bytes_at_once_or_four_codes() -> None:
    for name, source in gpu_kernels.sources().items():
        for version, found in RECORD["kernels"][name].items():
            for kernel, by in found["compiled"].items():
                wide = 32 if "blocks_of(" in source.split(f"def {kernel}(")[1].split("\ndef ")[0] else 128
                assert set(by) == {f"sm_{arch}" for arch in gpu_kernels.ARCHES}
                for arch, told in by.items():
                    where = f"{name}'s {kernel} for {arch} under Triton {version}"
                    assert told["spills"] == 0, where
                    assert ("load" in told) == kernel.startswith("pass_"), where
                    assert {told.get("load", wide), told.get("store") or wide} == {wide}, where


def test_a_few_golden_kernels_compile_to_what_is_recorded(answers: list[Any]) -> None:
    _, version, found = answers
    arch = "sm_90"
    for name in GOLDEN:
        recorded = RECORD["kernels"][name].get(version, {}).get("compiled")
        for kernel, by in found[name].items():
            assert by[arch]["spills"] == 0
            assert recorded is None or recorded[kernel][arch] == by[arch]
