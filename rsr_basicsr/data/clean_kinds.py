"""Kinds of clean low-quality images, which a detector must not flag.

A kind is a function ``(photo, rng) -> image``, both float32 RGB (H, W, 3) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import SupportsInt

import cv2
import numpy as np
from basicsr.utils.matlab_functions import imresize
from PIL import Image, ImageDraw, ImageFont
from skimage.util import random_noise

_INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_NEAREST)
_WORDS = (
    'File Edit View Tools Help',
    'Save as',
    'Open recent',
    'Properties',
    'Cancel',
    'OK',
    'Total: 1,204.50',
    'the quick brown fox',
    'jumps over the lazy dog',
    'def forward(self, x):',
    'return x + self.body(x)',
    'Chapter 7',
    '2026-03-14 09:26',
    '100 %',
    'https://example.org/index.html',
    'Warning',
    'row',
    'A B C D E F',
)


def photo_as_it_is(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The photo, unchanged."""
    return photo


def reduced(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reduced 1.3 to 4 times, by the antialiased bicubic filter of benchmarks or another one at random."""
    scale = _log_uniform(rng, 0.25, 0.77)
    if rng.random() < 0.4:
        return imresize(np.ascontiguousarray(photo), float(scale), antialiasing=True)
    return _resized(photo, scale, rng.choice(_INTERPOLATIONS))


def upscaled(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reduced, then upscaled 1.2 to 4 times: blurred or blocky."""
    small = reduced(photo, rng)
    return _resized(small, _log_uniform(rng, 1.2, 4), rng.choice(_INTERPOLATIONS[1:]))


def compressed(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """JPEG of any quality, sometimes twice with shifted blocks, or WebP."""
    image = _base(photo, rng)
    if rng.random() < 0.3:
        top, left = rng.integers(0, 8, size=2)
        image = _coded(image, '.jpg', rng.integers(30, 96))[top:, left:]
    if rng.random() < 0.2:
        return _coded(image, '.webp', rng.integers(20, 100))
    return _coded(image, '.jpg', rng.integers(8, 100))


def noisy(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, uniform, Poisson or impulse noise, colour or grey, fine or coarse, sometimes then compressed."""
    image = _base(photo, rng)
    kind = rng.choice(['gaussian', 'grain', 'uniform', 'poisson', 'impulse'], p=[0.4, 0.25, 0.1, 0.15, 0.1])
    if kind == 'impulse':
        image = random_noise(image, 's&p', rng=rng, amount=_log_uniform(rng, 1e-4, 0.02)).astype(np.float32)
    else:
        strength = _log_uniform(rng, 0.5, 20) / 255
        noise: np.ndarray = (
            rng.standard_normal(image.shape) if kind != 'uniform' else rng.uniform(-1.7, 1.7, image.shape)
        )
        if kind == 'poisson':
            noise *= np.sqrt(image)
        if kind == 'grain':
            noise = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.4, 1.5))
            noise = noise / noise.std()
        if rng.random() < 0.4:
            noise = np.repeat(noise[..., :1], 3, axis=2)
        image = (image + strength * noise).clip(0, 1).astype(np.float32)
    return _coded(image, '.jpg', rng.integers(50, 100)) if rng.random() < 0.4 else image


def camera(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A Bayer sensor with shot and read noise, demosaiced, sometimes denoised and sharpened, mostly JPEG."""
    linear = np.power(_base(photo, rng), 2.2)
    gain, read = _log_uniform(rng, 1e-5, 4e-3), _log_uniform(rng, 1e-4, 8e-3)
    linear = linear + np.sqrt(gain * linear + read**2) * rng.standard_normal(linear.shape)
    mosaic = np.empty(linear.shape[:2])
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = linear[0::2, 0::2, 0], linear[1::2, 1::2, 2]
    mosaic[0::2, 1::2], mosaic[1::2, 0::2] = linear[0::2, 1::2, 1], linear[1::2, 0::2, 1]
    code = rng.choice([cv2.COLOR_BayerBG2RGB, cv2.COLOR_BayerBG2RGB_EA])
    developed = cv2.cvtColor((mosaic.clip(0, 1) * 65535).astype(np.uint16), int(code)).astype(np.float32) / 65535
    image = np.power(developed, 1 / 2.2)
    if rng.random() < 0.5:
        image = cv2.bilateralFilter(image, 5, float(rng.uniform(0.02, 0.1)), 2)
    if rng.random() < 0.5:
        image = _sharper(image, rng)
    return _coded(image, '.jpg', rng.integers(75, 100)) if rng.random() < 0.8 else image


def sharpened(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unsharp masking, up to halos, sometimes then compressed."""
    image = _sharper(_base(photo, rng), rng)
    return _coded(image, '.jpg', rng.integers(60, 100)) if rng.random() < 0.4 else image


def palette(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Few colours, with or without error diffusion, as in a GIF."""
    image = Image.fromarray(to_8_bit(_base(photo, rng)))
    dither = Image.Dither.FLOYDSTEINBERG if rng.random() < 0.5 else Image.Dither.NONE
    return from_8_bit(image.quantize(int(2 ** rng.uniform(3, 8)), dither=dither).convert('RGB'))


def line_art(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flat colours and dark outlines traced from the photo, or a drawing of lines and shapes."""
    if rng.random() < 0.3:
        return _finished(_drawing(rng), rng)
    flat = to_8_bit(photo)
    for _ in range(rng.integers(1, 4)):
        flat = cv2.bilateralFilter(flat, 9, 60, 5)
    levels = rng.integers(4, 12)
    if rng.random() < 0.6:
        flat = (np.floor(flat / 256 * levels) / (levels - 1) * 255).astype(np.uint8)
    grey = cv2.GaussianBlur(cv2.cvtColor(flat, cv2.COLOR_RGB2GRAY), (0, 0), 1)
    lines = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 9, int(rng.integers(2, 7)))
    if rng.random() < 0.2:
        flat[:] = 255  # ink on paper
    drawn = np.minimum(flat, cv2.GaussianBlur(lines, (0, 0), 0.7)[..., None])
    image = drawn.astype(np.float32) / 255
    return _finished(image, rng)


def screenshot(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Windows, buttons and text; some windows show the photo."""
    canvas = Image.new('RGB', (photo.shape[1], photo.shape[0]), _colour(rng, pale=rng.random() < 0.7))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(2, 7)):
        x, y, width, height = _box(rng, canvas.size)
        if rng.random() < 0.3:
            canvas.paste(Image.fromarray(to_8_bit(photo)).crop((0, 0, width, height)), (x, y))
        else:
            draw.rectangle((x, y, x + width, y + height), _colour(rng, pale=rng.random() < 0.7), _colour(rng))
            pale = rng.random() < 0.3
            size = int(rng.integers(8, 24))
            for line in range(y + 3, y + height - size, int(size * 1.4)):
                draw.text((x + 4, line), str(rng.choice(_WORDS)), _colour(rng, pale), _font(size))
    return _finished(from_8_bit(canvas), rng)


def resampled(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another kind, rotated a little and resized, as by registration or editing, sometimes then compressed."""
    kind = [photo_as_it_is, camera, camera, noisy, sharpened, compressed][rng.integers(6)]
    image: np.ndarray = kind(photo, rng).clip(0, 1).astype(np.float32)
    scale, angle = _log_uniform(rng, 0.45, 1.6), rng.uniform(-3, 3) if rng.random() < 0.5 else 0.0
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    turn[:, 2] += [(scale - 1) * width / 2, (scale - 1) * height / 2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale < 1 and rng.random() < 0.7:  # antialiased
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
    interpolation = int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4]))
    image = cv2.warpAffine(image, turn, size, flags=interpolation, borderMode=cv2.BORDER_REFLECT_101).clip(0, 1)
    if rng.random() < 0.3:
        image = _sharper(image, rng)
    return _coded(image, '.jpg', rng.integers(60, 100)) if rng.random() < 0.4 else image


#: Name -> function, for every kind but ``real_esrgan``, which needs its own options
KINDS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    function.__name__: function
    for function in (
        photo_as_it_is,
        reduced,
        upscaled,
        compressed,
        noisy,
        camera,
        sharpened,
        palette,
        line_art,
        screenshot,
        resampled,
    )
}


def to_8_bit(image: np.ndarray) -> np.ndarray:
    """Convert [0, 1] to uint8 with rounding."""
    return (image * 255).round().clip(0, 255).astype(np.uint8)


def from_8_bit(image: np.ndarray | Image.Image) -> np.ndarray:
    """Convert uint8 or a Pillow image to float32 in [0, 1]."""
    return np.asarray(image, dtype=np.float32) / 255


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _base(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The photo, mostly reduced first."""
    return photo if rng.random() < 0.4 else reduced(photo, rng).clip(0, 1)


def _resized(image: np.ndarray, scale: float, interpolation: int) -> np.ndarray:
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=int(interpolation)).clip(0, 1)


def _coded(image: np.ndarray, extension: str, quality: SupportsInt) -> np.ndarray:
    """Encode as JPEG or WebP, and decode."""
    flag = cv2.IMWRITE_JPEG_QUALITY if extension == '.jpg' else cv2.IMWRITE_WEBP_QUALITY
    bgr = cv2.cvtColor(to_8_bit(image), cv2.COLOR_RGB2BGR)
    _, code = cv2.imencode(extension, bgr, [flag, int(quality)])
    decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
    assert decoded is not None, 'it was encoded here'
    return from_8_bit(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def _sharper(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    radius, amount = rng.uniform(0.6, 2.5), rng.uniform(0.3, 2.5)
    return cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), radius), -amount, 0).clip(0, 1)


def _finished(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sometimes reduce, sometimes compress."""
    if rng.random() < 0.4:
        image = _resized(image, _log_uniform(rng, 0.4, 1), rng.choice(_INTERPOLATIONS[:4]))
    return _coded(image, '.jpg', rng.integers(40, 100)) if rng.random() < 0.4 else image


def _drawing(rng: np.random.Generator) -> np.ndarray:
    canvas = Image.new('RGB', (320, 320), _colour(rng, pale=True))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(5, 40)):
        x, y, width, height = _box(rng, canvas.size)
        kind = rng.choice(['line', 'ellipse', 'rectangle', 'arc'])
        if kind == 'line':
            draw.line((x, y, x + width, y + height), _colour(rng), int(rng.integers(1, 5)))
        elif kind == 'arc':
            draw.arc((x, y, x + width, y + height), 0, int(rng.integers(30, 360)), _colour(rng), 2)
        else:
            getattr(draw, kind)((x, y, x + width, y + height), _colour(rng, pale=True), _colour(rng))
    image = from_8_bit(canvas)
    return _resized(image, 0.5, cv2.INTER_AREA) if rng.random() < 0.5 else image  # antialiased


def _box(rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A random x, y, width and height, partly inside an image of this size."""
    width, height = (int(rng.integers(20, max(21, int(side // 1.5)))) for side in size)
    return int(rng.integers(-10, size[0] - 20)), int(rng.integers(-10, size[1] - 20)), width, height


def _colour(rng: np.random.Generator, pale: bool = False) -> tuple[int, ...]:
    return tuple(int(value) for value in rng.integers(*((200, 256) if pale else (0, 200)), size=3))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
