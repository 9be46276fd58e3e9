"""Classifiers and segmentation networks through the same commands as detectors."""

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import onnx
import pytest

from camsdk import assets
from camsdk.artifact.bundle import read_unverified
from camsdk.artifact.decode import class_logits
from camsdk.artifact.preprocess import make_input
from camsdk.compress.footage import choose_frames, open_footage
from camsdk.compress.packaging import Draft
from camsdk.compress.sessions import Session
from support.small_segmenter import CLASSES, SIZE, small_segmenter

if TYPE_CHECKING:
    from conftest import Camctl

GOLDEN = Path(__file__).parents[2] / "golden"
GARMENTS = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip


@pytest.fixture(scope="module")
def wardrobe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures of Fashion-MNIST's test set for each class, in a folder of its name."""
    folder = tmp_path_factory.mktemp("wardrobe")
    with gzip.open(assets.pull("fashion-mnist-t10k-images.gz")) as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(assets.pull("fashion-mnist-t10k-labels.gz")) as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    for class_id, name in enumerate(GARMENTS):
        (folder / name).mkdir()
        for number, index in enumerate(np.flatnonzero(labels == class_id)[:9]):
            cv2.imwrite(str(folder / name / f"{number}.png"), images[index])
    return folder


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("names") / "garments.txt"
    path.write_text("\n".join(GARMENTS), encoding="utf-8")
    return path


def write_scenes(folder: Path, count: int = 30) -> Path:
    """Bright and red blocks that move over a dark ground."""
    folder.mkdir()
    for index in range(count):
        picture = np.full((96, 128, 3), 30, np.uint8)
        left = 4 + index * 2
        picture[10:50, left : left + 30] = 220
        picture[55:90, 90 - index : 120 - index] = (20, 20, 220)  # BGR
        cv2.imwrite(str(folder / f"{index:02d}.png"), picture)
    return folder


def read(path: Path) -> Draft:
    contents = read_unverified(path.read_bytes())
    return Draft(contents.manifest, contents.members)


def answers(draft: Draft, folder: Path) -> list[np.ndarray]:
    session, footage = Session(draft.model), open_footage(folder)
    return [
        class_logits(session.infer(make_input(frame, draft.manifest.input)), draft.manifest)
        for frame in footage.read(range(len(footage)))
    ]


def test_a_grey_classifier_of_pytorch_is_compressed_with_labelled_pictures(
    camctl: "Camctl", tmp_path: Path, wardrobe: Path, names: Path
) -> None:
    source, small = tmp_path / "float.cam", tmp_path / "w4.cam"
    made = camctl(
        *("model", "import", GOLDEN / "pytorch_fashion.pt2", "--decoder", "class-scores"),
        *("--input", "image:1x1x28x28", "--classes", names, "-o", source),
    )
    assert made.code == 0, made.err
    draft = read(source)
    assert draft.manifest.kind == "classifier"
    assert draft.manifest.input.shape == (1, 3, 28, 28)
    data = ("--data", wardrobe, "--evaluation", 45)
    made = camctl(
        *("model", "compress", source, *data, "--calibration", 30, "--bits", 4, "--epochs", 0),
        *("-o", small, "--json"),
    )
    assert made.code == 0, made.err
    figures = made.json
    assert figures["labelled_frames"] == figures["frames"] == 45
    assert 0.75 < figures["reference_accuracy"] <= 1  # it was trained: 0.88 on the whole set
    assert figures["accuracy"] >= figures["reference_accuracy"] - 0.1
    assert 0.8 <= figures["top1"] <= 1
    assert 0 < figures["kl_millinats"] < 200
    manifest = read(small).manifest
    assert manifest.kind == "classifier"
    assert manifest.precision == "w4a8"
    assert manifest.metrics["top1_vs_reference"] == figures["top1"]
    assert manifest.metrics["accuracy"] == figures["accuracy"]
    page = small.with_suffix(".html").read_text()
    assert "same class as float" in page
    assert page.count("data:image/jpeg") == 6
    judged = camctl("model", "evaluate", small, "--against", source, *data, "--json").json
    assert judged["top1"] == figures["top1"]
    assert judged["kl_millinats"] == figures["kl_millinats"]
    assert judged["accuracy"] == figures["accuracy"]


def test_every_part_of_labelled_folders_holds_every_class(wardrobe: Path) -> None:
    footage, split = choose_frames(open_footage(wardrobe, GARMENTS))
    labels = footage.labels(GARMENTS)
    assert len(labels) == len(footage) == 90
    for part, least in ((split.calibration, 2), (split.choice, 1), (split.evaluation, 5)):
        counts = np.bincount([labels[index] for index in part], minlength=10)
        assert counts.min() == least
        assert counts.max() <= least + 1
    for index, file in enumerate(footage.files):
        assert file.parent.name == GARMENTS[labels[index]]
    assert open_footage(wardrobe).labels(GARMENTS) == {}


def segmenter(camctl: "Camctl", tmp_path: Path, **form: bool) -> Path:
    (tmp_path / "names.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    onnx.save(small_segmenter(**form), tmp_path / "net.onnx")
    out = tmp_path / f"{'-'.join(['float', *form])}.cam"
    made = camctl(
        *("model", "import", tmp_path / "net.onnx", "--decoder", "class-map", "--mean", 128),
        *("--std", 128, "--classes", tmp_path / "names.txt", "-o", out),
    )
    assert made.code == 0, made.err
    return out


def test_a_segmenter_is_compressed_and_its_map_kept(camctl: "Camctl", tmp_path: Path) -> None:
    data, source = write_scenes(tmp_path / "scenes"), segmenter(camctl, tmp_path)
    (first, *_) = answers(read(source), data)
    assert first.shape == (3, SIZE // 4, SIZE // 4)
    assert set(np.unique(first.argmax(0))) == {0, 1, 2}
    small = tmp_path / "int8.cam"
    made = camctl(
        *("model", "compress", source, "--data", data, "--calibration", 10, "--evaluation", 15),
        *("-o", small, "--json"),
    )
    assert made.code == 0, made.err
    figures = made.json
    assert figures["cells"] == 15 * (SIZE // 4) ** 2
    assert 0.9 < figures["mean_iou"] <= 1
    assert 0.97 < figures["equal_cells"] <= 1
    before, after = answers(read(source), data)[15:], answers(read(small), data)[15:]
    same = np.mean(
        [np.mean(a.argmax(0) == b.argmax(0)) for a, b in zip(before, after, strict=True)]
    )
    assert figures["equal_cells"] == pytest.approx(same)
    assert "mean IoU against float" in small.with_suffix(".html").read_text()


def test_a_softmax_is_taken_off_and_classes_are_moved_to_the_second_axis(
    camctl: "Camctl", tmp_path: Path
) -> None:
    data = write_scenes(tmp_path / "scenes", 2)
    plain = answers(read(segmenter(camctl, tmp_path)), data)
    for form in ({"is_softmax": True}, {"is_softmax": True, "is_classes_last": True}):
        draft = read(segmenter(camctl, tmp_path, **form))
        for wanted, given in zip(plain, answers(draft, data), strict=True):
            np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)


def test_outputs_that_are_no_classes_are_refused(
    camctl: "Camctl", tmp_path: Path, names: Path
) -> None:
    model = small_segmenter()
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    start = ("model", "import", path, "--classes", names, "--decoder")
    assert "has 3 or 16 classes, and 10 are named" in camctl(*start, "class-map").err
    assert "is no classifier's" in camctl(*start, "class-scores").err
    flat = small_segmenter()
    flat.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "all"))
    flat.graph.node.append(onnx.helper.make_node("Reshape", ["map", "all"], ["flat"], "flat"))
    flat.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, (3 * 16 * 16,))
    )
    onnx.save(flat, path)
    refused = camctl(*start, "class-scores")
    assert "shape (768,)" in refused.err
    assert "batch of one" in refused.err
    both = tmp_path / "both.yaml"
    both.write_text("output: {score_threshold: 0.5}\n", encoding="utf-8")
    assert "has no boxes" in camctl(*start, "class-map", "--description", both).err


def classifier(camctl: "Camctl", tmp_path: Path, names: str = "\n".join(CLASSES)) -> Path:
    """The segmenter's mean over the picture; three classes."""
    model = small_segmenter()
    model.graph.node.append(onnx.helper.make_node("GlobalAveragePool", ["map"], ["one"], "one"))
    model.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("one", onnx.TensorProto.FLOAT, (1, 3, 1, 1))
    )
    onnx.save(model, tmp_path / "one.onnx")
    (tmp_path / "of-one.txt").write_text(names, encoding="utf-8")
    out = tmp_path / "one.cam"
    made = camctl(
        *("model", "import", tmp_path / "one.onnx", "--decoder", "class-scores"),
        *("--classes", tmp_path / "of-one.txt", "-o", out),
    )
    assert made.code == 0, made.err
    return out


def test_names_of_classes_are_read_as_they_stand(camctl: "Camctl", tmp_path: Path) -> None:
    out = classifier(camctl, tmp_path, "\ufeffperson\r\nbicycle\r\non\r\n")
    assert read(out).manifest.classes == ("person", "bicycle", "on")
    described = tmp_path / "names.yaml"
    start = ("model", "import", tmp_path / "one.onnx", "--decoder", "class-scores")
    rest = ("--description", described, "-o", tmp_path / "of-yaml.cam")
    for unquoted in ("yes", "1", "2024-01-01"):
        described.write_text(f"classes: [person, {unquoted}, bicycle]\n", encoding="utf-8")
        refused = camctl(*start, *rest)
        assert refused.code != 0
        assert "line 1, classes[1] is no text" in refused.err
        assert "in quotes" in refused.err
    described.write_text('classes: ["yes", "no", "1"]\n', encoding="utf-8-sig")
    made = camctl(*start, *rest)
    assert made.code == 0, made.err
    assert read(tmp_path / "of-yaml.cam").manifest.classes == ("yes", "no", "1")


def test_a_folder_named_like_two_classes_is_told_of(camctl: "Camctl", tmp_path: Path) -> None:
    source = classifier(camctl, tmp_path, "crane\nheron\ncrane")
    (tmp_path / "birds").mkdir()
    for name in ("crane", "heron"):
        write_scenes(tmp_path / "birds" / name, 4)
    start = ("model", "evaluate", source, "--against", source, "--evaluation", 4, "--data")
    judged = camctl(*start, tmp_path / "birds")
    assert judged.code == 0, judged.err
    assert "pictures in crane have no label" in judged.err
    figures = camctl(*start, tmp_path / "birds", "--json").json
    assert figures["labelled_frames"] == 2  # the herons
    assert "no label" not in camctl(*start, tmp_path / "birds" / "heron", "--evaluation", 2).err


def test_kinds_do_not_compare(camctl: "Camctl", tmp_path: Path) -> None:
    data, source = write_scenes(tmp_path / "scenes", 4), segmenter(camctl, tmp_path)
    other = classifier(camctl, tmp_path)
    judged = camctl(
        *("model", "evaluate", other, "--against", source, "--data", data, "--evaluation", 2)
    )
    assert "a classifier does not compare with a segmenter" in judged.err
