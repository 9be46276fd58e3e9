"""Samples of a report: on the frames, or on a ground that shows nobody."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from camsdk.compress.footage import open_footage
from camsdk.compress.report.collect import SAMPLE_FRAMES, draw_samples, few_inputs
from support.clips import scene, write_video
from support.small_detector import small_detector


@pytest.mark.parametrize("has_stills", [True, False])
def test_samples_show_what_was_filmed_only_with_stills(tmp_path: Path, has_stills: bool) -> None:
    footage = open_footage(write_video(tmp_path / "yard.avi", scene(160, 96, 6)))
    draft = small_detector()
    samples = draw_samples(draft, draft, footage, range(6), has_stills=has_stills)
    assert len(samples) == SAMPLE_FRAMES
    for sample in samples:
        (frame,) = footage.read([sample.frame])
        drawn = cv2.imdecode(np.frombuffer(sample.before, np.uint8), 1)[..., ::-1]
        ground = frame.rgb if has_stills else np.full_like(frame.rgb, 93)
        is_ground = np.abs(drawn.astype(int) - ground).max(2) < 40
        assert np.mean(is_ground) > 0.2  # the rest are boxes and labels
        told = np.corrcoef(drawn[is_ground].ravel(), frame.rgb[is_ground].ravel())[0, 1]
        assert (told > 0.8) == has_stills


def test_names_that_cannot_be_drawn_get_a_number_and_a_legend(tmp_path: Path) -> None:
    footage = open_footage(write_video(tmp_path / "yard.avi", scene(160, 96, 6)))
    draft = small_detector()
    names = ("человек", "car")
    foreign = replace(draft, manifest=draft.manifest.model_copy(update={"classes": names}))
    numbers = ("class 0", "car")
    numbered = replace(draft, manifest=draft.manifest.model_copy(update={"classes": numbers}))
    (sample, *_), (plain, *_) = (
        draw_samples(of, of, footage, range(6)) for of in (foreign, numbered)
    )
    assert (sample.before, sample.after) == (plain.before, plain.after)
    assert sample.legend == {"class 0": "человек"}
    assert plain.legend == {}


def test_few_inputs_are_spread_over_all_frames(tmp_path: Path) -> None:
    footage = open_footage(write_video(tmp_path / "yard.avi", scene(160, 96, 31)))
    draft = small_detector()
    found = few_inputs(draft, footage, range(31), count=16)
    whole = few_inputs(draft, footage, range(31), count=31)
    places = [next(i for i, of in enumerate(whole) if np.array_equal(of, one)) for one in found]
    assert len(places) == 16
    assert np.ptp(np.diff([*places, 31])) <= 1
