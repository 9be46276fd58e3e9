"""The published detector, end to end: import, quantize, agree with float and be faster."""

from pathlib import Path

import pytest

from camagent.canary import run_canary
from camagent.runtimes.cpu import CpuRuntime
from camsdk import assets
from camsdk.artifact import bundle, keys
from camsdk.artifact.decode import decode
from camsdk.artifact.hardware import local_hardware
from camsdk.artifact.preprocess import make_input
from camsdk.compress import nanodet
from camsdk.compress.clips import read_frames
from camsdk.compress.library_int8 import Compressed, compress_int8
from camsdk.compress.packaging import Draft
from camsdk.errors import InvalidInput, NotFound, UnsupportedModel

GRAPH = b'{"modelTopology": {"node": []}, "weightsManifest": []}'


def test_classes_are_the_80_of_coco_and_outputs_pair_up() -> None:
    assert len(nanodet.COCO_CLASSES) == len(set(nanodet.COCO_CLASSES)) == 80
    assert nanodet.COCO_CLASSES[0] == "person"
    assert nanodet.COCO_CLASSES[7] == "truck"
    assert nanodet.COCO_CLASSES[79] == "toothbrush"
    assert nanodet.output_names()[:2] == ("logits_8", "distances_8")


def test_what_is_not_the_published_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_bytes(GRAPH)
    with pytest.raises(UnsupportedModel, match="not the published graph"):
        nanodet.import_onnx(tmp_path / "graph.json", tmp_path / "w")
    with pytest.raises(InvalidInput, match="multiples of 32"):
        nanodet.import_onnx(tmp_path / "graph.json", tmp_path / "w", size=(400, 300))
    with pytest.raises(NotFound):
        nanodet.import_onnx(tmp_path / "gone.json", tmp_path / "w")


@pytest.fixture(scope="module")
def exact() -> Draft:
    return nanodet.import_float(assets.pull("nanodet.json"), assets.pull("nanodet.bin"))


@pytest.fixture(scope="module")
def compressed(exact: Draft, vtest_path: Path) -> Compressed:
    return compress_int8(exact, vtest_path, name="nanodet-g", version=1)


@pytest.mark.slow
class TestOnTheClip:
    """Against vtest.avi."""

    def test_int8_agrees_with_float_and_is_faster(self, compressed: Compressed) -> None:
        agreement = compressed.agreement
        assert agreement.counts["boxes"] > 300
        assert agreement.values["ap50_person"] >= 0.97
        assert agreement.values["ap50_all"] >= 0.97
        assert agreement.speedup > 1.2
        assert compressed.draft.manifest.metrics["cpu_ms"] == agreement.candidate_ms

    def test_a_device_accepts_the_signed_artifact_and_its_canary(
        self, compressed: Compressed
    ) -> None:
        key = keys.generate_signing_key()
        data = bundle.pack(compressed.draft.manifest, compressed.draft.members, key)
        opened = bundle.open_bundle(data, [keys.public_bytes(key)], hardware=local_hardware())
        with CpuRuntime.start(opened.model) as runtime:
            run_canary(opened, runtime, deadline_s=10)

    def test_float_sees_the_walkers(self, exact: Draft, vtest_path: Path) -> None:
        """Six persons stand clear of each other in frame 300; places by looking at it."""
        centres = {(203, 197), (256, 192), (314, 195), (330, 254), (598, 198), (631, 199)}
        with CpuRuntime.start(exact.model) as runtime:
            (frame,) = read_frames(vtest_path, [300])
            outputs = runtime.infer(make_input(frame, exact.manifest.input))
        found = decode(outputs, exact.manifest, frame.width, frame.height)
        persons = found[(found.class_ids == 0) & (found.scores >= 0.6)]
        seen = {tuple(box) for box in persons.xyxy.tolist()}
        assert len(seen) == len(centres)
        for x, y in centres:
            assert any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in seen)

    def test_other_input_sizes_import_and_see_the_same(
        self, exact: Draft, vtest_path: Path
    ) -> None:
        square = nanodet.import_float(
            assets.pull("nanodet.json"), assets.pull("nanodet.bin"), size=(416, 416)
        )
        (frame,) = read_frames(vtest_path, [300])
        counts = []
        for draft in (exact, square):
            with CpuRuntime.start(draft.model) as runtime:
                outputs = runtime.infer(make_input(frame, draft.manifest.input))
            found = decode(outputs, draft.manifest, frame.width, frame.height)
            counts.append(int(((found.class_ids == 0) & (found.scores >= 0.6)).sum()))
        assert counts == [6, 6]

    def test_building_twice_gives_the_same_model(self, compressed: Compressed) -> None:
        steps: list[tuple[int, int]] = []
        manifest, members = nanodet.build(on_progress=lambda *step: steps.append(step))
        assert members == compressed.draft.members
        assert manifest.reference == "nanodet-g:1"
        assert manifest.lineage == compressed.draft.manifest.lineage
        assert steps[-1] == (74, 74)
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
