"""Times: what a cell keeps, when a target counts as kept or a miss as explained, and what the page says of it."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conformance.bench import layers, results, sides, suites, tables
from conformance.bench.cell import VARIANTS, Cell, cells
from conformance.bench.phases import Clock
from conformance.bench.results import Run, Timed, Times
from conformance.bench.suites import Suite, Suites
from conformance.report import performance, performance_plots

CELL = Cell("lora", 1024, 1024, 64, 8, "float32", 1)
MACHINE = {"processor": "one", "torch threads": "1"}


def run(lite=1.2, peft=1.2, bare=1.0, products=0.1, passes=0.05, dispatch=0.05, noise=0.01, memory=0.9, **more):
    seconds = more | {
        "bare": bare,
        "again": bare,
        "lite": lite,
        "peft": peft,
        "products": products,
        "passes": passes,
        "dispatch": dispatch,
    }
    ratios = {"peft": lite / peft, "limit": lite / (bare + products)}
    three = {name: (value, value, value) for name, value in ratios.items()} | {"noise": (1.0, 1 - noise, 1 + noise / 2)}
    return Run(15, seconds, three, {"lite": int(1000 * memory), "peft": 1000, "bare": 500})


def timed(cell=CELL, *runs):
    return Timed(cell, MACHINE, runs or (run(),))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cell_is_measured_on_all_sides(variant):
    cell = next(cell for cell in cells([variant]) if cell.dtype == "float32")
    small = replace(cell, d_in=64, d_out=128, tokens=9, rank=min(cell.rank, 4))
    found = layers.measured(small, 3)
    assert found.rounds == 3
    assert {"bare", "again", "lite", "peft", "products", "passes", "dispatch"} <= found.seconds.keys()
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert {"bare", "lite", "peft"} <= found.bytes.keys()
    assert found.bytes["lite"] <= found.bytes["peft"]


class Multiplications(TorchDispatchMode):
    """Counts those of matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            left, right = args[-2:]
            self.count += left.shape[0] * left.shape[1] * right.shape[1]
        return function(*args, **(kwargs or {}))


def multiplications(step):
    with Multiplications() as counted:
        step()
    return counted.count


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_limit_holds_the_products_that_lite_makes_and_no_others(variant):
    cell = (
        Cell(variant, 256, 128, 48, 4, "float32", 1)
        if variant not in ("ia3", "ia3_ff", "road")
        else Cell(variant, 256, 128, 48, 0, "float32", 1)
    )
    made = sides.steps(cell)
    own = multiplications(made["lite"])
    # ‖s·b_i A‖, which is small; two solutions with a triangle, which are no products
    other = {"dora": cell.rank**2 * (cell.d_in + cell.d_out), "hra": -cell.tokens * cell.rank**2}.get(variant, 0)
    assert own - other == multiplications(made["bare"]) + multiplications(made["products"])
    assert multiplications(made["passes"]) == 0
    assert ("layouts" in made) == (variant in ("lora", "dora", "delora", "lora_xs"))
    assert "layouts" not in made or multiplications(made["layouts"]) == multiplications(made["products"])


def test_a_ratio_is_taken_turn_by_turn():
    turns = [{"bare": 1.0, "again": 1.1, "lite": 2.0, "peft": 4.0, "products": 0.0, "passes": 0.0, "dispatch": 0.0}] * 2
    turns += [{name: 10 * value for name, value in turns[0].items()}]
    found = results.run_of(turns, {})
    assert found.seconds["lite"] == 2.0
    assert found.ratios["peft"] == (0.5, 0.5, 0.5)
    assert found.ratios["noise"] == pytest.approx((1.1, 1.1, 1.1))
    assert found.ratios["limit"] == pytest.approx((2 / 1.05,) * 3)


def test_another_run_of_a_cell_is_added_and_another_machine_starts_anew(tmp_path, monkeypatch):
    assert not results.is_there(tmp_path, CELL)
    results.add(tmp_path, CELL, run(lite=1.0))
    results.add(tmp_path, CELL, run(lite=3.0))
    assert [one.seconds["lite"] for one in results.runs_of(tmp_path, CELL)] == [1.0, 3.0]
    monkeypatch.setattr(results.run_folder, "machine", lambda: {"processor": "another"})
    results.add(tmp_path, CELL, run(lite=5.0))
    assert [one.seconds["lite"] for one in results.runs_of(tmp_path, CELL)] == [5.0]


def test_a_run_that_was_too_slow_takes_nothing_away(tmp_path):
    results.add(tmp_path, CELL, run())
    results.add(tmp_path, CELL, None)
    assert results.runs_of(tmp_path, CELL) == (run(),)


def test_what_was_measured_is_not_measured_again_unless_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(layers, "cells", lambda variants: [CELL, replace(CELL, tokens=512)])
    monkeypatch.setattr(layers, "measured", lambda cell, rounds: run(bare=0.1))
    results.add(tmp_path, CELL, run(bare=0.1))
    layers.report(tmp_path, 15)
    assert [len(one.runs) for one in results.read_run(tmp_path)] == [1, 1]
    layers.report(tmp_path, 15, again=True)
    assert [len(one.runs) for one in results.read_run(tmp_path)] == [2, 2]


def test_the_largest_layers_are_left_out_where_peft_is_slow(tmp_path, monkeypatch, capsys):
    large, half = replace(CELL, d_in=4096, d_out=4096), replace(CELL, d_in=2048, d_out=2048)
    monkeypatch.setattr(layers, "cells", lambda variants: [half, large])
    monkeypatch.setattr(layers, "measured", lambda cell, rounds: run(bare=0.1, peft=0.3))
    layers.report(tmp_path, 15)
    assert [(one.cell, len(one.runs)) for one in results.read_run(tmp_path)] == [(half, 1), (large, 0)]


@pytest.mark.parametrize(
    ("smaller", "one", "there"),
    [
        ({"tokens": 64, "d_in": 512, "d_out": 512}, {"bare": 0.03}, True),
        ({"tokens": 64, "d_in": 512, "d_out": 512}, {"bare": 0.033}, False),  # 4 × as large, 8 × as many tokens: beyond a second
        ({"rank": 4}, {"peft": 4.9}, True),
        ({"rank": 4}, {"peft": 5.1}, False),  # beyond ten
        ({"d_in": 512}, {"peft": 4.9}, True),
        ({"d_in": 512}, {"peft": 5.1}, False),
        ({"d_in": 2048}, {"peft": 100.0}, True),  # a larger one tells nothing,
        ({"threads": 2}, {"peft": 100.0}, True),  # nor does one of another kind
        ({"dtype": "bfloat16"}, {"peft": 100.0}, True),
    ],
)
def test_a_cell_is_left_out_where_a_smaller_one_says_that_it_will_be_slow(tmp_path, monkeypatch, capsys, smaller, one, there):
    cell = replace(CELL, tokens=512)
    known = replace(cell, **smaller)
    monkeypatch.setattr(layers, "cells", lambda variants: [known, cell])
    monkeypatch.setattr(layers, "measured", lambda cell, rounds: run())
    results.add(tmp_path, known, run(**{"bare": 0.1} | one))
    layers.report(tmp_path, 15)
    assert bool(results.runs_of(tmp_path, cell)) == there
    assert results.is_there(tmp_path, cell)


def test_what_was_left_out_stays_so_and_all_that_is_larger_too(tmp_path, monkeypatch, capsys):
    other = replace(CELL, tokens=512, rank=64)
    monkeypatch.setattr(layers, "cells", lambda variants: [CELL, other])
    monkeypatch.setattr(layers, "measured", lambda cell, rounds: run())
    results.add(tmp_path, CELL, None)
    layers.report(tmp_path, 15, again=True)
    assert [one.runs for one in results.read_run(tmp_path)] == [(), ()]


@pytest.mark.parametrize(
    ("cell", "bare", "peft", "slow"),
    [
        (CELL, 1.0, 10.0, False),
        (CELL, 1.1, 1.2, True),
        (CELL, 0.1, 10.1, True),
        (replace(CELL, d_in=4096, d_out=4096), 0.5, 1.0, False),
        (replace(CELL, d_in=4096, d_out=4096), 0.5, 1.1, True),
    ],
)
def test_a_cell_that_turns_out_to_be_slow_is_left_out(monkeypatch, cell, bare, peft, slow):
    tiny = replace(cell, d_in=8, d_out=8)
    made = sides.steps(tiny)
    seconds = dict.fromkeys(made, 0.1) | {"bare": bare, "peft": peft}
    monkeypatch.setattr(layers.sides, "steps", lambda cell: made)
    monkeypatch.setattr(layers, "_round", lambda *_: seconds | {"dispatch": 0.0})
    found = layers.measured(cell, 15)
    assert found is None if slow else found.rounds == (5 if 15 * sum(seconds.values()) > 5 else 15)


def test_a_damaged_file_is_told(tmp_path):
    results.add(tmp_path, CELL, run())
    path = next((tmp_path / results.CELLS).iterdir())
    path.write_text("{")
    with pytest.raises(ValueError, match=rf"{path.name} is damaged .* delete it"):
        results.read_run(tmp_path)


@pytest.mark.parametrize(
    ("variant", "one", "kept", "explained"),
    [
        ("lora", run(lite=1.0), True, False),
        ("lora", run(lite=1.205, noise=0.01), True, False),
        ("lora", run(lite=1.23, noise=0.01), False, False),
        ("lora", run(lite=1.3, noise=0.9), False, False),  # noise excuses 5 %, not more
        ("hra", run(lite=0.14, peft=1.0, bare=0.1, products=0.02), True, False),
        ("hra", run(lite=0.16, peft=1.0, bare=0.1, products=0.02, passes=0.01, dispatch=0.01), False, False),
        ("hra", run(lite=0.16, peft=1.0, bare=0.1, products=0.02, passes=0.01, dispatch=0.03), False, True),
        ("hra", run(lite=0.19, peft=1.0, bare=0.14, products=0.02, passes=0.0, dispatch=0.0), False, True),
        ("dora", run(lite=0.7, peft=1.0, bare=0.5, products=0.2), False, True),
        ("dora", run(lite=0.7, peft=1.0, bare=0.4, products=0.05, passes=0.02, dispatch=0.02), False, False),
        ("dora", run(lite=0.7, peft=1.0, bare=0.4, products=0.05, passes=0.02, dispatch=0.02, layouts=0.2), False, True),
        ("dora", run(lite=0.59, peft=1.0, bare=0.5, products=0.2), True, False),
    ],
)
def test_a_target_beside_peft(variant, one, kept, explained):
    share = tables.beside_peft(variant, [timed(replace(CELL, variant=variant), one)])
    assert (share.reached, share.explained, share.cells) == (int(kept), int(explained), 1)


@pytest.mark.parametrize(
    ("one", "kept", "explained"),
    [
        (run(lite=1.26), True, False),
        (run(lite=1.3, passes=0.05), False, True),
        (run(lite=1.3, passes=0.0, dispatch=0.01), False, False),
        (run(lite=1.3, passes=0.0, dispatch=0.05), False, True),
        (run(lite=1.3, passes=0.0, dispatch=0.0, layouts=0.12), False, False),
        (run(lite=1.3, passes=0.0, dispatch=0.0, layouts=0.15), False, True),
        (run(lite=1.3, passes=0.0, dispatch=0.05, layouts=0.01), False, True),  # no credit for being faster
    ],
)
def test_a_target_beside_the_limit(one, kept, explained):
    narrow = timed(replace(CELL, d_in=512), run(lite=9.0))
    share = tables.beside_limit([timed(CELL, one), narrow])
    assert (share.reached, share.explained, share.cells) == (int(kept), int(explained), 1)


def test_runs_that_differ_are_noise():
    three = timed(CELL, *(run(lite=lite, peft=1.0) for lite in (1.0, 1.03, 1.07)))
    assert tables.noise(three) == pytest.approx(0.035)
    assert tables.beside_peft("lora", [three]).reached == 1
    assert tables.beside_peft("lora", [timed(CELL, *(run(lite=lite, peft=1.0) for lite in (1.02, 1.03, 1.04)))]).reached == 0


def test_memory_has_no_excuse():
    share = tables.beside_memory([timed(CELL, run(memory=1.01)), timed(CELL, run(memory=1.0))])
    assert (share.reached, share.explained, share.cells) == (1, 0, 2)
    assert share.value == pytest.approx(1.01)


def test_exponents_are_slopes_over_square_layers_and_over_ranks():
    def at(d, rank, dtype="float32"):
        return timed(replace(CELL, d_in=d, d_out=d, rank=rank, dtype=dtype), run(lite=1e-6 * d**2 * rank**0.5))

    own = [at(d, rank, dtype) for d in (512, 1024, 2048) for rank in (8, 64) for dtype in ("float32", "bfloat16")]
    found = tables.exponents([*own, timed(replace(CELL, d_out=4096), run(lite=1e9))], "lite")
    assert found == {"d": pytest.approx(2.0), "r": pytest.approx(0.5)}
    assert tables.exponents([timed()], "lite") == {}


SUITE = Suites(
    MACHINE,
    {
        suites.DELORA: Suite(10.0, 900.0, dict.fromkeys(suites.PHASES, 1.0) | {"imports": 5.0}),
        suites.ALL: Suite(90.0, 900.0, {}),
        suites.SPREAD: Suite(50.0, 900.0, {}),
    },
)


def test_what_is_neither_imports_nor_layers_is_overhead():
    assert SUITE.by_command[suites.DELORA].overhead == pytest.approx(0.3)
    assert SUITE.efficiency == pytest.approx(0.9)


def test_suites_come_back_from_their_file(tmp_path):
    assert suites.read(tmp_path) is None
    (tmp_path / suites.FILE).write_text(json.dumps(suites.to_dict(SUITE)))
    assert suites.read(tmp_path) == SUITE
    (tmp_path / suites.FILE).write_text("[]")
    with pytest.raises(ValueError, match=r"suites\.json is damaged"):
        suites.read(tmp_path)


def test_the_page_says_what_was_missed_and_why():
    slow = timed(replace(CELL, tokens=512), run(lite=1.3, peft=1.0, memory=1.5))
    text = performance.page(Times((timed(), slow, Timed(replace(CELL, d_in=4096, d_out=4096), MACHINE, ())), SUITE))
    assert "| lora | 2 | 1 |" in text
    assert (
        "**lora**, peft's time: missed in 1 of 2 cells, 0 of them explained; farthest at 1024 → 1024, 512 tokens, r = 8, float32, 1 thread with 1.30"
        in text
    )
    assert "**lora**, 1.15 of the limit: missed in 1 of 2 cells, 1 of them explained" in text
    assert "**lora**, peft's memory: missed in 1 of 2 cells" in text
    assert "lora, float32: 1 cells, from 4096 → 4096, 64 tokens, r = 8\n" in text
    assert "times as long in bfloat16" not in text
    assert "Two processes reach 90% of twice the speed" in text
    assert "Made with processor one, torch threads 1." in text
    assert performance.page(Times((), SUITE)) == ""
    both = performance.page(Times((timed(), timed(replace(CELL, dtype="bfloat16"), run(bare=20.0))), None))
    assert "The bare layer takes 20.0 times as long in bfloat16 as in float32 here" in both


def test_plots_are_the_same_every_time():
    found = (timed(), timed(replace(CELL, d_in=2048, d_out=2048)), timed(replace(CELL, variant="hra", dtype="bfloat16")))
    first, second = performance_plots.plots(found), performance_plots.plots(found)
    assert first == second
    assert sorted(first) == ["performance-growth.svg", "performance-memory.svg", "performance-ratio.svg"]
    assert performance_plots.plots(()) == {}


def test_a_run_replaces_what_is_committed_only_if_the_whole_grid_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "cells", lambda: [CELL, replace(CELL, tokens=512)])
    committed = Times((timed(CELL, run(lite=12.0, products=0.2)),), SUITE)  # no ratio has more than four digits
    reports, folder = tmp_path / "reports", tmp_path / "run" / results.FOLDER
    reports.mkdir()
    (reports / results.FILE).write_text(results.to_json(committed))
    assert results.read(reports) == committed
    results.add(folder, CELL, run(lite=1.0))
    assert results.current(tmp_path / "run", reports) == committed
    results.add(folder, replace(CELL, tokens=512), None)
    found = results.current(tmp_path / "run", reports)
    assert [one.cell.tokens for one in found.cells] == [64, 512]
    assert found.suites == SUITE
    assert results.current(None, reports) == committed
    (reports / results.FILE).write_text("{}")
    with pytest.raises(ValueError, match=r"performance\.json is damaged"):
        results.read(reports)


def test_time_within_another_phase_counts_for_itself(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("conformance.bench.phases.time.perf_counter", lambda: float(next(now)))
    clock = Clock()
    inner = clock.timed("running", lambda: None)
    outer = clock.timed("comparing", lambda: (inner(), inner()))
    outer()
    clock.switch()
    assert clock.seconds == {"pytest": 2.0, "comparing": 3.0, "running": 2.0}


def test_a_function_that_raises_ends_its_phase():
    clock = Clock()
    with pytest.raises(ZeroDivisionError):
        clock.timed("running", lambda: 1 / 0)()
    assert clock.stack == ["pytest"]


def test_the_gpu_is_left_out_where_there_is_none():
    assert torch.cuda.is_available() or {cell.device for cell in cells()} == {"cpu"}
