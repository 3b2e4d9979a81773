"""Image files of all kinds: read like other libraries, and written without loss."""

import io
import os
import subprocess
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from rsr_basicsr.inference.image_io import LoadedImage, check_size, read_image, write_image
from rsr_basicsr.utils.errors import ImageError

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


@pytest.fixture
def rgb():
    return np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def by_opencv(path, rgb):
    """Write by OpenCV, whose channel order is blue, green, red, alpha."""
    assert cv2.imwrite(str(path), rgb[..., [2, 1, 0, 3][: rgb.shape[2]]] if rgb.ndim == 3 else rgb)
    return path


def test_read_all_kinds_of_images(rgb, tmp_path):
    expected = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    torch.testing.assert_close(read_image(by_opencv(tmp_path / 'rgb.png', rgb)).rgb, expected)
    alpha = np.concatenate([rgb, rgb[..., :1] // 2], axis=2)
    torch.testing.assert_close(read_image(by_opencv(tmp_path / 'rgba.png', alpha)).rgb, expected)
    deep = by_opencv(tmp_path / 'deep.png', rgb.astype(np.uint16) * 257)
    torch.testing.assert_close(read_image(deep).rgb, expected)
    grey = read_image(by_opencv(tmp_path / 'grey.png', rgb[..., 0]))
    torch.testing.assert_close(grey.rgb, expected[:, :1].expand(-1, 3, -1, -1))
    assert read_image(by_opencv(tmp_path / 'dot.png', rgb[:1, :1])).rgb.shape == (1, 3, 1, 1)
    floats = read_image(by_opencv(tmp_path / 'floats.tiff', rgb.astype(np.float32) / 255))
    torch.testing.assert_close(floats.rgb, expected)


@pytest.mark.parametrize(
    'make, sentence',
    [
        (lambda path: None, 'no such file'),
        (lambda path: path.mkdir(), 'cannot be read'),
        (lambda path: path.write_bytes(b''), 'is not an image that can be read'),
        (lambda path: path.write_bytes(b'not an image'), 'is not an image that can be read'),
        (lambda path: cv2.imwrite(str(path), np.full((8, 8, 3), np.nan, np.float32)), 'not numbers in'),
        (lambda path: cv2.imwrite(str(path), np.full((8, 8, 3), 200, np.float32)), 'not numbers in'),
    ],
)
def test_exception_names_the_unreadable_file(make, sentence, tmp_path):
    path = tmp_path / 'p.tiff'
    make(path)
    with pytest.raises(ImageError, match=sentence) as error:
        read_image(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP'])
def test_exception_on_truncated_file(kind, rgb, tmp_path):
    content = io.BytesIO()
    Image.fromarray(rgb).save(content, format=kind)
    (tmp_path / 'half').write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    with pytest.raises(ImageError, match='is not an image that can be read'):
        read_image(tmp_path / 'half')


def test_exception_on_oversized_header(rgb, tmp_path):
    content = bytearray(cv2.imencode('.png', rgb)[1].tobytes())
    content[16:24] = (60000).to_bytes(4, 'big') * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, 'big')
    (tmp_path / 'huge.png').write_bytes(content)
    with pytest.raises(ImageError, match='is too large.*cut it into parts'):
        read_image(tmp_path / 'huge.png')


def pixels_of(image):
    return (image.rgb[0] * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize('ending', ['png', 'tif', 'webp'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_reference_pillow(orientation, ending, rgb, tmp_path):
    image = Image.fromarray(rgb)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = tmp_path / f'turned.{ending}'
    image.save(path, exif=exif, **({'lossless': True} if ending == 'webp' else {}))
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    image = read_image(path)
    assert np.array_equal(pixels_of(image), expected)
    assert bool(image.notes) == (orientation != 1)
    write_image(tmp_path / 'again.png', image)  # which must not be turned once more
    assert np.array_equal(pixels_of(read_image(tmp_path / 'again.png')), expected)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_of_deep_tiff(orientation, rgb, tmp_path):
    grey = rgb[..., 0].astype(np.uint16) * 257
    Image.fromarray(grey).save(tmp_path / 'deep.tif', tiffinfo={0x0112: orientation})
    Image.fromarray(rgb[..., 0]).save(tmp_path / 'flat.tif', tiffinfo={0x0112: orientation})
    assert np.array_equal(*(pixels_of(read_image(tmp_path / f'{name}.tif')) for name in ('deep', 'flat')))


@pytest.mark.parametrize('kind', ['TIFF', 'JPEG'])
def test_cmyk_is_converted_to_rgb(kind, tmp_path):
    blue = Image.new('CMYK', (16, 16), (255, 255, 0, 0))
    blue.save(tmp_path / 'print', format=kind)
    image = read_image(tmp_path / 'print')
    assert image.alpha is None and 'CMYK converted to RGB' in image.notes
    assert np.abs(pixels_of(image).astype(int) - (0, 0, 255)).max() < 8


def test_transparent_colour_becomes_alpha(rgb, tmp_path):
    rgb[:10] = 255, 0, 255
    Image.fromarray(rgb).save(tmp_path / 'key.png', transparency=(255, 0, 255))
    Image.fromarray(rgb).quantize(8).save(tmp_path / 'palette.png', transparency=0)
    Image.fromarray(rgb[..., 1]).save(tmp_path / 'grey.png', transparency=0)
    assert not read_image(tmp_path / 'key.png').alpha[..., :10, :].any()
    for name in ('key', 'palette', 'grey'):
        with Image.open(tmp_path / f'{name}.png') as opened:
            expected = np.asarray(opened.convert('RGBA'))[..., 3]
        assert np.array_equal(read_image(tmp_path / f'{name}.png').alpha[0, 0].mul(255).byte().numpy(), expected)
    assert read_image(tmp_path / 'grey.png').grey


def test_exif_and_resolution_are_kept_or_said_to_be_dropped(rgb, tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = 'Maker', 6
    Image.fromarray(rgb).save(tmp_path / 'in.jpg', exif=exif, dpi=(300, 300))
    image = read_image(tmp_path / 'in.jpg')
    for ending, lost in (
        ('jpg', ''),
        ('png', ''),
        ('tif', ''),
        ('webp', 'resolution dropped'),
        ('bmp', 'EXIF dropped'),
    ):
        notes = ' '.join(write_image(tmp_path / f'out.{ending}', image).notes)
        assert lost in notes and ('dropped' in notes) == bool(lost), notes
        with Image.open(tmp_path / f'out.{ending}') as written:
            assert (written.getexif().get(0x010F) == 'Maker') == (ending != 'bmp')
            assert written.getexif().get(0x0112, 1) == 1 and written.size == (20, 30)
            assert ending == 'webp' or round(float(written.info['dpi'][0])) == 300
    deep = ' '.join(write_image(tmp_path / 'deep.png', image.replaced(bits=16)).notes)
    assert 'EXIF dropped' in deep and 'resolution dropped' in deep


def test_other_programs_are_not_started(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, 'Popen', lambda *args, **kwargs: started.append(args))
    for name, content in (
        ('postscript.png', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n'),
        ('metafile.png', b'\xd7\xcd\xc6\x9a' + bytes(40)),
        ('flipbook.png', b'8BPS' + bytes(40)),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match='is not an image that can be read'):
            read_image(tmp_path / name)
    assert not started


@pytest.mark.parametrize('kind', [os.mkfifo, lambda path: path.symlink_to('/dev/zero')])
def test_neither_pipe_nor_device_is_read(kind, tmp_path):
    kind(tmp_path / 'p.png')
    with pytest.raises(ImageError, match='no regular file'):
        read_image(tmp_path / 'p.png')


@pytest.mark.parametrize('ending, limit', [('webp', 16383), ('jpg', 65500), ('jfif', 65500)])
def test_limits_of_encoders(ending, limit, tmp_path):
    check_size(tmp_path / f'p.{ending}', 1, limit)
    with pytest.raises(ImageError, match=f'holds at most {limit} pixels per side'):
        check_size(tmp_path / f'p.{ending}', limit + 1, 1)
    strip = LoadedImage(torch.zeros(1, 3, 1, limit).expand(1, 3, 2, limit))
    write_image(tmp_path / f'p.{ending}', strip)  # the encoder agrees
    assert read_image(tmp_path / f'p.{ending}').rgb.shape == (1, 3, 2, limit)
    check_size(tmp_path / 'p.png', 1, 10**6)


@pytest.mark.parametrize('alpha', [False, True])
@pytest.mark.parametrize('grey', [False, True])
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('ending', ['png', 'tif', 'jpg', 'webp', 'bmp'])
def test_round_trip_keeps_or_notes_everything(ending, bits, grey, alpha, tmp_path):
    values = torch.nn.functional.interpolate(torch.rand(1, 4, 4, 5), (16, 20), mode='bicubic').clamp(0, 1)
    rgb = values[:, :1].expand(-1, 3, -1, -1) if grey else values[:, :3]
    image = LoadedImage(rgb, values[:, 3:] if alpha else None, grey, bits, PROFILE)
    path = tmp_path / f'p.{ending}'
    notes = ' '.join(write_image(path, image).notes)
    found = read_image(path)
    lossless = ending in ('png', 'tif', 'bmp')
    assert found.bits == (bits if ending in ('png', 'tif') else 8)
    assert ('16 bits reduced' in notes) == (found.bits != bits)
    assert (found.alpha is None) == (not alpha or ending in ('jpg', 'bmp'))
    assert ('alpha channel dropped' in notes) == (alpha and found.alpha is None)
    assert (found.profile == PROFILE) != ('ICC profile dropped' in notes)
    levels = 65535 if found.bits == 16 else 255
    difference = (found.rgb - rgb).abs() * levels
    assert difference.max() <= 0.51 if lossless else difference.mean() < 25
    if found.alpha is not None:
        assert (found.alpha - values[:, 3:]).abs().max() * levels <= 0.51
    if found.profile is not None:  # another library finds it, too
        assert Image.open(path).info['icc_profile'] == PROFILE


def test_cmyk_profile_is_dropped(rgb, tmp_path):
    Image.fromarray(rgb).convert('CMYK').save(tmp_path / 'print.jpg', icc_profile=b'a profile')
    image = read_image(tmp_path / 'print.jpg')
    assert image.profile is None and 'CMYK' in image.notes[0] and image.rgb.shape == (1, 3, 20, 30)


def test_exception_on_unknown_format_and_missing_folder(tmp_path):
    with pytest.raises(ImageError, match="unknown image format '.gif'"):
        write_image(tmp_path / 'p.gif', LoadedImage(torch.rand(1, 3, 4, 4)))
    with pytest.raises(ImageError, match='cannot be written'):
        write_image(tmp_path / 'none' / 'p.png', LoadedImage(torch.rand(1, 3, 4, 4)))
    assert not list(tmp_path.iterdir())
