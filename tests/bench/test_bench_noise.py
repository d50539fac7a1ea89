"""What a busy machine or a wide spread leaves open is marked as noise wherever it is told, and nobody wins by it."""

import importlib.util
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from test_bench_measure import Clock

from steprule.bench import load, terminal
from steprule.bench.conduct import _waited
from steprule.bench.load import busy, warning, watch
from steprule.bench.measure import Effort, interleave
from steprule.bench.picture import picture
from steprule.bench.record import best_peer, losses, start_lines, summary, undecided
from steprule.bench.verdict import noise, number, ratio, share, vague

pytestmark = pytest.mark.null

ROOT = Path(__file__).parent.parent.parent
STILL = {"cores": 2, "threads": 2, "others": 0.1, "waited": 0.01}


def spread(median, low=None, high=None):
    return {"median": median, "p25": median if low is None else low, "p75": median if high is None else high}


def arm(times, against=None, rounds=9):
    told = {"microseconds": times, "rounds": rounds, "steps_per_round": 1, "deviation": 1e-8, "gigabytes_per_second": 1}
    return told if against is None else told | {"ratio": against}


def case(own, peer, against, rounds=9, seen=STILL, name="AdamW"):
    told = {"name": name, "suite": "large", "rule": "AdamW", "clip": "none", "workload": "GPT-2", "tensors": 3,
            "parameters": 300, "memory_bound": True, "device": "cpu", "threads": 2, "gradients": "swapped",
            "bytes_per_parameter": 28, "working_sets": 1, "seconds": 1.0}  # fmt: skip
    if seen:
        told["load"] = seen
    return told | {"arms": {"steprule": arm(own, rounds=rounds), "torch fused": arm(peer, against, rounds)}}


def document(*cases):
    machine = {"cpu": "made up", "capability": "none", "cores": 2, "threads": 2, "system": "Linux"}
    told = {"format": 3, "began": "2026-01-01T00:00", "command": "steprule bench", "complete": True, "start": None}
    return told | {"cases": list(cases), "machine": machine | {"torch": "2", "steprule": "1"}}


SIX_TO_THIRTEEN = spread(9000.0, 6000.0, 13000.0)
EXACT = spread(9000.0, 8900.0, 9100.0)
CASES = {  # case: what its ratio is printed as
    "a clear gain": (case(EXACT, spread(18000.0), spread(2.0, 1.95, 2.05)), "2.00"),
    "a clear loss": (case(EXACT, spread(4500.0), spread(0.5, 0.49, 0.51)), "0.50 ▼"),
    "unsteady times, far apart": (case(SIX_TO_THIRTEEN, spread(81000.0), spread(9.0, 6.2, 13.4)), "~9.0"),
    "our quartiles lie further apart than the steps": (case(SIX_TO_THIRTEEN, spread(13500.0), spread(1.5)), "?"),
    "the peer's quartiles do": (case(EXACT, SIX_TO_THIRTEEN, spread(0.7)), "?"),
    "the ratio's quartiles do": (case(EXACT, EXACT, spread(1.5, 1.1, 2.9)), "?"),
    "the quartiles hold 1": (case(EXACT, EXACT, spread(1.02, 0.98, 1.05)), "?"),
    "quartiles and median are on two sides of 1": (case(EXACT, EXACT, spread(0.99, 1.01, 1.02)), "?"),
    "one round": (case(spread(9.0), spread(90.0), spread(10.0), rounds=1), "?"),
    "others use the cores": (case(EXACT, spread(398250000.0), spread(44250.0), seen=STILL | {"others": 1.4}), "?"),
    "a step waits for a core": (case(EXACT, spread(810.0), spread(0.09), seen=STILL | {"waited": 0.4}), "?"),
    "a clear gain of an old record": (case(EXACT, spread(18000.0), spread(2.0, 1.95, 2.05), seen=None), "2.00"),
}  # fmt: skip
NOISE = [name for name, (_, told) in CASES.items() if told == "?"]


def printed(told):
    console = Console(file=io.StringIO(), width=250)
    terminal.show(console, told)
    return console.file.getvalue()


def page(tmp_path, told):
    spec = importlib.util.spec_from_file_location("benchmarks_report", ROOT / "benchmarks" / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "one.json").write_text(json.dumps(told), encoding="utf-8")
    return module.page(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_a_ratio_is_a_verdict_only_where_the_effect_exceeds_the_spread(name, tmp_path):
    """In the table and on the page; an old record is read by its spread alone."""
    told, expected = CASES[name]
    assert ratio(told, "torch fused") == expected
    assert (noise(told, "torch fused") is not None) == (expected == "?")
    whole = document(told)
    assert bool(losses(whole)) == ("▼" in expected)
    table, text = printed(whole), page(tmp_path, whole)
    row = next(line for line in table.splitlines() if line.startswith("AdamW")).rstrip()
    assert row.endswith(f" {expected}")
    line = next(line for line in text.splitlines() if line.startswith("| AdamW |"))
    assert line.endswith(f"| {'**0.50 ▼**' if '▼' in expected else expected} |")
    assert ("torch fused" in line) == ("torch fused" in row) == (busy(told.get("load")) is None)
    if expected == "?":
        assert "▼" not in row + line
        assert "tells nothing" in table
        assert "tells nothing: 1 because" in text
        assert "Nowhere here is a peer quicker" not in table + text


def test_the_picture_marks_noise_as_hollow_and_says_so():
    clear, vague_ = CASES["a clear gain"][0], CASES["others use the cores"][0]
    assert ">noise<" in picture(document(vague_))
    assert ">noise<" not in picture(document(clear))
    assert vague(vague_, "steprule")
    assert vague(vague_, "torch fused")
    assert not vague(CASES["the quartiles hold 1"][0], "steprule")


def test_noise_is_counted_by_its_reason():
    whole = document(*(CASES[name][0] for name in NOISE), CASES["a clear loss"][0])
    counted = undecided(whole)
    assert sum(counted.values()) == len(NOISE)
    assert counted["the machine was busy"] == 2
    told = summary(whole)
    assert "2 because the machine was busy" in told
    assert told.endswith("Where a peer is quicker (1):")
    assert summary(document(CASES["one round"][0])).endswith("Nothing here tells who is quicker.")
    assert summary(document(CASES["a clear gain"][0])) == "Nowhere here is a peer quicker."
    assert best_peer(CASES["others use the cores"][0]) == "torch fused"


def test_shares_of_our_time_are_noise_on_a_busy_machine():
    for seen, told in ((STILL, "50 %"), (STILL | {"others": 2.0}, "?")):
        assert share(case(EXACT, spread(4500.0), spread(0.5), seen=seen), "torch fused") == told
    assert share(case(SIX_TO_THIRTEEN, spread(4500.0), spread(0.5, 0.3, 0.7)), "torch fused") == "~50 %"


def test_rough_ratios_have_no_digits_that_nobody_knows():
    assert [number(value, exact=False) for value in (44250.0, 12.3, 9.04, 0.091)] == ["~44000", "~12", "~9.0", "~0.091"]
    assert [number(value) for value in (12.3, 1.234, 0.9996)] == ["12", "1.23", "1.000"]


# The load ---------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a made-up machine with two cores of four, its clock, its /proc/stat and its load average."""
    own = SimpleNamespace(clock=Clock(monkeypatch), ticks=[0, 0, 0, 0], worked=0.0, average=0.0, stat=tmp_path / "stat")

    def write():
        rows = [f"cpu{core} {ticks} 0 0 {10**6} 5 0 0 0 7 7" for core, ticks in enumerate(own.ticks)]
        own.stat.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *rows, "intr 3 4"]), encoding="utf-8")

    def passes(seconds, *ticks, worked=0.0):
        own.clock.now += seconds
        own.worked += worked
        own.ticks = [before + 100 * now for before, now in zip(own.ticks, ticks, strict=True)]
        write()

    own.passes = passes
    monkeypatch.setattr(load, "STAT", own.stat)
    monkeypatch.setattr(load.os, "sysconf", lambda _: 100)
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(load.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(load.os, "getloadavg", lambda: (own.average, 0.0, 0.0), raising=False)
    monkeypatch.setattr(load, "_ours", lambda: own.worked)
    write()
    return own


def test_others_are_what_worked_on_our_cores_besides_us(machine):
    end = watch(2)
    machine.passes(10.0, 9, 9, 10, 10, worked=18.0)  # two cores are not ours to use
    told = end(0.02).facts()
    assert told == {"cores": 2, "threads": 2, "others": 0.0, "waited": 0.02}
    assert busy(told) is None
    end = watch(2)
    machine.passes(10.0, 10, 10, 0, 0, worked=8.0)
    told = end().facts()
    assert told["others"] == 1.2
    assert busy(told) == "the machine was busy: others used 1.2 of 2 cores, and 2 were asked for"
    assert busy(told | {"threads": 1}) is None


def test_a_load_average_beyond_all_that_is_ours_counts_as_well(machine):
    machine.stat.unlink()  # a system that does not count
    machine.average = 5.9
    end = watch(2)
    machine.clock.now += 1.0
    assert end().others == 0.0
    assert warning() == "The machine is busy: 5.9 programs want its 4 cores. What is timed now is noise."
    machine.average = 8.0
    assert end().others == 2.0
    assert busy(end().facts())
    machine.average = 3.9
    assert warning() is None


def test_a_system_that_tells_nothing_is_believed_to_be_still(machine, monkeypatch):
    machine.stat.unlink()
    monkeypatch.delattr(load.os, "getloadavg")
    assert watch(2)(0.0).facts()["others"] == 0.0
    assert busy(None) is None


def test_a_step_that_waits_for_a_core_is_seen_by_its_processor_time(monkeypatch):
    clock, given = Clock(monkeypatch), [0.0]
    monkeypatch.setattr("steprule.bench.measure.time.thread_time", lambda: given[0] + 0.5 * clock.now)
    arms = [clock.arm("a", 0.5), clock.arm("optax", 0.5)]
    interleave(arms, Effort(1.0, rounds=3), pause=0.1)
    assert _waited(arms) == pytest.approx(0.5)  # pauses are nobody's, and optax waits for threads of its own
    assert arms[0].passed == pytest.approx(1.5)


def test_facts_of_fresh_processes_are_told_with_the_load(machine):
    from steprule.bench.start import collect

    found = {"tensors": 60, "parameters": 5}
    collect(found, "import_seconds", lambda: machine.passes(1.0, 2, 2, 0, 0) or {"median": 0.25})
    collect(found, "kernels_compiled_by", lambda: machine.passes(1.0, 0, 0, 0, 0) or {"another lr": 0})
    assert found["load"]["others"] == 4.0
    assert start_lines(found)[0].startswith("what follows is rough: the machine was busy: others used 4.0 of 2 cores")


def test_what_makes_our_steps_slower_is_told_with_the_numbers(tmp_path):
    whole = document(CASES["a clear gain"][0])
    assert "slower here" not in printed(whole) + page(tmp_path, whole)
    whole["machine"]["steps"] = {
        "checks": "slow",
        "reasons": {"checks": "torch 2.6 is older", "threads": "one is enough"},
    }
    told = "steprule is slower here than it could be: checking tensors (torch 2.6 is older)"
    assert told in printed(whole)
    assert f"{told}." in page(tmp_path, whole)
    assert "one is enough" not in printed(whole) + page(tmp_path, whole)
