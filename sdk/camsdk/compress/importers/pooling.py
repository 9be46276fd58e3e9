"""Pooling as Caffe and MXNet do it, in ONNX.

Both can round the output up, so that the last window reaches beyond the image. The mean is then
divided by the pixels that the window covers of the padded image (of the image alone, if padding is
not counted). ONNX can say either with padding that differs between start and end.
"""

from dataclasses import dataclass

import numpy as np

from camsdk.compress.importers.onnx_emitter import Emitter, Value, plain_value


@dataclass(frozen=True)
class Pooling:
    """Options of one layer; pairs are (rows, columns).

    Attributes:
        is_rounded_up: Whether the output covers every pixel.
        must_start_inside: A last window that would start in the padding is left out (Caffe).
        counts_padding: Whether the mean counts the padding.
    """

    is_max: bool
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    is_rounded_up: bool
    must_start_inside: bool
    counts_padding: bool = True

    def _along(self, axis: int, length: int) -> tuple[int, int]:
        """Output length and padding at the end, along rows (0) or columns (1)."""
        kernel, stride, pad = self.kernel[axis], self.stride[axis], self.pad[axis]
        over = length + 2 * pad - kernel
        count = (-(-over // stride) if self.is_rounded_up else over // stride) + 1
        if self.must_start_inside and pad and (count - 1) * stride >= length + pad:
            count -= 1
        end = max((count - 1) * stride + kernel - length - pad, 0)
        if count < 1 or end >= kernel or pad >= kernel:
            raise ValueError("a window lies outside of the image")
        return count, end

    def emit(self, emitter: Emitter, value: Value, name: str) -> Value:
        """Emit it for an image of shape (n, c, h, w).

        Raises:
            ValueError: The windows do not fit the image.
        """
        count, channels, *size = value.shape
        if len(size) != 2:
            raise ValueError("pooling needs an image")
        rows, columns = self._along(0, size[0]), self._along(1, size[1])
        ends = (rows[1], columns[1])
        source, pads, counts = value.name, [*self.pad, *ends], self.counts_padding
        beyond = [max(end - pad, 0) for end, pad in zip(ends, self.pad, strict=True)]
        if not self.is_max and counts and any(beyond):
            if any(self.pad):  # what counts is padded before, what does not count while pooling
                widths = np.array([0, 0, *self.pad, 0, 0, *self.pad], np.int64)
                zero = emitter.initializer(f"{name}/zero", np.array(0, np.float32))
                inputs = [source, emitter.initializer(f"{name}/pads", widths), zero]
                (source,) = emitter.node("Pad", inputs, f"{name}/pad")
            pads, counts = [0, 0, *beyond], False
        options = {} if self.is_max else {"count_include_pad": int(counts)}
        (made,) = emitter.node(
            "MaxPool" if self.is_max else "AveragePool",
            [source],
            name,
            kernel_shape=self.kernel,
            strides=self.stride,
            pads=pads,
            **options,
        )
        return plain_value(made, (count, channels, rows[0], columns[0]))
