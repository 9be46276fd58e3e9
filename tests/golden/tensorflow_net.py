"""Makes tensorflow_net.*: a small real network saved by TensorFlow, and what TensorFlow computes.

Run it with a Python that has TensorFlow 2.21 (``camsdk.compress.importers.environment`` makes one):

    python tests/golden/tensorflow_net.py

Writes a SavedModel (zipped), its frozen graph, a float and an int8 TensorFlow Lite file, and the
outputs of TensorFlow and of its Lite interpreter for the same pictures.
"""

import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

HERE = Path(__file__).parent
SIZE = 24


class Net(tf.Module):
    """Convolution, batch norm, ReLU, depthwise, both poolings, a residual and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(0)

        def weights(*shape: int) -> tf.Variable:
            fan_in = np.prod(shape[:-1])
            return tf.Variable(random.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32))

        self.stem = weights(3, 3, 3, 8)
        self.scale = tf.Variable(random.uniform(0.5, 1.5, 8).astype(np.float32))
        self.offset, self.mean = weights(8), weights(8)
        self.variance = tf.Variable(random.uniform(0.5, 1.5, 8).astype(np.float32))
        self.depthwise, self.point = weights(3, 3, 8, 1), weights(1, 1, 8, 8)
        self.dense, self.bias = weights(8, 5), weights(5)

    @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, name="image")])
    def __call__(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.nn.conv2d(image, self.stem, 2, "SAME")
        x, *_ = tf.compat.v1.nn.fused_batch_norm(
            x, self.scale, self.offset, self.mean, self.variance, 1e-3, is_training=False
        )
        x = tf.nn.max_pool2d(tf.nn.relu(x), 2, 2, "VALID")
        y = tf.nn.relu6(tf.nn.depthwise_conv2d(x, self.depthwise, [1, 1, 1, 1], "SAME"))
        x = x + tf.nn.conv2d(y, self.point, 1, "VALID")
        x = tf.nn.avg_pool2d(x, 2, 2, "SAME")
        x = tf.reduce_mean(x, (1, 2))
        return {"scores": tf.nn.softmax(tf.matmul(x, self.dense) + self.bias)}


def main() -> None:
    net = Net()
    pictures = np.random.default_rng(1).uniform(-1, 1, (4, SIZE, SIZE, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "net"
        tf.saved_model.save(net, str(saved), signatures=net.__call__)
        shutil.rmtree(saved / "assets", ignore_errors=True)
        with zipfile.ZipFile(HERE / "tensorflow_net.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(saved.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(saved))
        one = tf.TensorSpec((1, SIZE, SIZE, 3), tf.float32, name="image")
        concrete = net.__call__.get_concrete_function(one)
        frozen = convert_variables_to_constants_v2(concrete)
        graph = frozen.graph.as_graph_def().SerializeToString()
        (HERE / "tensorflow_net.pb").write_bytes(graph)
        arrays = {"pictures": pictures, "tensorflow": net(pictures)["scores"].numpy()}
        for precision in ("float", "int8"):
            content = convert(saved, pictures, precision)
            (HERE / f"tensorflow_net_{precision}.tflite").write_bytes(content)
            arrays[f"tflite_{precision}"] = infer(content, pictures)
    np.savez_compressed(HERE / "tensorflow_net.npz", **arrays)


def convert(saved: Path, pictures: np.ndarray, precision: str) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
    if precision == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([picture[None]] for picture in pictures)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def infer(content: bytes, pictures: np.ndarray) -> np.ndarray:
    interpreter = tf.lite.Interpreter(model_content=content)
    (given,) = interpreter.get_input_details()
    (found,) = interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], (1, SIZE, SIZE, 3))
    interpreter.allocate_tensors()
    rows = []
    for picture in pictures:
        interpreter.set_tensor(given["index"], picture[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(found["index"])[0])
    return np.stack(rows)


if __name__ == "__main__":
    main()
