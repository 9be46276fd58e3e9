"""Makes ``tests/golden/mxnet/*`` with the real MXNet 1.9.1; run it in an environment of its own:

    python3.11 -m venv /tmp/mxnet && /tmp/mxnet/bin/pip install 'numpy<1.24' mxnet==1.9.1
    /tmp/mxnet/bin/python tests/golden/mxnet_models.py tests/golden/mxnet

Each network is a symbol, its parameters, and what MXNet itself returns for one input (npz).
"""

import sys
from pathlib import Path

import mxnet as mx
import numpy as np


def conv(x, name, filters, kernel=3, stride=1, group=1, no_bias=True):
    x = mx.sym.Convolution(
        x,
        name=name,
        kernel=(kernel, kernel),
        num_filter=filters,
        stride=(stride, stride),
        pad=(kernel // 2, kernel // 2),
        num_group=group,
        no_bias=no_bias,
    )
    return mx.sym.BatchNorm(x, name=f"{name}_bn", fix_gamma=group == 1, eps=2e-5)


def classifier():
    """What a face or image network of the time looks like."""
    x = mx.sym.Variable("data")
    x = (x - 127.5) * 0.0078125
    x = mx.sym.LeakyReLU(conv(x, "stem", 8, stride=2), act_type="prelu", name="stem_relu")
    x = mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pool_type="max", pooling_convention="full")
    shortcut = conv(x, "shortcut", 16, kernel=1, stride=2)
    y = mx.sym.Activation(conv(x, "depth", 8, stride=2, group=8), act_type="relu")
    y = conv(y, "point", 16, kernel=1)
    x = mx.sym.Activation(mx.sym.elemwise_add(y, shortcut), act_type="relu")
    x = mx.sym.Pooling(x, global_pool=True, kernel=(1, 1), pool_type="avg")
    x = mx.sym.Dropout(mx.sym.Flatten(x), p=0.4)
    return mx.sym.SoftmaxOutput(mx.sym.FullyConnected(x, num_hidden=10, name="fc"), name="softmax")


def pyramid():
    """Upsampling, skip connections, heads with their own layouts: a detector's neck."""
    x = mx.sym.Variable("data")
    low = mx.sym.LeakyReLU(conv(x, "low", 6, stride=2), act_type="leaky", slope=0.1)
    high = mx.sym.LeakyReLU(conv(low, "high", 8, stride=2, no_bias=False), act_type="elu")
    up = mx.sym.Deconvolution(
        high, name="up", kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=6, num_group=2
    )
    nearest = mx.sym.UpSampling(high, scale=2, sample_type="nearest", num_args=1)
    x = mx.sym.concat(low, up, mx.sym.clip(nearest, a_min=-0.5, a_max=0.5), dim=1)
    parts = mx.sym.split(x, num_outputs=2, axis=1)
    x = mx.sym.broadcast_mul(mx.sym.sigmoid(parts[0]), parts[1])
    x = mx.sym.L2Normalization(x, mode="channel")
    x = mx.sym.Pooling(
        x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", pooling_convention="full"
    )
    x = mx.sym.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 1, 0, 0, 2), constant_value=0.25)
    scores = mx.sym.transpose(x, axes=(0, 2, 3, 1))
    scores = mx.sym.softmax(mx.sym.reshape(scores, shape=(0, -3, -2)), axis=2)
    boxes = mx.sym.Pooling(
        mx.sym.slice_axis(x, axis=1, begin=2, end=None),
        kernel=(2, 2),
        stride=(2, 2),
        pad=(1, 1),
        pool_type="avg",
        count_include_pad=False,
    )
    return mx.sym.Group([scores, 1 - mx.sym.LRN(boxes, nsize=3)])


def save(name, symbol, shape, folder):
    labels = [key for key in symbol.list_arguments() if key.endswith("_label")]
    module = mx.mod.Module(symbol, data_names=["data"], label_names=labels)
    label_shapes = [(key, shape[:1]) for key in labels] or None
    module.bind([("data", shape)], label_shapes, for_training=False)
    mx.random.seed(1)
    np.random.seed(1)
    module.init_params(mx.init.Xavier())
    arguments, auxiliary = module.get_params()
    for values in (arguments, auxiliary):
        for key, value in values.items():
            if key.endswith(("gamma", "var")):
                values[key] = mx.nd.array(np.random.uniform(0.5, 1.5, value.shape))
            elif key.endswith(("beta", "mean", "bias")):
                values[key] = mx.nd.array(np.random.normal(0, 0.2, value.shape))
    module.set_params(arguments, auxiliary)
    module.save_checkpoint(str(folder / name), 0)
    data = np.random.normal(100 if name == "classifier" else 0, 40, shape).astype(np.float32)
    module.forward(mx.io.DataBatch([mx.nd.array(data)]), is_train=False)
    found = [output.asnumpy() for output in module.get_outputs()]
    np.savez_compressed(folder / f"{name}.npz", *found, data=data)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    save("classifier", classifier(), (1, 3, 34, 30), target)
    save("pyramid", pyramid(), (2, 4, 20, 28), target)
