"""Pictures made of nothing, for a model whose data nobody has.

What a network's first layers answer to is shared by all photographs: a power spectrum that falls
with the square of the frequency, and regions of even colour behind one another with sharp borders
between them. The dead leaves model (Lee, Mumford and Huang, "Occlusion Models for Natural Images",
IJCV 2001, section 3) has both: discs whose radius follows r^-3, each hiding what it covers. Noise
of the same spectrum is added as texture, and brightness and contrast vary from picture to picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camsdk.errors import InvalidInput

Floats = NDArray[np.float32]

_PLACES = 2**17
"""Of all pictures together, over which extremes are found: small pictures must be more."""
_MOST_TIMES = 4
_LEAVES = 300
_SMALLEST_RADIUS = 0.015
_LARGEST_RADIUS = 0.5
"""Of a leaf, in units of the picture's shorter side."""


@dataclass(frozen=True)
class Synthesis:
    """How pictures become inputs.

    Attributes:
        mean, std: Per channel or one for all, in units of 0 to 255: input = (pixel - mean) / std,
            as the manifest of a model says.
        count: How many to make; up to four times as many if they are small.
        is_channels_last: Whether the input is (1, height, width, channels).
    """

    mean: tuple[float, ...] = (127.5,)
    std: tuple[float, ...] = (64.0,)
    count: int = 32
    is_channels_last: bool = False

    def count_for(self, input_shape: tuple[int, ...]) -> int:
        """How many inputs of a shape to make."""
        channels = 1 if len(input_shape) < 4 else input_shape[3 if self.is_channels_last else 1]
        places = max(1, int(np.prod(input_shape)) // channels)
        return max(self.count, min(_MOST_TIMES * self.count, _PLACES // places))


def synthesise(
    input_shape: tuple[int, ...],
    count: int,
    seed: int,
    mean: tuple[float, ...] = (127.5,),
    std: tuple[float, ...] = (64.0,),
    *,
    is_channels_last: bool = False,
) -> Iterator[Floats]:
    """Make inputs of an image network, or normal noise for any other shape.

    Args:
        input_shape: (1, channels, height, width), or with the channels last; with another number
            of axes there is no picture.
        count: How many.
        seed: The same seed makes the same inputs.
        mean, std, is_channels_last: See ``Synthesis``.

    Returns:
        float32 arrays of ``input_shape``.

    Raises:
        InvalidInput: ``mean`` or ``std`` do not fit the channels.
    """
    rng = np.random.default_rng(seed)
    if len(input_shape) != 4:
        return (rng.standard_normal(input_shape).astype(np.float32) for _ in range(count))
    order = (0, 2, 3, 1) if is_channels_last else (0, 1, 2, 3)
    inner = input_shape[1:] if not is_channels_last else (input_shape[3], *input_shape[1:3])
    channels = inner[0]
    if not {len(mean), len(std)} <= {1, channels} or min(std) <= 0:
        raise InvalidInput(
            f"mean {mean} and std {std} do not fit {channels} channels",
            "give one value a channel, std above 0",
        )
    shift, scale = (np.array(of, np.float32).reshape(-1, 1, 1) for of in (mean, std))
    return (
        np.ascontiguousarray(
            ((picture(rng, inner) - shift) / scale)[np.newaxis].transpose(order), np.float32
        )
        for _ in range(count)
    )


def picture(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """One picture, (channels, height, width), 0 to 255."""
    colours = _dead_leaves(rng, shape) + rng.uniform(2, 20) * _noise(rng, shape)
    contrast = rng.uniform(0.5, 1.3)
    brightness = rng.uniform(-40, 40)
    pixels = np.clip((colours - 127.5) * contrast + 127.5 + brightness, 0, 255)
    return pixels.astype(np.float32)


def _dead_leaves(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    channels, height, width = shape
    side = min(height, width)
    rows = np.arange(height, dtype=np.float32)[:, np.newaxis]
    columns = np.arange(width, dtype=np.float32)
    # r^-3 by inversion of its distribution between the two bounds
    bounds = np.array([_SMALLEST_RADIUS, _LARGEST_RADIUS]) ** -2.0
    radii = side * rng.uniform(bounds[1], bounds[0], _LEAVES) ** -0.5
    result = np.empty(shape, np.float32)
    result[:] = _colour(rng, channels)[:, :, np.newaxis]
    for radius in radii[::-1]:
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        bottom, right = int(y + radius) + 1, int(x + radius) + 1
        apart = (rows[top:bottom] - y) ** 2 + (columns[left:right] - x) ** 2
        if rng.random() < 0.5:  # a box: pictures of streets have straight borders
            apart = np.zeros_like(apart)
        covered = apart <= radius**2
        result[:, top:bottom, left:right][:, covered] = _colour(rng, channels)
    return result


def _colour(rng: np.random.Generator, channels: int) -> Floats:
    """(channels, 1): mostly brightness, since the channels of photographs go together."""
    shared = rng.uniform(0, 255)
    own = rng.normal(0, 30, (channels, 1)) if channels > 1 else np.zeros((1, 1))
    return np.clip(shared + own, 0, 255).astype(np.float32)


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """1/f amplitude, zero mean, unit variance, the same in all channels; (1, height, width)."""
    _, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency
    noise = np.fft.irfft2(spectrum, s=(height, width))
    return (noise / max(float(noise.std()), 1e-9)).astype(np.float32)[np.newaxis]
