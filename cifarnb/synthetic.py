"""A procedural stand-in for CIFAR-10: ten classes of drawn shapes, 32×32 RGB, made from a seed in about a second.

What it is: data of CIFAR-10's shapes and types for tests and for machines without data or network.  The class is the
shape of one object and the texture of its filling.  Position, rotation, size, light, noise and clutter are drawn
independently of it; the background's colour only tends to the class's hue, and the object is only mostly the lighter
of the two, so that a linear model is right on about one image in three.

What it is not: a benchmark.  Accuracies on it say nothing about photographs and must not be compared with published
CIFAR-10 numbers.
"""

from collections.abc import Callable

import numpy as np

_SIDE = 32
_F32 = np.float32
_Field = np.ndarray  # float32, one value for each pixel of each image: (n, 32, 32)

# The shapes are signed distances (negative inside) in units of the object's radius.  Here and below, pixels only meet
# correctly rounded operations (+ - * / sqrt abs min max), so that a seed gives the same bytes on every processor.


def _disk(x: _Field, y: _Field) -> _Field:
    return np.sqrt(x * x + y * y) - _F32(0.9)


def _ring(x: _Field, y: _Field) -> _Field:
    return np.abs(np.sqrt(x * x + y * y) - _F32(0.75)) - _F32(0.22)


def _crescent(x: _Field, y: _Field) -> _Field:
    bite = _F32(0.8) - np.sqrt((x - _F32(0.5)) ** 2 + y * y)
    return np.maximum(np.sqrt(x * x + y * y) - _F32(1.0), bite)


def _square(x: _Field, y: _Field) -> _Field:
    return np.maximum(np.abs(x), np.abs(y)) - _F32(0.8)


def _cross(x: _Field, y: _Field) -> _Field:
    ax, ay = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(ax, ay) - _F32(0.3), np.maximum(ax, ay) - _F32(1.0))


def _pair(x: _Field, y: _Field) -> _Field:
    return np.sqrt((np.abs(x) - _F32(0.6)) ** 2 + y * y) - _F32(0.48)


def _two_largest_sides(x: _Field, y: _Field, sides: int) -> tuple[_Field, _Field]:
    """The largest and second largest of the projections on a regular polygon's normals."""
    largest = second = np.full_like(x, -np.inf)
    for turn in 2 * np.pi * np.arange(sides) / sides:
        side = x * _F32(np.cos(turn)) + y * _F32(np.sin(turn))
        largest, second = np.maximum(largest, side), np.maximum(second, np.minimum(largest, side))
    return largest, second


def _triangle(x: _Field, y: _Field) -> _Field:
    return _two_largest_sides(x, y, 3)[0] - _F32(0.6)


def _star(x: _Field, y: _Field) -> _Field:
    # A pentagram is the set of points beyond at most one of the pentagon's five sides.
    return _two_largest_sides(x, y, 5)[1] - _F32(0.42)


def _wave(phase: _Field) -> _Field:
    """A triangle wave of period 1 between 0 and 1, steepened to stripes with soft edges."""
    return np.clip(_F32(4) * np.abs(phase - np.floor(phase) - _F32(0.5)) - _F32(0.5), 0, 1)


def _plain(x: _Field, y: _Field) -> _Field:
    return np.zeros_like(x)


def _striped(x: _Field, y: _Field) -> _Field:
    return _wave(x * _F32(1.6))


def _checked(x: _Field, y: _Field) -> _Field:
    # The period makes three by three fields of a square, filled in its corners and its middle.
    u, v = _wave(x * _F32(0.94)), _wave(y * _F32(0.94))
    return u + v - 2 * u * v


_Pattern = Callable[[_Field, _Field], _Field]
_RECIPES: dict[str, tuple[_Pattern, _Pattern]] = {
    "disk": (_disk, _plain),
    "striped disk": (_disk, _striped),
    "ring": (_ring, _plain),
    "crescent": (_crescent, _plain),
    "pair": (_pair, _plain),
    "square": (_square, _plain),
    "checked square": (_square, _checked),
    "triangle": (_triangle, _plain),
    "cross": (_cross, _plain),
    "star": (_star, _plain),
}
CLASSES: tuple[str, ...] = tuple(_RECIPES)


def _draw(rng: np.random.Generator, label: int, n: int) -> np.ndarray:
    """Draw ``n`` images of one class: (n, 3, 32, 32) uint8."""
    shape, filling = _RECIPES[CLASSES[label]]

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, (n, *shape)).astype(_F32)

    axis = np.arange(_SIDE, dtype=_F32) - _F32((_SIDE - 1) / 2)
    row, column = axis[:, None], axis[None, :]

    def turned(reach: float) -> tuple[_Field, _Field]:
        """Pixel coordinates in a frame of random origin (at most ``reach`` from the centre) and random rotation."""
        x, y = column - uniform(-reach, reach, 1, 1), row - uniform(-reach, reach, 1, 1)
        angle = rng.uniform(0, 2 * np.pi, (n, 1, 1))
        cosine, sine = np.cos(angle).astype(_F32), np.sin(angle).astype(_F32)
        return x * cosine + y * sine, y * cosine - x * sine

    def paint(cover: _Field, colour: np.ndarray) -> None:
        np.add(image, cover[:, None] * (colour - image), out=image)

    def paint_bar() -> None:
        u, v = turned(16)
        cover = np.clip(np.minimum(uniform(3, 8, 1, 1) - np.abs(u), uniform(0.8, 2, 1, 1) - np.abs(v)), 0, 1)
        paint(cover, uniform(0, 255, 3, 1, 1))

    # As in photographs, colour says a little about the class: networks begin to learn at once, from the tint.
    tint = 35 * np.cos(2 * np.pi * (label / len(CLASSES) + np.arange(3) / 3)).astype(_F32)
    base = uniform(50, 180, 3, 1, 1) + tint[:, None, None]
    u, _ = turned(16)
    stripes = _wave(u / uniform(4, 12, 1, 1)) * (uniform(0, 1, 1, 1) < 0.4)
    u, _ = turned(16)
    image = base + uniform(-45, 45, 3, 1, 1) * stripes[:, None] + uniform(-3, 3, 3, 1, 1) * u[:, None]
    for _ in range(2):
        paint_bar()

    radius = uniform(6, 11, 1, 1)
    u, v = turned(4)
    x, y = u / (radius * uniform(0.85, 1.15, 1, 1)), v / radius
    cover = np.clip(_F32(0.5) - shape(x, y) * radius, 0, 1) * (1 - _F32(0.75) * filling(x, y))
    # The sign differs from channel to channel, so that no one colour direction shows every object.
    contrast = uniform(25, 140, 3, 1, 1) * np.where(uniform(0, 1, 3, 1, 1) < 0.88, _F32(1), _F32(-1))
    paint(cover, base + contrast)
    paint_bar()

    light = 1 + uniform(-0.02, 0.02, 1, 1) * column + uniform(-0.02, 0.02, 1, 1) * row
    image = image * (light * uniform(0.6, 1.2, 1, 1))[:, None]
    image += uniform(10, 50, 1, 1, 1) * (rng.random(image.shape, dtype=_F32) - _F32(0.5))
    return np.clip(image, 0, 255).astype(np.uint8)


def _make_split(stream: np.random.SeedSequence, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(stream))
    labels = rng.permutation(np.arange(size) % len(CLASSES)).astype(np.uint8)
    images = np.empty((size, _SIDE, _SIDE, 3), dtype=np.uint8)
    for label in range(len(CLASSES)):
        (where,) = np.nonzero(labels == label)
        for part in np.array_split(where, len(where) // 100 + 1):
            images[part] = _draw(rng, label, len(part)).transpose(0, 2, 3, 1)
    return images, labels


def make_synthetic(
    seed: int = 0, train_size: int = 10_000, test_size: int = 2_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x_train (N, 32, 32, 3), y_train (N,), x_test and y_test, all uint8; the classes are those of ``CLASSES``.

    The same seed gives the same bytes.  The two splits are drawn from independent streams.
    """
    train, test = np.random.SeedSequence(seed).spawn(2)
    return *_make_split(train, train_size), *_make_split(test, test_size)
