"""``rsr export``: its files compute the same without this package, and keep the protection it reports."""

import math

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from scipy.fft import dctn
from torch import nn
from torch.nn import functional as F

from helpers import SMALL_NETWORKS
from networks import DefendedGain
from rsr_basicsr.archs import RandomFrequencyMask
from rsr_basicsr.archs.defense import CLASSIFIERS
from rsr_basicsr.checkpoints import described
from rsr_basicsr.cli import main
from rsr_basicsr.export import Outputs, export, onnx_file
from rsr_basicsr.ops.caching import for_any_size
from rsr_basicsr.ops.frequency import dct2, filter_dct, idct2, radial_distance
from rsr_basicsr.utils.errors import ExportError

PLAIN = {'RRDBNet': RRDBNet, 'SRVGGNetCompact': SRVGGNetCompact}
NETWORKS = {
    'RRDBNet': {**SMALL_NETWORKS['RRDBNet'], 'num_grow_ch': 32},  # spandrel expects 32
    'SRVGGNetCompact': SMALL_NETWORKS['SRVGGNetCompact'],
}
SMALL = {'type': 'paper', 'weights': 'untrained'}  # the classifier that is recorded fastest


@pytest.fixture
def weights(tmp_path):
    """A function that saves a small defended network as our trainer does, and returns it with the file."""

    def save(name, **defense):
        options = {**NETWORKS[name], 'type': f'Defended{name}', 'defense': {'classifier': SMALL, **defense}}
        net = build_network(options).eval()
        torch.save({'params': net.state_dict(), 'network_g': described(options)}, tmp_path / 'net.pth')
        return net, tmp_path / 'net.pth'

    return save


# --- Operations of a graph for any size -------------------------------------------------------------------------------


@pytest.mark.parametrize('shape', [(2, 3, 16, 16), (1, 2, 31, 50), (1, 1, 130, 17)])
def test_transforms_are_the_same_without_constants(shape):
    x, weight = torch.rand(shape), torch.rand(shape[0], 1, *shape[2:])
    expected = dct2(x), idct2(x), filter_dct(x, weight), radial_distance(*shape[2:])
    with for_any_size():
        found = dct2(x), idct2(x), filter_dct(x, weight), radial_distance(*shape[2:])
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize('name', CLASSIFIERS)
@pytest.mark.parametrize('shape', [(2, 3, 48, 48), (1, 3, 37, 66), (3, 3, 16, 51)])
def test_classifiers_are_the_same_without_constants(name, shape):
    net, x = CLASSIFIERS[name]().eval(), torch.rand(shape)
    with torch.no_grad():
        expected = net(x)
        with for_any_size():
            torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('shape', [(400, 1, 12, 20), (400, 3, 1, 1)])
def test_masks_are_as_likely_without_constants(shape):
    mask = RandomFrequencyMask((0.2, 0.4))
    with for_any_size():
        found = mask.draw(torch.empty(shape)).mean(dim=0)
    expected = mask.draw(torch.empty(4000, *shape[1:])).mean(dim=0)
    assert (found - expected).abs().max() < 0.13  # five standard deviations
    assert abs(found.mean() - expected.mean()) < 0.01


# --- The backbone -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', PLAIN)
def test_a_backbone_is_the_network_with_its_gate_shut(name, weights, tmp_path, capsys):
    net, file = weights(name, gate='always')
    out = tmp_path / 'plain.pth'
    assert main(['export', str(file), '--backbone', str(out)]) == 0
    printed = capsys.readouterr().out
    assert (
        str(out) in printed and 'no masks, no detector' in printed and 'difference from the network 0.0e+00' in printed
    )
    x = torch.rand(1, 3, 18, 22)
    with torch.no_grad(), net.defense.forced(False):
        expected = net(x)
    for key in ('params', 'params_ema'):
        plain = PLAIN[name](**NETWORKS[name]).eval()
        plain.load_state_dict(torch.load(out, weights_only=True)[key], strict=True)
        torch.testing.assert_close(plain(x), expected, rtol=0, atol=0)
    spandrel = pytest.importorskip('spandrel')
    model = spandrel.ModelLoader().load_from_file(out)
    assert (model.scale, model.input_channels, model.output_channels) == (4, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(model.model.eval()(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('name', PLAIN)
def test_real_esrgans_own_program_takes_a_backbone(name, weights, tmp_path):
    realesrgan = pytest.importorskip('realesrgan')
    net, file = weights(name)
    assert main(['export', str(file), '--backbone', str(tmp_path / 'plain.pth')]) == 0
    theirs = realesrgan.RealESRGANer(
        scale=4, model_path=str(tmp_path / 'plain.pth'), device='cpu', pre_pad=0, model=PLAIN[name](**NETWORKS[name])
    )
    image = np.random.default_rng(0).integers(0, 256, (14, 18, 3), np.uint8)
    output, _ = theirs.enhance(image)
    with torch.no_grad(), net.defense.forced(False):
        expected = net(torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255)
    expected = (expected[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()[..., ::-1]
    assert np.abs(output - expected).max() <= 1


# --- Graphs -----------------------------------------------------------------------------------------------------------


def runners(folder):
    """The exported files as functions that do not use this package."""
    onnxruntime = pytest.importorskip('onnxruntime')
    session = onnxruntime.InferenceSession(str(folder / 'net.onnx'))
    found = {'onnx': lambda x: session.run(None, {'input': x.numpy()})[0]}
    if (folder / 'net.pt2').exists():
        program = torch.export.load(folder / 'net.pt2').module()
        found['torch'] = lambda x: program(x).detach().numpy()  # torch 2.9 reads parameters that ask for a gradient
    return found


def assert_masked(masked, image):
    """Of each channel the inner coefficients are there, and of the others some, unchanged: the same in all channels."""
    before, after = (dctn(x.astype(np.float64), axes=(-2, -1), norm='ortho') for x in (image, masked))
    height, width = image.shape[-2:]
    distance = np.hypot(*np.ogrid[:height, :width])
    stays = np.abs(after - before).max(axis=0) < 1e-4
    assert stays[distance <= 0.43 * math.hypot(height, width)].all()
    assert np.abs(after[:, ~stays]).max() < 1e-4
    assert 0.45 < stays.mean() < 0.7


def test_a_graph_takes_any_size_and_keeps_gate_and_masks(tmp_path):
    pytest.importorskip('onnxscript')
    net = DefendedGain(defense={'classifier': SMALL, 'seed': 3}).eval()  # its output shows what was masked
    images = [torch.rand(1, 3, 45, 38), torch.rand(1, 3, 45, 38) / 10]
    attacked, clean = sorted(images, key=lambda x: net.defense.classifier.clean_probability(x).item())
    net.defense.threshold = net.defense.classifier.clean_probability(torch.cat(images)).mean().item()
    first, second = export(net, Outputs(torch=tmp_path / 'net.pt2', onnx=tmp_path / 'net.onnx'))
    assert first.difference < 1e-5 and second.difference < 1e-5
    assert all(
        part in first.protection
        for part in ('the detector', f'{net.defense.threshold:.4f}', 'new masks in every run', 'seed 3')
    )
    assert net.defense.seed == 3  # the network itself stays as it is
    for name, run in runners(tmp_path).items():
        for batch in ([clean, attacked, clean], [attacked], [clean]):
            x = torch.cat(batch)
            outputs = [run(x) / 3 for _ in range(2)]
            for output in outputs:
                assert output.shape == (len(batch), 3, 90, 76), name
            for number, image in enumerate(batch):
                one, other = (output[number, :, ::2, ::2] for output in outputs)
                if image is clean:
                    np.testing.assert_allclose(one, image[0], atol=1e-5)
                else:
                    assert np.abs(one - other).max() > 0.01, name
                    assert_masked(one, image[0].numpy())
        assert run(torch.rand(2, 3, 16, 61)).shape == (2, 3, 32, 122)


def test_a_graph_of_one_size_keeps_the_masks_of_a_seed(weights, tmp_path, capsys):
    pytest.importorskip('onnxscript')
    net, file = weights('SRVGGNetCompact', gate='classifier')
    assert (
        main(
            [
                'export',
                str(file),
                '--onnx',
                str(tmp_path / 'net.onnx'),
                '--gate',
                'always',
                '--size',
                '20',
                '28',
                '--seed',
                '1',
            ]
        )
        == 0
    )
    assert 'the masks of seed 1' in capsys.readouterr().out
    net.defense.gate, net.defense.seed = 'always', 1
    x = torch.rand(1, 3, 20, 28)
    with torch.no_grad():
        expected = net(x).numpy()
    np.testing.assert_allclose(runners(tmp_path)['onnx'](x), expected, atol=1e-4)


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'flags, code, message',
    [
        ([], 2, 'nothing to write'),
        (['--onnx', 'there.onnx'], 2, 'there.onnx is there already'),
        (['--torch', 'no/such.pt2'], 2, 'there is no folder no'),
        (['--torch', 'a', '--onnx', './a'], 2, 'a is named twice'),
        (['--backbone', 'net.pth', '--overwrite'], 2, 'net.pth is what is to be exported'),
        (['--backbone', 'a', '--gate', 'always'], 2, '--gate, --size and --seed are for --torch and --onnx'),
        (['--torch', 'a', '--seed', '1'], 2, '--seed 1: the masks of a seed are for one size'),
        (['--torch', 'a', '--size', '0', '16'], 2, '--size 0 16'),
        (['--torch', 'a', '--size', '99999', '99999'], 2, 'at most 64 million pixels'),
        (['--torch', 'a', '--size', '16', '16', '--seed', '-1'], 2, '--seed -1'),
    ],
)
def test_bad_requests_are_one_sentence_and_write_nothing(flags, code, message, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights('SRVGGNetCompact')
    (tmp_path / 'there.onnx').write_bytes(b'mine')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(['export', 'net.pth', *flags]) == code
    printed = capsys.readouterr()
    assert message in printed.err and len(printed.err.splitlines()) == 1 and not printed.out
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_missing_packages_are_named_with_the_remedy(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_file, 'PACKAGES', ('torch', 'no_such_package_of_theirs'))
    _, file = weights('SRVGGNetCompact')
    assert main(['export', str(file), '--onnx', str(tmp_path / 'a.onnx')]) == 2
    assert 'pip install no_such_package_of_theirs\n' in capsys.readouterr().err


class OneSize(nn.Module):
    def forward(self, x):
        return F.interpolate(x.reshape(-1, 3, 48, 64), scale_factor=2)


class Forgetful(nn.Module):
    calls = 0

    def forward(self, x):
        Forgetful.calls += 1
        return x * Forgetful.calls


def test_a_backbone_of_a_plain_network_claims_no_training(tmp_path, capsys):
    torch.save({'params': SRVGGNetCompact(**NETWORKS['SRVGGNetCompact']).state_dict()}, tmp_path / 'net.pth')
    assert main(['export', str(tmp_path / 'net.pth'), '--backbone', str(tmp_path / 'copy.pth')]) == 0
    assert 'the network has no defence' in capsys.readouterr().out


@pytest.mark.parametrize('net, message', [(OneSize(), 'give --size HEIGHT WIDTH'), (Forgetful(), 'would differ')])
def test_unsupported_networks_are_not_written(net, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        list(export(net, Outputs(torch=tmp_path / 'a.pt2')))
    assert list(tmp_path.iterdir()) == []
    if isinstance(net, OneSize):
        (written,) = export(net, Outputs(torch=tmp_path / 'a.pt2'), size=(48, 64))
        assert written.accepts == 'one image of 48x64' and 'no defence' in written.protection


def test_masks_within_rounding_of_a_threshold_are_compared_once_more(tmp_path, monkeypatch):
    pytest.importorskip('onnxscript')
    net, verify = DefendedGain(defense={'gate': 'always'}).eval(), onnx_file.verify
    flipped = iter([True, False, True, True])
    monkeypatch.setattr(onnx_file, 'verify', lambda *args: [(0.0013, 1.0)] if next(flipped) else verify(*args))
    (written,) = export(net, Outputs(onnx=tmp_path / 'net.onnx'))
    assert written.difference < 1e-5
    with pytest.raises(ExportError, match='would differ from the network by 0.0013'):
        list(export(net, Outputs(onnx=tmp_path / 'other.onnx')))
    assert [file.name for file in tmp_path.iterdir()] == ['net.onnx'] and not list(flipped)


def test_loop_of_links_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'loop.pth').symlink_to('loop.pth')
    assert main(['export', 'loop.pth', '--backbone', 'out.pth']) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / 'out.pth').exists()
