"""Kernels of rows and columns, as source: tiles of every form against the interpreter, to the last bits of sums."""

from __future__ import annotations

import numpy as np
import pytest

import steprule as sr
from steprule.graph.evaluate import evaluate
from steprule.plan.lines import cuts, strips, tiles
from steprule.plan.schedule import schedule
from strategies import Problem, run

pytestmark = [pytest.mark.null, pytest.mark.usefixtures("small_chunks")]

SHAPES = [(50, 3), (2, 3, 11), (40,), (), (1, 40), (17, 1), (3, 0), (0, 3), (16, 2), (35, 5)]
"""In tiles of 16 rows by 2 columns: several bands and pieces, the last of them short or not, and none."""


@sr.rule
def everything(theta, g, r=sr.slot(rank="row"), c=sr.slot(rank="column"), k=sr.slot(rank="tensor"), *, lr=0.1):
    rows, columns = sr.sum(g, axis=1), sr.max(g, axis=0)
    norms, means = sr.norm(theta, axis=0), sr.mean(theta * g, axis=1)
    k = k + sr.mean(rows) + sr.norm(norms) + sr.numel(g) / (1 + sr.rows(g)) + sr.global_sum(sr.norm(theta, axis=1))
    new = theta - lr * (g * rows + means * columns + norms + k)
    return new, r + means + sr.mean(new - theta, axis=1), c * k + norms + sr.max(new, axis=0), k


def test_every_tile_gives_its_rows_and_columns_what_the_interpreter_does() -> None:
    rng = np.random.default_rng(0)
    graph = everything.graph
    arrays = [{name: rng.normal(size=rank.shape(shape)) for name, rank in graph.ranks.items()} for shape in SHAPES]
    arrays[0]["g"][-1, -1] = 100.0  # the last element, and one before a border, are the greatest of theirs
    arrays[0]["g"][15, 1] = 90.0
    arrays[9]["g"][34, 0] = np.nan
    numbers = [{"lr": 0.1 * (1 + index % 2), "t": 3.0} for index in range(len(SHAPES))]
    expected = evaluate(graph, arrays, numbers)
    for kind in ("plain", "eager"):
        found = run(schedule(graph), Problem(arrays, numbers), kind)
        for shape, own, truth in zip(SHAPES, found, expected, strict=True):
            for name, value in own.items():
                np.testing.assert_allclose(value, truth[name], rtol=1e-12, atol=1e-12, err_msg=f"{kind} {name} {shape}")


def test_tiles_are_all_of_each_matrix_once_whatever_its_form() -> None:
    small = [(50, 3), (1, 40), (40, 1), (3, 0), (0, 3), (1, 1)]
    large = [(7, 50_000), (50_000, 7), (50, 8193), (20, 8192)]
    for length, wide, views in (
        (8, 0, small),
        (32_768, 0, small + large),
        (32, 2, small),
        (16_384, 256, small + large),
    ):
        width, lines, pieces, bands = cuts(views, length, wide)
        found = tiles(views, length, wide)
        for index, (rows, columns) in enumerate(views):
            seen = np.zeros((rows, columns), dtype=np.int8)
            own = found[found[:, 0] == index]
            assert len(own) == pieces[index] * bands[index]
            for _, start, count, across, band, piece in own:
                line, column = divmod(start, columns)
                assert (line, column) == (band * lines[index], piece * width[index])
                seen[line : line + count // across, column : column + across] += 1
            assert (seen == 1).all()
            assert bands[index] <= -(-rows // 16), "a band has 16 rows: it keeps a number a column"
            assert not wide or (own[:, 3] <= wide).all()


def test_strips_are_every_row_and_column_once() -> None:
    views = [(50, 3), (0, 9), (3, 0), (0, 0), (8, 1)]
    found = strips(views, 4)
    assert (found[:, 2] > 0).all()
    assert (found[:, 2] <= 4).all()
    for index, counts in enumerate(views):
        for axis, count in enumerate(counts):
            own = found[(found[:, 0] == index) & (found[:, 3] == axis)]
            assert [line for _, start, size, _ in own for line in range(start, start + size)] == list(range(count))
