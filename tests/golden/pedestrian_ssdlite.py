"""Makes pedestrian_ssdlite.npz: what TensorFlow computes of the published pedestrian detector.

With our Python, in tests/:  python -c "import numpy as np; from support.walkers import picture;
np.save('/tmp/picture.npy', picture())"; then with a Python that has TensorFlow 2.21
(``camsdk.compress.importers.environment`` makes one):

    python tests/golden/pedestrian_ssdlite.py /tmp/picture.npy PATH_OF_ASSET_pedestrian-ssdlite.pb

Holds the raw heads, before the non-maximum suppression, and the best boxes after it.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

HEADS = ("concat", "concat_1")
BOXES = ("detection_boxes", "detection_scores", "num_detections")


def main(picture_path: str, graph_path: str) -> None:
    """Runs the whole graph on the picture, loops and all."""
    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(Path(graph_path).read_bytes())
    names = HEADS + BOXES
    with tf.Graph().as_default():
        tf.import_graph_def(definition, name="")
        with tf.compat.v1.Session() as session:
            values = session.run(
                [f"{name}:0" for name in names],
                {"image_tensor:0": np.load(picture_path, allow_pickle=False)},
            )
    arrays = dict(zip(names, values, strict=True))
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)
    print({name: value.shape for name, value in arrays.items()}, arrays["detection_scores"][0, :5])


if __name__ == "__main__":
    main(*sys.argv[1:])
