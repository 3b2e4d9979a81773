"""Which images are taken, and which parts of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from rsr_basicsr.stability.crops import SourceImage, read_images, spread, take_crops, textured_windows
from rsr_basicsr.utils.errors import ImageError


def test_the_textured_part_is_found():
    image = torch.full((1, 3, 90, 120), 0.5)
    image[..., 31:63, 70:102] = torch.rand(3, 32, 32)
    assert textured_windows(image, 33, 1) == [(70, 31)]  # with the step at its right and lower edge
    (left, top), *others = textured_windows(image, 16, 4)
    assert 60 < left <= 90 and 20 < top <= 50 and len(others) == 3


def test_windows_are_those_of_an_exhaustive_search(photo):
    levels = (photo[0] * 255).round().numpy()
    luma = np.tensordot([0.299, 0.587, 0.114], levels, axes=1)
    texture = np.zeros_like(luma)
    texture[:, 1:] += abs(luma[:, 1:] - luma[:, :-1])
    texture[1:] += abs(luma[1:] - luma[:-1])
    sums = {(left, top): texture[top : top + 24, left : left + 24].sum() for left in range(41) for top in range(41)}
    assert textured_windows(photo, 24, 1) == [max(sums, key=sums.get)]


def test_windows_do_not_overlap_and_lie_inside(photo):
    taken = np.zeros((64, 64), int)
    windows = textured_windows(photo, 20, 9)
    for left, top in windows:
        assert 0 <= left <= 44 and 0 <= top <= 44
        taken[top : top + 20, left : left + 20] += 1
    assert len(windows) >= 3 and taken.max() == 1


@pytest.mark.parametrize('images, each', [(1, 8), (3, 3), (8, 1), (20, 1)])
def test_few_images_give_several_crops(images, each):
    sources = [SourceImage(str(number), torch.rand(1, 3, 96, 192)) for number in range(images)]
    crops = take_crops(sources, 24)
    assert len(crops) == images * each and {tuple(crop.lq.shape) for crop in crops} == {(1, 3, 24, 24)}
    for crop in crops:
        cut = crop.image.rgb[..., crop.top : crop.top + 24, crop.left : crop.left + 24]
        assert torch.equal(crop.lq, cut)


def test_small_images_are_taken_whole():
    (crop,) = take_crops([SourceImage('small', torch.rand(1, 3, 30, 20))], 64)
    assert crop.lq.shape == (1, 3, 30, 20) and (crop.left, crop.top) == (0, 0)


def test_images_are_taken_evenly_spread():
    assert spread(list(range(100)), 4) == [12, 37, 62, 87]
    assert spread(list(range(3)), 8) == spread(list(range(3)), 0) == [0, 1, 2]


def test_names_show_no_folder_of_the_machine(tmp_path):
    for name in ('here/a.png', 'here/inside/b.png', 'there/a.png', 'there/c.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / 'there' / 'c.png').write_text('no image')
    found = list(read_images([tmp_path / 'here', tmp_path / 'there']))
    assert [image.name for image in found[:3]] == ['here/a.png', 'inside/b.png', 'there/a.png']
    assert isinstance(found[3], ImageError)
    assert str(found[3]).startswith('c.png is not an image') and str(tmp_path) not in str(found[3])


def test_kinds_of_files_become_8_bit_colour(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 24, 4)).astype(np.uint16)
    for name, content in (('deep', pixels[..., :3]), ('grey', pixels[..., 0] >> 8), ('alpha', pixels >> 8)):
        kind = np.uint16 if name == 'deep' else np.uint8
        cv2.imwrite(str(tmp_path / f'{name}.png'), content.astype(kind))
    found = {image.name: image for image in read_images([tmp_path])}
    notes = {name: ' '.join(image.notes) for name, image in found.items()}
    assert 'alpha channel left out' in notes['alpha.png'] and 'grey' in notes['grey.png']
    assert '16 bits rounded to 8' in notes['deep.png']
    for image in found.values():
        levels = image.rgb * 255
        assert image.rgb.shape == (1, 3, 20, 24) and (levels - levels.round()).abs().max() < 1e-4
