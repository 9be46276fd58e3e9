"""Trains ``tests/golden/mxnet/fashion*`` with the real MXNet 1.9.1 (Gluon), in a minute:

    python3.11 -m venv /tmp/mxnet && /tmp/mxnet/bin/pip install 'numpy<1.24' mxnet==1.9.1
    /tmp/mxnet/bin/python tests/golden/mxnet_fashion.py tests/golden/mxnet IMAGES LABELS TEST_IMAGES

The last three are the assets ``fashion-mnist-train-images.gz``, ``fashion-mnist-train-labels.gz``
and ``fashion-mnist-t10k-images.gz``. The files are what ``HybridBlock.export`` writes, the golden
outputs what MXNet computes for the first 32 pictures of the test set, as bytes from 0 to 255.
"""

import gzip
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import nn


class Block(gluon.HybridBlock):
    """Depthwise, pointwise, a gate of the means, and the input added."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.body = nn.HybridSequential()
            self.body.add(
                nn.Conv2D(channels, 3, padding=1, groups=channels, use_bias=False),
                nn.BatchNorm(),
                nn.LeakyReLU(0.1),
                nn.Conv2D(channels, 1, use_bias=False),
                nn.BatchNorm(),
            )
            self.gate = nn.HybridSequential()
            self.gate.add(nn.GlobalAvgPool2D(), nn.Conv2D(channels, 1, activation="sigmoid"))

    def hybrid_forward(self, F, x):  # noqa: N803 - MXNet's own name
        y = self.body(x)
        return F.relu(x + F.broadcast_mul(y, self.gate(y)))


class Net(gluon.HybridBlock):
    """28x28 grey pictures of bytes to ten classes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.layers = nn.HybridSequential()
            for channels in (16, 32, 48):
                self.layers.add(
                    nn.Conv2D(channels, 3, strides=2, padding=1),
                    nn.BatchNorm(),
                    nn.PReLU(),
                    Block(channels),
                )
            self.layers.add(nn.MaxPool2D(2, 2, ceil_mode=True), nn.Flatten(), nn.Dropout(0.2))
            self.layers.add(nn.Dense(10))

    def hybrid_forward(self, F, x):  # noqa: N803 - MXNet's own name
        return self.layers(x / 255 - 0.5)


def pictures(path):
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)


def labels(path):
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=8)


def train(net, images, classes, epochs=2, batch=100, count=8_000):
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 3e-3})
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()
    for epoch in range(epochs):
        trainer.set_learning_rate(3e-3 if epoch < epochs - 1 else 5e-4)
        order = np.random.permutation(len(images))[:count]
        for start in range(0, count, batch):
            rows = order[start : start + batch]
            x = mx.nd.array(images[rows].astype(np.float32))
            with autograd.record():
                loss = loss_of(net(x), mx.nd.array(classes[rows]))
            loss.backward()
            trainer.step(batch)


if __name__ == "__main__":
    mx.random.seed(1)
    np.random.seed(1)
    target = Path(sys.argv[1])
    net = Net(prefix="fashion_")
    net.initialize(mx.init.Xavier())
    net.hybridize()
    train(net, pictures(sys.argv[2]), labels(sys.argv[3]))
    data = pictures(sys.argv[4])[:32]
    found = net(mx.nd.array(data.astype(np.float32))).asnumpy()
    net.export(str(target / "fashion"))
    np.savez_compressed(target / "fashion.npz", data=data, mxnet=found)
    print(found.argmax(1))
