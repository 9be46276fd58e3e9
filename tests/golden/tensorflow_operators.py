"""Makes ``tests/golden/tensorflow_operators.*`` with TensorFlow 2.21, in an environment of its own:

    python tests/golden/tensorflow_operators.py tests/golden

A frozen graph of the operators that only TensorFlow's own graphs hold and that become several ONNX
operators; the golden output is what TensorFlow computes for one input.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

random = np.random.default_rng(4)
KERNEL = tf.constant(random.normal(size=(3, 3, 2, 6)).astype(np.float32) / 4)


def net(image):
    """Grouped convolution, swish, sums of three, a layer normalization, GELU with tanh."""
    x = tf.nn.silu(tf.nn.conv2d(image, KERNEL, 2, "SAME"))
    x = tf.add_n([x, x * 0.5, tf.sigmoid(x)])
    mean = tf.reduce_mean(x, axis=-1, keepdims=True)
    spread = tf.reduce_mean(tf.math.squared_difference(x, mean), axis=-1, keepdims=True)
    x = tf.nn.gelu((x - mean) * tf.math.rsqrt(spread + 1e-3), approximate=True)
    return tf.nn.log_softmax(tf.pow(tf.abs(x) + 0.1, 1.5))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    data = random.normal(size=(1, 8, 10, 4)).astype(np.float32)
    traced = tf.function(net).get_concrete_function(tf.TensorSpec(data.shape, name="image"))
    frozen = convert_variables_to_constants_v2(traced, lower_control_flow=False)
    (target / "tensorflow_operators.pb").write_bytes(
        frozen.graph.as_graph_def().SerializeToString()
    )
    found = frozen(tf.constant(data))[0].numpy()
    np.savez_compressed(target / "tensorflow_operators.npz", data=data, tensorflow=found)
