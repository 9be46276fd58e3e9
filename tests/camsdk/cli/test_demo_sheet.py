"""The contact sheet shows what it is given."""

import numpy as np

from camsdk.cli.demo.sheet import BOX, CELL_WIDTH, LINE, ZONE, Cell, Overlay, draw_sheet

OVERLAY = Overlay({"gate": [(10, 100), (190, 100)]}, {"lawn": [(0, 0), (60, 0), (60, 60), (0, 60)]})


def has_color(picture, color, tolerance=3) -> bool:
    difference = np.abs(np.asarray(picture).astype(int) - color).max(axis=2)
    return bool((difference <= tolerance).any())


def draw(cells, stills):
    return draw_sheet(
        cells, title="t", figures=[("1", "one")], overlay=OVERLAY, frame_size=(200, 150),
        stills=stills,
    )  # fmt: skip


def test_a_plan_holds_rules_and_boxes_but_no_picture():
    cells = [Cell("in", 5, (80, 40, 120, 140), "person 1", "gate")]
    plan = draw(cells, {})
    for color in (LINE, BOX, ZONE):
        assert has_color(plan, color)
    still = np.full((150, 200, 3), (1, 250, 250), np.uint8)
    assert has_color(draw(cells, {5: still}), (1, 250, 250))
    assert not has_color(plan, (1, 250, 250))


def test_rows_grow_with_the_events():
    one = draw([Cell("a", 0, None, "", "")], {})
    four = draw([Cell("a", 0, None, "", "")] * 4, {})
    assert one.size[0] == four.size[0] > 3 * CELL_WIDTH
    assert four.size[1] > one.size[1] + CELL_WIDTH // 2


def test_an_empty_sheet_still_has_its_header():
    assert has_color(draw([], {}), LINE)
