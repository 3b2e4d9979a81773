"""The page of ``rsr stability``, as text and in a browser."""

from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest
import torch
from browser import ask_page
from torch import nn
from torch.nn import functional as F

from rsr_basicsr.stability import measure_stability
from rsr_basicsr.stability.maps import heat_map, scale_bar
from rsr_basicsr.stability.page import write_stability

ASK = """
  const seen = () => [...new Set([...document.querySelectorAll('[data-eps]')].filter(
    (part) => part.getClientRects().length).map((part) => part.dataset.eps))].join();
  const said = {before: seen(), width: document.documentElement.scrollWidth, window: innerWidth,
                images: document.images.length, loaded: [...document.images].every((i) => i.naturalWidth > 0),
                names: [...document.querySelectorAll('article h3')].map((h) => h.firstChild.data.trim()).join()};
  document.querySelector('.switch input').click();
  said.after = seen();
  const bar = document.querySelector('.scale:not([hidden])');
  said.ticks = [...bar.querySelectorAll('span')].map((tick) => tick.innerText).join();
  said.flat = [...bar.querySelectorAll('.ticks')].every((ticks) => ticks.getBoundingClientRect().height < 30);
  return said;
"""


class Triple(nn.Module):
    """Amplifies noise around mid grey 3 times, upscales by 2."""

    def forward(self, x):
        return F.interpolate(0.5 + 3 * (x - 0.5), scale_factor=2.0, mode='nearest')


@pytest.fixture(scope='module')
def result(photo):
    """Measured at eps 2 and 8: a grey image, which shows the gain, and a photo, on which it clips."""
    grey = torch.rand(1, 3, 40, 40) * 0.2 + 0.4
    return measure_stability(Triple(), [photo, grey, photo[..., :8]], name='<triple>', steps=2, crop=32, device='cpu')


@pytest.mark.parametrize('width', [390, 1200])
def test_page_in_a_browser(width, result, tmp_path):
    said = ask_page(write_stability(result, tmp_path), ASK, width)
    assert said['errors'] == '' and said['loaded'] == 'true'  # an external request would violate the page's policy
    assert int(said['window']) == width and int(said['width']) <= width
    assert (said['before'], said['after']) == ('8', '2')
    # Per crop input and output, per eps attacked input, output and map; the input is repeated; one bar per eps.
    assert int(said['images']) == len(result.crops) * (2 * 2 + 2 * 3) + 2
    assert said['names'].split(',')[0] == 'image 2'
    assert said['ticks'] == '0,2,4,6,8,0,1,2,3,4' and said['flat'] == 'true'


def test_page_is_whole_and_names_no_folder(result, tmp_path):
    page = write_stability(result, tmp_path / 'a' / 'b').read_text(encoding='utf-8')
    assert '&lt;triple&gt; amplifies noise' in page and '<triple>' not in page
    assert 'Left out: image 3: 8x64 pixels are too few' in page
    assert not re.search(r'https?:|file:|src="(?!data:)', page) and str(tmp_path) not in page
    assert "default-src 'none'" in page
    maps = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"[^>]*alt="image 2, map of the change', page)
    assert len(maps) == 2
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(maps[1]), np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (64, 64, 3)


def test_brighter_is_less_stable():
    gains = np.tile(np.linspace(0, 4, 256, dtype=np.float32), (12, 1))
    grey = np.full((12, 256, 3), 128, np.uint8)
    drawn = heat_map(gains, 4, grey)
    assert np.array_equal(drawn, scale_bar())
    luma = cv2.cvtColor(drawn, cv2.COLOR_BGR2GRAY)[0].astype(int)
    assert (np.diff(luma) >= -1).all() and luma[-1] - luma[0] > 120
    assert np.array_equal(heat_map(gains * 0 + 9, 4, grey)[0, 0], drawn[0, -1])  # beyond the scale
