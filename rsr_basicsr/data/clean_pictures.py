"""Clean low-quality pictures of many kinds, made of photos: what a detector must not take for attacked.

A kind is a function ``(photo, rng) -> picture``, both float32 RGB (H, W, 3) in [0, 1]. Kinds without a photo in them
(screenshots) still take theirs, to show it in a window.
"""

from __future__ import annotations

import functools
import os
import os.path as osp
import random
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.utils import DiffJPEG
from basicsr.utils.matlab_functions import imresize
from PIL import Image, ImageDraw, ImageFont
from skimage.util import random_noise
from torch.utils.data import default_collate

from rsr_basicsr.checkpoints import random_streams_kept
from rsr_basicsr.errors import PictureError

REAL_ESRGAN = 'real_esrgan'
SMALLEST = 16  # pixels of a side of a photo

_INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_NEAREST)
_WORDS = ('File Edit View Tools Help', 'Save as', 'Open recent', 'Properties', 'Cancel', 'OK', 'Total: 1,204.50',
          'the quick brown fox', 'jumps over the lazy dog', 'def forward(self, x):', 'return x + self.body(x)',
          'Chapter 7', '2026-03-14 09:26', '100 %', 'https://example.org/index.html', 'Warning', 'row', 'A B C D E F')


def photo_as_it_is(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """No change at all."""
    return photo


def reduced(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reduced 1.3 to 4 times, by the antialiased bicubic filter of the benchmarks or a random other one."""
    scale = _log_uniform(rng, 0.25, 0.77)
    if rng.random() < 0.4:
        return imresize(np.ascontiguousarray(photo), float(scale), antialiasing=True)
    return _resized(photo, scale, rng.choice(_INTERPOLATIONS))


def enlarged(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reduced and enlarged again, 1.2 to 4 times, so that it is blurred or blocky."""
    small = reduced(photo, rng)
    return _resized(small, _log_uniform(rng, 1.2, 4), rng.choice(_INTERPOLATIONS[1:]))


def compressed(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """JPEG of any quality, at times twice with shifted blocks, or WebP."""
    picture = _base(photo, rng)
    if rng.random() < 0.3:
        top, left = rng.integers(0, 8, size=2)
        picture = _coded(picture, '.jpg', rng.integers(30, 96))[top:, left:]
    if rng.random() < 0.2:
        return _coded(picture, '.webp', rng.integers(20, 100))
    return _coded(picture, '.jpg', rng.integers(8, 100))


def noisy(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, uniform, Poisson or impulse noise, in colour or grey, fine or coarse, at times compressed then."""
    picture = _base(photo, rng)
    kind = rng.choice(['gaussian', 'grain', 'uniform', 'poisson', 'impulse'], p=[0.4, 0.25, 0.1, 0.15, 0.1])
    if kind == 'impulse':
        picture = random_noise(picture, 's&p', rng=rng, amount=_log_uniform(rng, 1e-4, 0.02)).astype(np.float32)
    else:
        strength = _log_uniform(rng, 0.5, 20) / 255
        noise = rng.standard_normal(picture.shape) if kind != 'uniform' else rng.uniform(-1.7, 1.7, picture.shape)
        if kind == 'poisson':
            noise *= np.sqrt(picture)
        if kind == 'grain':
            noise = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.4, 1.5))
            noise /= noise.std()
        if rng.random() < 0.4:
            noise = np.repeat(noise[..., :1], 3, axis=2)
        picture = (picture + strength * noise).clip(0, 1).astype(np.float32)
    return _coded(picture, '.jpg', rng.integers(50, 100)) if rng.random() < 0.4 else picture


def camera(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sensor behind a Bayer filter with shot and read noise, demosaiced, at times denoised and sharpened, JPEG."""
    linear = np.power(_base(photo, rng), 2.2)
    gain, read = _log_uniform(rng, 1e-5, 4e-3), _log_uniform(rng, 1e-4, 8e-3)
    linear = linear + np.sqrt(gain * linear + read**2) * rng.standard_normal(linear.shape)
    mosaic = np.empty(linear.shape[:2])
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = linear[0::2, 0::2, 0], linear[1::2, 1::2, 2]
    mosaic[0::2, 1::2], mosaic[1::2, 0::2] = linear[0::2, 1::2, 1], linear[1::2, 0::2, 1]
    code = rng.choice([cv2.COLOR_BayerBG2RGB, cv2.COLOR_BayerBG2RGB_EA])
    developed = cv2.cvtColor((mosaic.clip(0, 1) * 65535).astype(np.uint16), int(code)).astype(np.float32) / 65535
    picture = np.power(developed, 1 / 2.2)
    if rng.random() < 0.5:
        picture = cv2.bilateralFilter(picture, 5, float(rng.uniform(0.02, 0.1)), 2)
    if rng.random() < 0.5:
        picture = _sharper(picture, rng)
    return _coded(picture, '.jpg', rng.integers(75, 100)) if rng.random() < 0.8 else picture


def sharpened(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unsharp masking, up to halos, at times compressed then."""
    picture = _sharper(_base(photo, rng), rng)
    return _coded(picture, '.jpg', rng.integers(60, 100)) if rng.random() < 0.4 else picture


def palette(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Few colours, with error diffusion or without, as in a GIF."""
    picture = Image.fromarray(to_8_bit(_base(photo, rng)))
    dither = Image.Dither.FLOYDSTEINBERG if rng.random() < 0.5 else Image.Dither.NONE
    return _from_8_bit(picture.quantize(int(2**rng.uniform(3, 8)), dither=dither).convert('RGB'))


def line_art(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flat colours and dark outlines drawn after the photo, or a drawing of lines and shapes."""
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
    picture = drawn.astype(np.float32) / 255
    return _finished(picture, rng)


def screenshot(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Windows, buttons and text, with the photo in one of the windows."""
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
    return _finished(_from_8_bit(canvas), rng)


def resampled(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture of another kind, turned a little and resized, at times compressed then: as registered or edited."""
    kind = [photo_as_it_is, camera, camera, noisy, sharpened, compressed][rng.integers(6)]
    picture = kind(photo, rng).clip(0, 1).astype(np.float32)
    scale, angle = _log_uniform(rng, 0.45, 1.6), rng.uniform(-3, 3) if rng.random() < 0.5 else 0.0
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    turn[:, 2] += [(scale - 1) * width / 2, (scale - 1) * height / 2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale < 1 and rng.random() < 0.7:  # as software does that reduces without aliases
        picture = cv2.GaussianBlur(picture, (0, 0), 0.4 / scale)
    interpolation = int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4]))
    picture = cv2.warpAffine(picture, turn, size, flags=interpolation, borderMode=cv2.BORDER_REFLECT_101).clip(0, 1)
    if rng.random() < 0.3:
        picture = _sharper(picture, rng)
    return _coded(picture, '.jpg', rng.integers(60, 100)) if rng.random() < 0.4 else picture


#: Every kind but ``real_esrgan``, which needs options of its own
KINDS: Dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    function.__name__: function for function in (
        photo_as_it_is, reduced, enlarged, compressed, noisy, camera, sharpened, palette, line_art, screenshot,
        resampled)}


class RealESRGANDegradations(RealESRNetModel):
    """Real-ESRGAN's second-order degradations, by BasicSR's own data set and model, without a network.

    Each picture draws a strength in (0, 1]: its noise, blur, compression and resizing are drawn from ranges that
    reach from the mild ends to that share of the ones in the options.

    Args:
        photos: paths of photos.
        options: the keys of BasicSR's RealESRNetModel and RealESRGANDataset that concern degradations, in one block.
    """

    MILD = {'resize_range': 1.0, 'noise_range': 1.0, 'poisson_scale_range': 0.05, 'jpeg_range': 95.0,
            'blur_sigma': 0.2}
    GT_SIZE = 400  # what RealESRGANDataset makes of any photo

    def __init__(self, photos: Sequence[str], options: Mapping[str, Any]):
        # Not the parent's, since there is no network to build.
        self.options = {**options, 'gt_usm': False, 'use_hflip': False, 'use_rot': False, 'gt_size': self.GT_SIZE}
        self.device, self.is_train = torch.device('cpu'), True
        self.jpeger = DiffJPEG(differentiable=False)
        self.photos = RealESRGANDataset({**self.options, 'dataroot_gt': '', 'meta_info': os.devnull,
                                         'io_backend': {'type': 'disk'}})
        self.photos.paths = list(photos)  # of a list it would read, names end at the first blank

    def _dequeue_and_enqueue(self):
        """No pair pool: a picture depends on its own random numbers only."""

    def make(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """The picture made of photo number ``index``, float32 RGB (H, W, 3)."""
        strength = rng.uniform(0.05, 1)
        options = dict(self.options)
        for name, mild in self.MILD.items():
            for key in (name, f'{name}2'):
                options[key] = [mild + strength * (end - mild) for end in self.options[key]]
        self.opt = self.photos.opt = options
        self.photos.blur_sigma, self.photos.blur_sigma2 = options['blur_sigma'], options['blur_sigma2']
        with random_streams_kept():
            seed = int(rng.integers(2**31))
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            self.feed_data(default_collate([self.photos[index]]))
        return self.lq[0].permute(1, 2, 0).numpy()


class CleanPictures:
    """Clean pictures of the kinds asked for, each a function of its random numbers.

    Args:
        photos: paths of photos, 8 bit.
        kinds: share of each kind, by its name in :data:`KINDS`; or ``real_esrgan``.
        size: height and width of the pictures.
        real_esrgan: options of :class:`RealESRGANDegradations`, for the kind ``real_esrgan``.
        grey: share of the pictures that lose their colours.
    """

    def __init__(self, photos: Sequence[str], kinds: Mapping[str, float], size: int,
                 real_esrgan: Optional[Mapping[str, Any]] = None, grey: float = 0.05):
        self.photos, self.size, self.grey = list(photos), size, grey
        self.kinds, shares = list(kinds), np.array(list(kinds.values()), dtype=float)
        self.shares = shares / shares.sum()
        self.degradations = RealESRGANDegradations(self.photos, real_esrgan) if REAL_ESRGAN in kinds else None
        self._read = functools.lru_cache(maxsize=64)(read_photo)

    def draw(self, rng: np.random.Generator) -> Tuple[np.ndarray, str, str]:
        """One picture, uint8 RGB (size, size, 3), its kind, and the name of its photo."""
        kind, index = str(rng.choice(self.kinds, p=self.shares)), int(rng.integers(len(self.photos)))
        path = self.photos[index]
        photo = self._read(path)
        picture = (self.degradations.make(index, rng) if kind == REAL_ESRGAN
                   else KINDS[kind](_oriented(_from_8_bit(photo), rng), rng))
        if rng.random() < self.grey:
            picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
        return to_8_bit(_cropped(picture, self.size, rng)), kind, osp.basename(path)


def read_photo(path: str) -> np.ndarray:
    """A photo as uint8 RGB (H, W, 3).

    Raises:
        PictureError: the file cannot be read, or the photo is too small to be reduced.
    """
    bgr = cv2.imread(path, cv2.IMREAD_COLOR)
    if bgr is None:
        raise PictureError(f'{path} is not a picture that can be read; take it out of the folder')
    if min(bgr.shape[:2]) < SMALLEST:
        raise PictureError(f'{path} is {bgr.shape[1]}x{bgr.shape[0]}, photos have at least {SMALLEST} pixels a side; '
                           'take it out of the folder')
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _oriented(photo, rng):
    """Turned and mirrored at random, so that a photo gives more pictures."""
    turned = np.rot90(photo, int(rng.integers(4)))
    return np.ascontiguousarray(turned[:, ::-1] if rng.random() < 0.5 else turned)


def _cropped(picture, size, rng):
    """A random window, of the picture beside its mirror image where it is too small."""
    missing = [max(0, size - side) for side in picture.shape[:2]]
    if any(missing):
        picture = np.pad(picture, ((0, missing[0]), (0, missing[1]), (0, 0)), mode='symmetric')
    for _ in range(4):
        top, left = (int(rng.integers(side - size + 1)) for side in picture.shape[:2])
        window = picture[top:top + size, left:left + size]
        if window.std(axis=(0, 1)).max() > 0.02:  # drawings and screenshots are flat in most places
            break
    return window


def to_8_bit(picture: np.ndarray) -> np.ndarray:
    """[0, 1] to uint8, rounded."""
    return (picture * 255).round().clip(0, 255).astype(np.uint8)


def _from_8_bit(picture):
    return np.asarray(picture, dtype=np.float32) / 255


def _log_uniform(rng, low, high):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _base(photo, rng):
    return photo if rng.random() < 0.4 else reduced(photo, rng).clip(0, 1)


def _resized(picture, scale, interpolation):
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=int(interpolation)).clip(0, 1)


def _coded(picture, extension, quality):
    flag = cv2.IMWRITE_JPEG_QUALITY if extension == '.jpg' else cv2.IMWRITE_WEBP_QUALITY
    bgr = cv2.cvtColor(to_8_bit(picture), cv2.COLOR_RGB2BGR)
    _, code = cv2.imencode(extension, bgr, [flag, int(quality)])
    return _from_8_bit(cv2.cvtColor(cv2.imdecode(code, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def _sharper(picture, rng):
    radius, amount = rng.uniform(0.6, 2.5), rng.uniform(0.3, 2.5)
    return cv2.addWeighted(picture, 1 + amount, cv2.GaussianBlur(picture, (0, 0), radius), -amount, 0).clip(0, 1)


def _finished(picture, rng):
    """As drawn, reduced, or compressed."""
    if rng.random() < 0.4:
        picture = _resized(picture, _log_uniform(rng, 0.4, 1), rng.choice(_INTERPOLATIONS[:4]))
    return _coded(picture, '.jpg', rng.integers(40, 100)) if rng.random() < 0.4 else picture


def _drawing(rng):
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
    picture = _from_8_bit(canvas)
    return _resized(picture, 0.5, cv2.INTER_AREA) if rng.random() < 0.5 else picture  # antialiased


def _box(rng, size):
    width, height = (int(rng.integers(20, max(21, side // 1.5))) for side in size)
    return int(rng.integers(-10, size[0] - 20)), int(rng.integers(-10, size[1] - 20)), width, height


def _colour(rng, pale=False):
    return tuple(int(value) for value in rng.integers(*((200, 256) if pale else (0, 200)), size=3))


def _font(size):
    return ImageFont.load_default(size)
