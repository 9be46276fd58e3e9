"""The report: everything in one page, nothing in it that was not measured, no markup from names."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from camsdk.compress.engines import NOT_INSTALLED, Timing
from camsdk.compress.graph.equivalence import Equivalence
from camsdk.compress.graph.layers import Macs
from camsdk.compress.graph.optimise import Cost, Report
from camsdk.compress.report import drawing
from camsdk.compress.report.facts import (
    HISTOGRAM_BINS,
    LayerFacts,
    RunFacts,
    Sample,
    histogram,
)
from camsdk.compress.report.page import to_html
from camsdk.vision.frames import Frame
from camsdk.vision.results import Detections

TIMINGS = (
    Timing("onnxruntime", "float", "1.0", 9.0, 8.5, 9.5, 15),
    Timing("onnxruntime", "compressed", "1.0", 3.0, 2.9, 3.1, 15),
    Timing("OpenVINO", "float", reason=NOT_INSTALLED),
    Timing("OpenVINO", "compressed", reason=NOT_INSTALLED),
    Timing("MNN", "float", reason="MNN cannot convert <it>"),
)


def layer(name: str = "stem", **changes: object) -> LayerFacts:
    weights = np.random.default_rng(0).normal(0, 0.1, (8, 3, 3, 3))
    base = LayerFacts(
        name, "Conv", (8, 3, 3, 3), 3, 8, 0.9, 1000, 100, 0.05, 1e-4, None,
        histogram(weights), histogram(np.sign(weights)),
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def facts(**changes: object) -> RunFacts:
    base = RunFacts(
        "net:1", "net:2", {"bits": "3"}, (layer(), layer("head", bit_width=None, sparsity=0.1)),
        {"float model": 4000, "model packed": 80, "artifact, unsigned": 100},
        {"ap50_all": 0.98}, TIMINGS,
        {"quantize": 1.5}, 1 << 28,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


class Page(HTMLParser):
    """Collects text and what a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]


def grey_frame() -> Frame:
    half = np.full((60, 80), 128, np.uint8)
    return Frame(7, 0.0, np.full((120, 160), 90, np.uint8), half, half)


def test_the_page_needs_no_other_file_and_says_the_figures() -> None:
    found = Detections(
        np.array([[20, 30, 60, 100]], np.float32), np.array([0.9], np.float32), np.array([0])
    )
    jpeg = drawing.boxed(grey_frame(), found, ("person",))
    page = Page(to_html(facts(samples=(Sample(7, jpeg, jpeg),))))
    text = " ".join(page.words)
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.fetched)
    assert len(page.fetched) == 2
    assert "script" not in page.tags
    assert "40.0 x" in text
    assert "0.9800" in text
    assert "frame 7" in text


def test_names_are_no_markup() -> None:
    evil = '<script>alert("x")</script>'
    page = to_html(facts(source=evil, layers=(layer(evil),), accuracy={evil: 0.5}))
    assert "<script" not in page
    assert Page(page).tags.count("script") == 0


def test_names_that_cannot_be_drawn_stand_below_the_pictures() -> None:
    jpeg = drawing.boxed(grey_frame(), Detections.empty(), ())
    samples = tuple(
        Sample(index, jpeg, jpeg, {"class 3": "男<b>", f"class {index}": "車"}) for index in (7, 8)
    )
    page = to_html(facts(samples=samples))
    assert '<p class="soft">class 3: 男&lt;b&gt;; class 7: 車; class 8: 車</p></section>' in page
    assert "class 3" not in to_html(facts(samples=(Sample(7, jpeg, jpeg),)))


def test_what_was_not_measured_is_absent() -> None:
    bare = facts(accuracy={}, layers=(layer(noise_to_signal=None),), latency=())
    text = " ".join(Page(to_html(bare)).words)
    assert "Without frames to evaluate on nothing was compared" in text
    assert "CPU time" not in text
    assert "faster" not in text
    assert "sensitivity" not in text.lower()
    assert "noise to signal" not in text.lower()
    assert "nan" not in text
    assert json.loads(bare.to_json())["layers"][0]["noise_to_signal"] is None


def test_zeros_are_a_headline_only_of_what_was_pruned() -> None:
    zeros = "<span>of the weights are zero</span>"
    plain = to_html(facts(options={"weight_bits": "3", "sparsity": "0"}))
    assert zeros not in plain
    assert "Nothing was pruned" in plain
    assert "<th>weights that are zero</th>" in plain
    pruned = to_html(facts(options={"sparsity": "0.5"}))
    assert zeros in pruned
    assert "Nothing was pruned" not in pruned
    assert zeros not in to_html(facts(options={"sparsity": "0.5", "granularity": "filter"}))


def test_seven_bits_say_why() -> None:
    assert "x86" in to_html(facts(options={"weight_bits": "7"}))
    assert "x86" not in to_html(facts(options={"weight_bits": "4"}))


def test_times_of_a_run_that_went_on_are_not_called_the_whole() -> None:
    spent = {"quantize": 0.2, "emit": 1.0}
    told = " ".join(Page(to_html(facts(duration_s=spent, resumed=("quantize",)))).words)
    assert "quantize, without what an earlier attempt had done" in told
    assert "emit, without" not in told
    assert "all, without what an earlier attempt had done" in told
    assert "earlier attempt" not in to_html(facts(duration_s=spent))


def test_data_in_which_nothing_is_found_is_not_called_no_data() -> None:
    text = " ".join(Page(to_html(facts(accuracy={}, compared={"frames": 3, "boxes": 0}))).words)
    assert "The float model found nothing on the held-out frames" in text
    assert "Without frames" not in text
    assert "3 frames, 7 boxes compared" in to_html(facts(compared={"frames": 3, "boxes": 7}))


def test_figures_of_the_choice_are_not_taken_for_those_of_held_out_frames() -> None:
    choice = {"AP50, rounding": 0.5125, "AP50, training": 0.6125}
    counts = {"frames": 3, "boxes": 0}
    nothing = to_html(facts(accuracy={}, compared=counts, accuracy_of_choice=choice))
    text = " ".join(Page(nothing).words)
    assert "The float model found nothing on the held-out frames: nothing was compared." in text
    for said in ("On the frames to choose by", "0.5125", "0.6125"):
        assert said in text
    assert "3 frames" not in text
    assert "<b>0.512" not in nothing  # no headline
    both = " ".join(Page(to_html(facts(compared=counts, accuracy_of_choice=choice))).words)
    assert both.index("0.9800") < both.index("3 frames") < both.index("0.5125")


def test_engines_are_listed_with_figures_or_the_reason() -> None:
    page = to_html(facts())
    text = " ".join(Page(page).words)
    assert "9.00" in text
    assert "[2.90, 3.10]" in text
    assert "3.0 x" in text  # 9 ms to 3 ms
    assert "Not installed: OpenVINO." in text
    assert "MNN cannot convert <it>" in text
    assert "<it>" not in page
    assert "Predicted" not in text
    with_forecast = " ".join(Page(to_html(facts(predicted_ms={"cpu-arm": 7.25}))).words)
    assert "Predicted milliseconds" in with_forecast
    assert "7.25" in with_forecast
    values = json.loads(facts().to_json())
    assert values["latency"][1]["median_ms"] == 3.0
    assert values["latency"][2]["reason"] == "not installed"


@pytest.mark.parametrize(("worst", "said"), [(0.0, "bit for bit"), (2e-6, "2.0e-06")])
def test_the_rewritten_graph_shows_before_and_after(worst: float, said: str) -> None:
    before = Cost({"Conv": 2, "Pad": 5}, Macs(3_000_000, 3_000_000), 10, 1234)
    after = Cost({"Conv": 2}, Macs(3_000_000, 3_000_000), 10, 1200)
    report = Report(before, after, Equivalence(worst, "y", 10))
    text = " ".join(Page(to_html(facts(optimised=report))).words)
    for figure in ("7", "2", "3.0 M", "1,234", "1,200", said):
        assert figure in text


def test_layers_are_compared_by_bars_and_the_most_sensitive_have_histograms() -> None:
    names = [f"net.block.{index}" for index in range(9)]
    some = tuple(
        layer(name, sensitivity=0.1 * (index % 7 + 1), noise_to_signal=0.5)
        for index, name in enumerate(names)
    )
    page = to_html(facts(layers=some, probe_inputs="4 frames"))
    table, histograms = page.split("Weights and their codes")
    assert 'style="width:100.0%"' in table  # the largest of 0.7
    assert "7.0e-01" in table
    assert "on 4 frames" in table
    assert "All names begin with net.block." in table
    shown = re.findall(r"<h3>(\d)</h3>", histograms)
    assert shown == ["6", "5", "4", "3", "2", "1"]
    assert histograms.count("<svg") == 12


def test_layers_that_were_not_reached_are_counted() -> None:
    some = (layer("a", sensitivity=0.1), layer("b"))
    assert "1 of 2 compressed layers were measured" in to_html(facts(layers=some))


def test_layers_that_could_not_be_measured_say_why() -> None:
    page = to_html(facts(unprobed="the model cannot be run: <op>"))
    assert "How sensitive layers are is not known: the model cannot be run: &lt;op&gt;" in page


def test_labels_lie_within_the_picture() -> None:
    corner = Detections(
        np.array([[140, 0, 160, 30]], np.float32), np.array([0.9], np.float32), np.array([0])
    )
    plain = np.full((120, 160, 3), 90, np.uint8)
    jpeg = drawing.boxed(grey_frame(), corner, ("person",))
    drawn = cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)
    touched = np.argwhere(np.abs(drawn.astype(int) - plain).max(2) > 60)
    assert touched[:, 1].min() < 120  # the label begins left of the box


def test_wide_frames_are_shrunk_with_their_boxes() -> None:
    half = np.full((60, 640), 128, np.uint8)
    frame = Frame(0, 0.0, np.full((120, 1280), 90, np.uint8), half, half)
    found = Detections(
        np.array([[1000, 40, 1200, 110]], np.float32), np.array([0.9], np.float32), np.array([0])
    )
    drawn = cv2.imdecode(np.frombuffer(drawing.boxed(frame, found, ("a",)), np.uint8), 1)
    assert drawn.shape == (60, 640, 3)
    changed = np.argwhere(np.abs(drawn.astype(int) - np.median(drawn)).max(2) > 60)
    assert np.abs(changed[:, 1].max() - 600) <= 3


def test_json_has_the_sums() -> None:
    values = json.loads(facts().to_json())
    assert values["macs"] == 2000
    assert values["nonzero_macs"] == 200
    assert values["sparsity"] == pytest.approx(0.5)
    assert "samples" not in values


def test_a_histogram_counts_everything_and_keeps_zero_apart() -> None:
    values = np.array([-2.0, 0.0, 0.0, 0.001, 2.0])
    made = histogram(values)
    assert sum(made.counts) == 5
    assert made.counts[HISTOGRAM_BINS // 2] == 3
    assert made.counts[0] == made.counts[-1] == 1
    assert sum(histogram(np.empty(0)).counts) == 0


def test_few_codes_have_a_bin_each() -> None:
    made = histogram(np.array([-3, 0, 0, 1, 2, 2, 2], np.int8))
    assert (made.low, made.high) == (-3.0, 3.0)
    assert made.counts == (1, 0, 0, 2, 1, 3, 0)
    assert len(histogram(np.array([-127, 1], np.int8)).counts) == HISTOGRAM_BINS


def test_boxes_are_drawn_where_they_are_and_doubtful_ones_not() -> None:
    box = np.array([[20, 30, 60, 100]], np.float32)
    sure, doubtful = (
        Detections(box, np.array([score], np.float32), np.array([0])) for score in (0.9, 0.1)
    )
    plain = cv2.imdecode(np.frombuffer(drawing.boxed(grey_frame(), doubtful, ("a",)), np.uint8), 1)
    drawn = cv2.imdecode(np.frombuffer(drawing.boxed(grey_frame(), sure, ("a",)), np.uint8), 1)
    changed = np.argwhere(np.abs(plain.astype(int) - drawn).max(2) > 40)
    assert plain.shape == (120, 160, 3)
    assert np.abs(changed[:, 1].min() - 20) <= 3
    assert np.abs(changed[:, 0].max() - 100) <= 3


def test_a_curve_ends_where_the_values_end() -> None:
    points = re.search(r'points="([^"]*)"', drawing.curve([2.0, 1.0, 0.0]))
    assert points is not None
    assert points[1].split()[0] == "0.0,0.0"
    assert points[1].split()[-1] == "480.0,120.0"
    assert drawing.curve([1.0]) == ""
