"""Drawn pages for the text models: words of a 5 x 8 font in lines, random in size, weight, contrast and blur.

Seeded and small; the recogniser reads them, and the orientation classifier tells which way up they are.
"""

from __future__ import annotations

import numpy as np

# five columns of each glyph, a byte each, its lowest bit on top: A-Z, a-z, 0-9
FONT = """
7e1111117e 7f49494936 3e41414122 7f4141413e 7f49494941 7f09090901 3e41415173 7f0808087f 00417f4100 2040413f01
7f08142241 7f40404040 7f021c027f 7f0408107f 3e4141413e 7f09090906 3e4151215e 7f09192946 2649494932 03017f0103
3f4040403f 1f2040201f 3f4038403f 6314081463 0304780403 6159494d43
2054547840 7f28444438 3844444428 384444287f 3854545418 00087e0902 18a4a49c78 7f08040478 00447d4000 2040403d00
7f10284400 00417f4000 7c04780478 7c08040478 3844444438 fc18242418 18242418fc 7c08040408 4854545424 04043f4424
3c4040207c 1c2040201c 3c4030403c 4428102844 4c9090907c 4464544c44
3e5149453e 00427f4000 7249494946 2141494d33 1814127f10 2745454539 3c4a494931 4121110907 3649494936 464949291e
"""
GLYPHS = np.array([list(bytes.fromhex(glyph)) for glyph in FONT.split()])[:, None, :] >> np.arange(8)[:, None] & 1


def line(rng: np.random.Generator, letters: int, scale: int, spaced: bool = True) -> np.ndarray:
    """A line of random letters, ink 1 on 0, in words where it is `spaced`: [8 * scale, 6 * scale * letters]."""
    likely = np.where(np.arange(len(GLYPHS)) // 26 == 1, 4.0, 1.0)
    ink = np.pad(GLYPHS[rng.choice(len(GLYPHS), letters, p=likely / likely.sum())], [(0, 0), (0, 0), (0, 1)])
    if spaced:
        ink = ink * (rng.random((letters, 1, 1)) > 0.16)
    return np.kron(np.concatenate(list(ink), axis=1), np.ones((scale, scale))).astype(np.float32)


def finish(rng: np.random.Generator, ink: np.ndarray) -> np.ndarray:
    """Grey levels in [0, 1] [3, h, w]: blurred, with paper and ink colours, a gradient and noise."""
    for _ in range(int(rng.integers(1, 4))):
        ink = (ink + np.roll(ink, 1, 0) + np.roll(ink, 1, 1) + np.roll(ink, (1, 1), (0, 1))) / 4
    paper, pen = rng.uniform(0.6, 1, (3, 1, 1)), rng.uniform(0, 0.35, (3, 1, 1))
    light = 1 - rng.uniform(0, 0.3) * np.linspace(0, 1, ink.shape[1])
    page = (paper + (pen - paper) * ink) * light + rng.normal(0, 0.02, (3, *ink.shape))
    return np.clip(page, 0, 1).astype(np.float32)


def lines(count: int, seed: int, width: int = 320) -> dict[str, np.ndarray]:
    """Text lines for the recogniser: x [count, 3, 48, width], in [-1, 1]."""
    rng = np.random.default_rng(seed)
    made = np.zeros((count, 3, 48, width), np.float32)
    for page in made:
        text = line(rng, int(rng.integers(6, 13)), int(rng.integers(3, 6)), False)[:46, : width - 8]
        ink = np.zeros((48, width), np.float32)
        top, left = rng.integers(0, 48 - text.shape[0] + 1), rng.integers(2, 8)
        ink[top : top + text.shape[0], left : left + text.shape[1]] = text
        page[:] = 2 * finish(rng, ink) - 1
    return {"x": made}


def pages(count: int, seed: int) -> dict[str, np.ndarray]:
    """Pages turned by quarters for the classifier: x [count, 3, 224, 224], normalised as ImageNet; labels: quarters."""
    rng = np.random.default_rng(seed)
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    made, labels = np.zeros((count, 3, 224, 224), np.float32), rng.integers(4, size=count)
    for page, turns in zip(made, labels, strict=True):
        ink, top, scale = np.zeros((896, 896), np.float32), int(rng.integers(20, 90)), int(rng.integers(3, 8))
        left = int(rng.integers(20, 80))
        while top + 8 * scale < 880:
            most = (880 - left) // (6 * scale)
            text = line(rng, most if rng.random() < 0.8 else int(rng.integers(3, most + 1)), scale)
            ink[top : top + text.shape[0], left : left + text.shape[1]] = text
            top += int(8 * scale * (1.3 if rng.random() < 0.85 else 2.2))
        ink = ink.reshape(224, 4, 224, 4).mean((1, 3))
        page[:] = (np.rot90(finish(rng, ink), -turns, (1, 2)) - mean[:, None, None]) / deviation[:, None, None]
    return {"x": made, "labels": labels}
