"""Together with other packages: Real-ESRGAN's, and one that registers an architecture, a data set and a model."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from helpers import paired_options, write
from rsr_basicsr.cli import main

#: A package for BasicSR by someone who does not know this one
PACKAGE = """
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
from torch import nn


@ARCH_REGISTRY.register()
class MyNet(nn.Module):
    def __init__(self, num_feat=4, scale=4):
        super().__init__()
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.tail = nn.Sequential(nn.Conv2d(num_feat, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x):
        return self.tail(self.head(x).relu())


@DATASET_REGISTRY.register()
class MyPairs(PairedImageDataset):
    pass


@MODEL_REGISTRY.register()
class MyModel(SRModel):
    pass
"""
#: Lines that its user adds
DEFENDED = """
import madeup
from basicsr.utils.registry import MODEL_REGISTRY
from rsr_basicsr import MaskPoint, defend_model, register_defended

register_defended({'tail': MaskPoint('tail')})(madeup.MyNet)
MODEL_REGISTRY.register(defend_model(madeup.MyModel))
"""
#: Imports everything before this package, by someone who has patched torchvision already
THEM_FIRST = """
import sys, types
from torchvision.transforms.functional import rgb_to_grayscale
alias = types.ModuleType('torchvision.transforms.functional_tensor')
alias.rgb_to_grayscale = rgb_to_grayscale
sys.modules[alias.__name__] = alias
import basicsr, madeup
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
before = {name for registry in (ARCH_REGISTRY, MODEL_REGISTRY) for name in registry.keys()}
try:
    import realesrgan
except ImportError:
    realesrgan = None
import defended_mine
"""
US_FIRST = """
import rsr_basicsr
import defended_mine, madeup
try:
    import realesrgan
except ImportError:
    realesrgan = None
before = {'MyNet', 'MyModel', 'RRDBNet', 'SRModel'}
"""
THEN = """
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
after = {name for registry in (ARCH_REGISTRY, MODEL_REGISTRY) for name in registry.keys()}
assert before <= after and {'DefendedMyNet', 'DefendedMyModel', 'DefendedRRDBNet', 'DefendedSRModel'} <= after
assert ARCH_REGISTRY.get('MyNet') is madeup.MyNet
net = build_network(dict(type='DefendedMyNet', defense=dict(gate='always', seed=0))).eval()
assert [place.point for place in net.mask_places(8, 8)] == ['input', 'tail']
net(torch.rand(1, 3, 8, 8))
if realesrgan is not None:
    small = dict(num_feat=8, num_conv=2, upscale=4)
    defended = build_network(dict(type='DefendedSRVGGNetCompact', **small, defense=dict(gate='always', seed=0)))
    torch.save({'params': defended.state_dict()}, 'net.pth')
    theirs = realesrgan.RealESRGANer(scale=4, model_path='net.pth', model=defended, pre_pad=0, device='cpu')
    image = (torch.rand(12, 16, 3) * 255).round().byte()
    output, _ = theirs.enhance(image.numpy())
    lq = image.permute(2, 0, 1).flip(0)[None].float() / 255
    with torch.no_grad():
        expected = (defended.eval()(lq)[0].clamp(0, 1) * 255).round().byte().flip(0).permute(1, 2, 0)
    assert (torch.from_numpy(output).int() - expected.int()).abs().max() <= 1
    print('RealESRGANer agrees')
print('all of it works')
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('plugins')
    (folder / 'madeup').mkdir()
    (folder / 'madeup' / '__init__.py').write_text(PACKAGE)
    (folder / 'defended_mine.py').write_text(DEFENDED)
    return folder


@pytest.mark.parametrize('first', [THEM_FIRST, US_FIRST], ids=['them first', 'us first'])
def test_any_import_order_with_other_packages(first, folder):
    run = subprocess.run([sys.executable, '-c', first + THEN], cwd=folder, capture_output=True, text=True)
    assert 'all of it works' in run.stdout, run.stderr
    assert ('RealESRGANer agrees' in run.stdout) == (importlib.util.find_spec('realesrgan') is not None)


def test_model_of_another_package_trains(folder, pairs, photos):
    opt = paired_options(pairs, model_type='DefendedMyModel', network='DefendedMyNet', iterations=2, photos=photos)
    opt['network_g'] = {
        'type': 'DefendedMyNet',
        'num_feat': 4,
        'defense': {'points': ['tail'], 'classifier': {'type': 'paper', 'weights': 'untrained'}},
    }
    opt['datasets']['train']['type'] = 'MyPairs'
    write(opt, folder / 'options.yml')
    run = subprocess.run(
        [sys.executable, '-m', 'rsr_basicsr.train', '-opt', 'options.yml', '--import', 'defended_mine'],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    saved = torch.load(folder / 'experiments' / opt['name'] / 'models' / 'net_g_latest.pth', weights_only=True)
    assert 'head.weight' in saved['params'] and saved['network_g']['type'] == 'DefendedMyNet'


@pytest.mark.parametrize(
    'text, said',
    [
        ('import torch\n\nraise ValueError("not\\ntoday")\n', 'broken.py, line 3: ValueError: not today'),
        ('def broken(:\n', 'broken.py, line 1: SyntaxError: '),
        ('import json\njson.loads("{")\n', 'broken.py, line 2: JSONDecodeError: '),
        ('import sys\nsys.exit(0)\n', 'broken.py, line 2: SystemExit: 0'),
        (
            'from basicsr.utils.registry import ARCH_REGISTRY\n\n\n@ARCH_REGISTRY.register()\nclass SwinIR: ...\n',
            'broken.py, line 4: AssertionError: ',
        ),
    ],
)
def test_module_that_raises_is_named_with_its_line(text, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    (tmp_path / 'broken.py').write_text(text)
    monkeypatch.delitem(sys.modules, 'broken', raising=False)
    assert main(['upscale', 'a.png', '-n', 'realesr-animevideov3', '--import', 'broken']) == 2
    error = capsys.readouterr().err
    assert error.startswith('rsr upscale: --import broken: ') and said in error and 'Traceback' not in error
    assert error.count('\n') == 1
