"""Makes ``tests/golden/caffe/*`` with OpenCV 4's own importer of Caffe networks:

    python3.11 -m venv /tmp/opencv4 && /tmp/opencv4/bin/pip install 'opencv-python-headless<5'
    /tmp/opencv4/bin/python tests/golden/caffe_models.py tests/golden/caffe PROTOTXT CAFFEMODEL

The last two are the assets ``face-ssd.prototxt`` and ``face-ssd.caffemodel``. The small networks
are written here, wire format and all; what OpenCV computes from them is the golden output. Of the
face detector, every 16th number of each output is kept.
"""

# ruff: noqa: E501 - one layer a line is how these networks are read
import struct
import sys
from pathlib import Path

import cv2
import numpy as np

BACKBONE = """
name: "backbone"  # comments, both kinds of fields, in-place layers
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 4 dim: 23 dim: 30 } } }
layer { name: "stem" type: "Convolution" bottom: "data" top: "stem"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 stride: 2 bias_term: false } }
layer { name: "stem_bn" type: "BatchNorm" bottom: "stem" top: "stem" batch_norm_param { eps: 0.001 } }
layer { name: "stem_scale" type: "Scale" bottom: "stem" top: "stem" scale_param { bias_term: true } }
layer { name: "stem_relu" type: "PReLU" bottom: "stem" top: "stem" }
layer { name: "pool" type: "Pooling" bottom: "stem" top: "pool" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "mean" type: "Pooling" bottom: "stem" top: "mean" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "norm" type: "LRN" bottom: "pool" top: "norm" lrn_param { local_size: 3 alpha: 0.2 beta: 0.7 } }
layer { name: "depth" type: "Convolution" bottom: "norm" top: "depth"
  convolution_param { num_output: 8 kernel_h: 3 kernel_w: 1 pad_h: 2 pad_w: 0 group: 8 dilation: 2 dilation: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "depth" bottom: "mean" top: "sum"
  eltwise_param { operation: SUM coeff: 0.5 coeff: -1.5 } }
layer { name: "sum_relu" type: "ReLU" bottom: "sum" top: "sum" relu_param { negative_slope: 0.1 } }
layer { name: "kept" type: "Dropout" bottom: "sum" top: "kept" dropout_param { dropout_ratio: 0.5 } }
layer { name: "fc" type: "InnerProduct" bottom: "kept" top: "fc" inner_product_param { num_output: 7 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""

NECK = """
input: "data" input_dim: 1 input_dim: 6 input_dim: 14 input_dim: 17
layer { name: "low" type: "Convolution" bottom: "data" top: "low" convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "low_act" type: "Sigmoid" bottom: "low" top: "low_act" }
layer { name: "up" type: "Deconvolution" bottom: "low_act" top: "up"
  convolution_param { num_output: 6 kernel_size: 4 stride: 2 pad: 1 group: 2 } }
layer { name: "crop" type: "Crop" bottom: "up" bottom: "data" top: "crop" crop_param { axis: 3 offset: 1 } }
layer { name: "cut" type: "Slice" bottom: "crop" top: "a" top: "b" slice_param { axis: 1 slice_point: 2 } }
layer { name: "a_act" type: "TanH" bottom: "a" top: "a" }
layer { name: "b_act" type: "ELU" bottom: "b" top: "b" elu_param { alpha: 0.5 } }
layer { name: "shift" type: "Power" bottom: "b" top: "b" power_param { scale: 0.25 shift: 1.5 power: 2 } }
layer { name: "cat" type: "Concat" bottom: "a" bottom: "b" top: "cat" concat_param { axis: 1 } }
layer { name: "gain" type: "Scale" bottom: "cat" top: "gain" scale_param { bias_term: true } }
layer { name: "unit" type: "Normalize" bottom: "gain" top: "unit" norm_param { across_spatial: false channel_shared: false } }
layer { name: "turn" type: "Permute" bottom: "unit" top: "turn" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "rows" type: "Reshape" bottom: "turn" top: "rows" reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }
layer { name: "soft" type: "Softmax" bottom: "rows" top: "soft" softmax_param { axis: 2 } }
layer { name: "flat" type: "Flatten" bottom: "soft" top: "flat" flatten_param { axis: 1 } }
"""

PADDED_MEAN = """
input: "data" input_shape { dim: 1 dim: 2 dim: 14 dim: 15 }
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" pooling_param { pool: AVE kernel_size: 3 stride: 3 pad: 1 } }
layer { name: "max" type: "Pooling" bottom: "data" top: "max" pooling_param { pool: MAX kernel_size: 4 stride: 3 pad: 2 } }
layer { name: "all" type: "Pooling" bottom: "max" top: "all" pooling_param { pool: AVE global_pooling: true } }
"""

RANDOM = np.random.default_rng(5)


def normal(*shape):
    return RANDOM.normal(0, 0.5, shape).astype(np.float32)


def positive(*shape):
    return RANDOM.uniform(0.5, 1.5, shape).astype(np.float32)


BACKBONE_WEIGHTS = {
    "stem": [normal(8, 4, 3, 3)],
    "stem_bn": [normal(8), positive(8), np.float32([1.7])],
    "stem_scale": [positive(8), normal(8)],
    "stem_relu": [positive(8)],
    "depth": [normal(8, 1, 3, 1), normal(8)],
    "fc": [normal(7, 8 * 6 * 7), normal(7)],
}
NECK_WEIGHTS = {
    "low": [normal(4, 6, 3, 3), normal(4)],
    "up": [normal(4, 3, 4, 4), normal(6)],
    "gain": [positive(6), normal(6)],
    "unit": [positive(6)],
}


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def caffemodel(weights):
    """A NetParameter whose layers hold nothing but names and blobs."""
    net = b""
    for name, blobs in weights.items():
        layer = field(1, name.encode())
        for blob in blobs:
            shape = field(7, field(1, b"".join(varint(length) for length in blob.shape)))
            layer += field(7, shape + field(5, struct.pack(f"<{blob.size}f", *blob.ravel())))
        net += field(100, layer)
    return net


def run(prototxt, weights, data, outputs, keep=1):
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(weights))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.enableFusion(False)
    net.setInput(data)
    return {name: net.forward(name).ravel()[::keep] for name in outputs}


def small(name, text, weights, shape, outputs, folder):
    prototxt, model = folder / f"{name}.prototxt", folder / f"{name}.caffemodel"
    prototxt.write_text(text.lstrip())
    model.write_bytes(caffemodel(weights))
    data = RANDOM.normal(size=shape).astype(np.float32)
    found = run(prototxt, model, data, outputs)
    np.savez_compressed(folder / f"{name}.npz", data=data, **found)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    small("backbone", BACKBONE, BACKBONE_WEIGHTS, (1, 4, 23, 30), ["kept", "prob"], target)
    small("neck", NECK, NECK_WEIGHTS, (1, 6, 14, 17), ["flat", "gain"], target)
    small("padded_mean", PADDED_MEAN, {}, (1, 2, 14, 15), ["mean", "max", "all"], target)
    wanted = ["mbox_loc", "mbox_conf_flatten", "conv4_3_norm", "conv1_pool"]
    # The test makes the same input: 270,000 numbers are no golden output.
    data = np.random.default_rng(9).integers(-120, 130, (1, 3, 300, 300)).astype(np.float32)
    found = run(sys.argv[2], sys.argv[3], data, wanted, keep=16)
    np.savez_compressed(target / "face_ssd.npz", **found)
