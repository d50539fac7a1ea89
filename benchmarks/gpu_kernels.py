"""Compile every golden GPU kernel for three generations of GPUs, without one, and write down what comes out.

python benchmarks/gpu_kernels.py                   # with this environment's Triton
python benchmarks/gpu_kernels.py --beside FOLDER   # and with the one that is there, which pip puts there by
                                                   # install --no-deps --target FOLDER triton==3.6.0
make gpu-kernels                                   # does that, and writes BENCHMARKS.md

Registers, spills, the width of loads and stores, and instructions an element are counted in the machine code of the
walk over whole blocks. What has been compiled before, from the same text, is kept.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "tests" / "golden" / "triton_gpu"
SOURCE = HERE.parent / "src" / "steprule"
HELPERS = SOURCE / "backends" / "triton_helpers.py"
FORMULAS = [
    SOURCE / "graph" / "chance.py",
    *(SOURCE / "plan" / f"{name}.py" for name in ("rounding", "float16", "minifloats")),
]
"""What Triton's spelling of is in the helpers."""
RECORD = HERE / "records" / "gpu-kernels.json"
COMMAND = "make gpu-kernels"
ARCHES = (80, 90, 100)
LAUNCHED = r"(?:begin|finish|finish_all|write_lines|(?:lines|pass|parts|end|total)_\d+)"
"""What kernels are called; other functions of a module are called by them."""
BITS = {"int8": 8, "uint8": 8, "int16": 16, "float16": 16, "bfloat16": 16}
"""Of an element in memory, if not 32."""


# The text ---------------------------------------------------------------------------------------------


def fingerprint(source: str) -> str:
    """Return the hash of all that decides what a kernel becomes: its text, helpers and formulas, the options."""
    bodies = _written(HELPERS, ast.FunctionDef)
    spelling = _written(HELPERS, ast.Assign)["_WORDS"]
    for path in FORMULAS:
        found = _written(path, ast.FunctionDef)
        bodies = {name: f"{body}  # {spelling}" for name, body in found.items()} | _written(path, ast.Assign) | bodies
    used, found = [source], dict[str, str]()
    while used:
        words = set(re.findall(r"\w+", used.pop()))
        new = {name: body for name, body in bodies.items() if name in words and name not in found}
        found |= new
        used += new.values()
    whole = "\n".join([source, *(found[name] for name in sorted(found)), json.dumps(options_of(source))])
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def _written(path: Path, kind: type[ast.FunctionDef | ast.Assign]) -> dict[str, str]:
    """Return the functions, or the constants, of a module by name."""
    found: dict[str, str] = {}
    for part in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(part, kind):
            names = (
                [part.name] if isinstance(part, ast.FunctionDef) else re.findall(r"\w+", ast.unparse(part.targets[0]))
            )
            found |= dict.fromkeys(names, ast.unparse(part))
    return found


def options_of(source: str, real: str = "float32") -> dict[str, Any]:
    """Return what the kernels of a module are compiled with."""
    from steprule.backends.triton_build import Build

    grouped, lined = ("blocks_of(" in source), ("row_count" in source)
    return Build().fitting(grouped).options(real, grouped=grouped, lined=lined)


def sources() -> dict[str, str]:
    """Return the golden kernels."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(GOLDEN.glob("*.py"))}


# Compilation ------------------------------------------------------------------------------------------


def compiled(function: Any, arch: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return what Triton makes of a kernel whose tables are given, by kind: "ptx", "cubin"."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from steprule.backends.triton_dialect import COUNTS, TABLES

    types = dict.fromkeys(TABLES, "*i64") | dict.fromkeys(("hyper", "host", "partial", "reduced", "total"), "*fp64")
    types |= {"counts": "*fp32", "found": "*fp32"} | dict.fromkeys(COUNTS, "i32")
    aligned = {(place,): [["tt.divisibility", 16]] for place in range(len(TABLES))}
    source = ASTSource(function, types, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options).asm


def kernels_of(source: str, name: str) -> dict[str, Any]:
    """Return the kernels of a module, by name."""
    import triton

    from steprule.backends.cache import execute

    module = execute(source, re.sub(r"\W", "_", name))
    return {
        own: part
        for own, part in module.items()
        if isinstance(part, triton.JITFunction) and re.fullmatch(LAUNCHED, own)
    }


def measured_all(source: str, name: str, arches: tuple[int, ...] = ARCHES) -> dict[str, Any]:
    """Return what each kernel of a module is in machine code, by GPU."""
    found: dict[str, Any] = {}
    for own, function in kernels_of(source, name).items():
        text = re.split(rf"\ndef {own}\(", source)[1].split("\n\n\n")[0]
        types = dict(re.findall(r"(\w+)_at = at\(.*?, tl\.(\w+)\)\n", text))
        moved = {}
        for word in ("read", "write"):
            arrays = re.findall(rf"\b{word}\((\w+)_(?:at|here)\b", text)
            moved[word] = [BITS.get(types[array], 32) for array in arrays]
        for arch in arches:
            cubin = compiled(function, arch, options_of(source))["cubin"]
            found.setdefault(own, {})[f"sm_{arch}"] = measured(cubin, moved["read"], moved["write"])
    return found


# Machine code -----------------------------------------------------------------------------------------


def _told(tool: str, *arguments: str) -> str:
    """Return what one of NVIDIA's tools says, which Triton brings."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def measured(cubin: bytes, arrays: list[int], written: list[int]) -> dict[str, Any]:
    """Count in machine code; of every array in `arrays`, so many bits are read an element, and of others `written`."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        used, text = _told("cuobjdump", "-res-usage", file.name), _told("cuobjdump", "-sass", file.name)
    lines = [
        (int(place, 16), done) for place, done in re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", text, re.MULTILINE)
    ]
    registers = re.search(r"REG:(\d+)", used)
    assert registers, used
    spills = sum(bool(re.search(r"\b(LDL|STL)\b", done)) for _, done in lines)
    return {"registers": int(registers[1]), "spills": spills, **walk(lines, arrays, written)}


def walk(lines: list[tuple[int, str]], arrays: list[int], written: list[int]) -> dict[str, Any]:
    """Count in the loop over whole blocks, which is the one that has the widest loads.

    Numbers of rows are read and written there, too: the least widths are not of them.
    """
    loops: list[list[str]] = []
    for place, done in lines:
        branch = re.search(r"\bBRA(?:\.U)?\b.*?(0x[0-9a-f]+)", done)
        if branch and int(branch[1], 16) < place:
            loops.append([own for at, own in lines if int(branch[1], 16) <= at <= place])
    if not (arrays and loops):
        return {}
    loop = max(loops, key=lambda own: (max(widths := [_width(one, "LDG") for one in own]), sum(widths), -len(own)))
    loads, stores = ([bits for own in loop if (bits := _width(own, kind))] for kind in ("LDG", "STG"))
    elements = sum(bits for bits in loads if bits == max(loads)) / sum(bits for bits in arrays if bits == max(arrays))
    least = [_least(widths, [bits * elements for bits in own]) for widths, own in ((loads, arrays), (stores, written))]
    return {"load": least[0], "store": least[1], "instructions": round(len(loop) / elements, 1)}


def _least(widths: list[int], moved: list[float]) -> int:
    """Return the least width of accesses that move so many bits of each array; what moves less than any is of none."""
    left, own = sum(moved), sorted(widths, reverse=True)
    while left > 0 and own:
        left -= (least := own.pop(0))
    return 0 if not moved else least if sum(own) < min(moved) else own[-1]


def _width(done: str, kind: str) -> int:
    """Return how many bits an instruction of a kind moves for a thread; 0 if it is of another."""
    found = re.search(rf"\b{kind}\.([\w.]+)", done)
    sizes = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}
    return next((bits for word, bits in sizes.items() if word in found[1].split(".")), 32) if found else 0


# The record -------------------------------------------------------------------------------------------


def read() -> dict[str, Any]:
    """Return the record, or an empty one."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {"command": COMMAND, "kernels": {}}


def write(record: dict[str, Any]) -> None:
    """Write the record, a line a kernel and version of Triton."""
    told = list[str]()
    for name, own in sorted(record["kernels"].items()):
        lines = (f"  {json.dumps(version)}: {json.dumps(own[version])}" for version in sorted(own))
        told.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
    whole = f'{{\n"command": {json.dumps(COMMAND)},\n"kernels": {{\n' + ",\n".join(told) + "\n}\n}\n"
    RECORD.write_text(whole, encoding="utf-8")


def bring_up_to_date() -> None:
    """Compile with the Triton of this process what its part of the record does not have."""
    import triton

    record, own = read(), sources()
    kept = {name: found for name, found in record["kernels"].items() if name in own}
    version = triton.__version__
    old = [name for name, source in own.items()
           if kept.get(name, {}).get(version, {}).get("source") != fingerprint(source)]  # fmt: skip
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for name, found in zip(old, pool.map(measured_all, [own[name] for name in old], old), strict=True):
            kept.setdefault(name, {})[version] = {"source": fingerprint(own[name]), "compiled": found}
            print(f"triton {version}: {name}", flush=True)
            write(record | {"kernels": kept})
    write(record | {"kernels": kept})


# BENCHMARKS.md ----------------------------------------------------------------------------------------


def section(record: dict[str, Any]) -> str:
    """Return the part of BENCHMARKS.md that the record is."""
    versions = sorted({version for own in record["kernels"].values() for version in own})
    rows, others = list[str](), list[dict[str, Any]]()
    for name, own in record["kernels"].items():
        for kernel in next(iter(own.values()))["compiled"]:
            by = {(v, arch): told for v in versions for arch, told in own[v]["compiled"][kernel].items()}
            if "load" in next(iter(by.values())):
                rows.append(_row(name, kernel, by, versions[-1]))
            else:
                others += by.values()
    most, spills = (max(told[what] for told in others) for what in ("registers", "spills"))
    arches = ", ".join(f"sm_{arch}" for arch in ARCHES)
    return f"""## GPU kernels as machine code

Every golden kernel, compiled for {arches} under Triton {" and ".join(versions)} without a GPU: nothing here was timed.
`{record["command"]}`

Registers are the most, widths the least of all that was compiled. Instructions an element are those of the loop over
whole blocks, under Triton {versions[-1]}; in them are the parts of division and root that only rare numbers need.

| kernel | pass | registers | spills | bits a load | bits a store | instructions an element ({arches}) |
|---|---|---:|---:|---:|---:|---:|
{chr(10).join(rows)}

The kernels that begin, end and finish passes, {len(others)} of them, have at most {most} registers and {spills} spills.
"""


def _row(name: str, kernel: str, by: dict[tuple[str, str], dict[str, Any]], newest: str) -> str:
    told = list(by.values())
    counts = ", ".join(f"{by[newest, f'sm_{arch}']['instructions']:g}" for arch in ARCHES)
    cells = [max(one["registers"] for one in told), max(one["spills"] for one in told),
             min(one["load"] for one in told), min(one["store"] for one in told) or "–", counts]  # fmt: skip
    return f"| {name} | {kernel} | " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Bring the record up to date, with every Triton that is named."""
    parser = argparse.ArgumentParser(description="Compile the golden GPU kernels that have changed.")
    parser.add_argument("--beside", metavar="FOLDER", action="append", default=[], help="where another Triton is")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.here:
        bring_up_to_date()
        return
    with tempfile.TemporaryDirectory() as folder:
        for place in ["", *asked.beside]:
            paths = os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH", "")]))
            new = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": folder, "PYTHONPATH": paths}
            subprocess.run([sys.executable, __file__, "--here"], env={**os.environ, **new}, check=True)


if __name__ == "__main__":
    main()
