"""``rsr upscale``: against Real-ESRGAN, seams, kinds of files, verdicts, errors."""

import json

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from PIL import Image

from helpers import SMALL_NETWORKS
from rsr_basicsr.attacks import PGD
from rsr_basicsr.catalog.weights import WEIGHTS
from rsr_basicsr.cli import main
from rsr_basicsr.inference.image_io import LoadedImage, read_image, write_image
from rsr_basicsr.inference.upscaler import Upscaler
from rsr_basicsr.weights.state_dict import load_state


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """Weight file of a small defended network x4."""
    net = build_network({**SMALL_NETWORKS['SRVGGNetCompact'], 'type': 'DefendedSRVGGNetCompact'})
    path = tmp_path_factory.mktemp('net') / 'net.pth'
    torch.save({'params': net.state_dict()}, path)
    return str(path)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Working directory with a folder ``in``: a photo as RGB, grey (in a subfolder), RGBA and with 16 bits."""
    monkeypatch.chdir(tmp_path)
    photo = cv2.resize(cv2.cvtColor(_astronaut(), cv2.COLOR_RGB2BGR), (40, 32), interpolation=cv2.INTER_AREA)
    (tmp_path / 'in' / 'inside').mkdir(parents=True)
    alpha = np.full((32, 40, 1), 255, np.uint8)
    alpha[:, :20] = 0
    for name, pixels in (
        ('rgb.jpg', photo),
        ('inside/grey.png', photo[..., 1]),
        ('deep.png', photo * np.uint16(257)),
        ('rgba.png', np.concatenate([photo, alpha], axis=2)),
    ):
        assert cv2.imwrite(f'in/{name}', pixels)
    return tmp_path


def _astronaut():
    from skimage import data

    return data.astronaut()


def test_kind_of_image_is_kept(files, small, capsys):
    assert main(['upscale', 'in', '-n', small, '-o', 'out']) == 0
    out = capsys.readouterr().out
    assert '4 of 4 images upscaled into out' in out and out.count('P(clean)') == 4
    found = {
        str(path.relative_to('out')): cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for path in (files / 'out').relative_to(files).rglob('*.*')
    }
    assert {name: (pixels.shape, pixels.dtype.name) for name, pixels in found.items()} == {
        'rgb_out.jpg': ((128, 160, 3), 'uint8'),
        'inside/grey_out.png': ((128, 160), 'uint8'),
        'deep_out.png': ((128, 160, 3), 'uint16'),
        'rgba_out.png': ((128, 160, 4), 'uint8'),
    }


def test_reference_real_esrgan(files, real_weights):
    RealESRGANer = pytest.importorskip('realesrgan').RealESRGANer
    options = {key: value for key, value in WEIGHTS['realesr-animevideov3'].network.items() if key != 'type'}
    network = build_network({**options, 'type': 'SRVGGNetCompact'})
    theirs = RealESRGANer(scale=4, model_path=str(real_weights), model=network, pre_pad=0, device=torch.device('cpu'))
    for flags, outscale in (([], None), (['-s', '2.5', '--overwrite'], 2.5)):
        assert main(['upscale', 'in', '-n', 'realesr-animevideov3', '-o', 'out', *flags]) == 0
        for name in ('rgba', 'deep'):
            image = cv2.imread(f'in/{name}.png', cv2.IMREAD_UNCHANGED)
            expected, _ = theirs.enhance(image, outscale=outscale)
            found = cv2.imread(f'out/{name}_out.png', cv2.IMREAD_UNCHANGED)
            levels = 257 if found.dtype == np.uint16 else 1
            difference = np.abs(found.astype(float) - expected.astype(float)) / levels
            assert found.shape == expected.shape and found.dtype == expected.dtype
            # They round before the final resize.
            assert difference.max() <= (1 if outscale is None else 3)


def test_no_seams(real_weights, photo, tmp_path):
    options = {**WEIGHTS['realesr-animevideov3'].network, 'type': 'DefendedSRVGGNetCompact'}
    net = build_network(options).eval()
    net.load_state_dict(load_state(real_weights))
    image = LoadedImage(photo.repeat(1, 1, 2, 2)[..., :100, :125])
    whole, tiled = (
        Upscaler(net, tile=tile, overlap=32, gate='always', seed=1, device='cpu')(image)[0].rgb for tile in (0, 48)
    )
    difference = (whole - tiled).abs()[..., 4:-4, 4:-4] * 255
    assert (difference < 1).float().mean() > 0.999


def test_verdict_per_image_and_report(files, real_network, photo, small, capsys):
    attacked = PGD(eps=8, steps=5, quantize='nearest', seed=0)(real_network, photo)
    write_image(files / 'a.png', LoadedImage(attacked))
    write_image(files / 'b.png', LoadedImage(photo))
    assert (
        main(['upscale', 'a.png', 'b.png', '-n', small, '--report', 'report.json', '--tile', '24', '--tile_pad', '8'])
        == 0
    )
    assert 'a.png: 64x64 -> 256x256' in capsys.readouterr().out
    report = json.loads((files / 'report.json').read_text())
    assert main(['detect', '--json', 'a.png', 'b.png']) == 3
    verdicts = json.loads(capsys.readouterr().out)
    for found, expected in zip(report['images'], verdicts):
        assert found['clean_probability'] == pytest.approx(expected['clean_probability'], abs=1e-5)
        assert found['attacked'] == expected['attacked'] == bool(found['masked'])
        assert {key: found[key] for key in ('file', 'width', 'height')} == {
            key: expected[key] for key in ('file', 'width', 'height')
        }
        assert found['output_width'] == found['output_height'] == 256
    assert [found['attacked'] for found in report['images']] == [True, False]
    assert report['defended'] and report['gate'] == 'classifier'


def test_seed_and_gate(files, small):
    outputs = []
    for suffix, flags in (('a', ['--seed', '1']), ('b', ['--seed', '1']), ('c', ['--seed', '2']), ('d', [])):
        gate = ['--gate', 'always']
        assert main(['upscale', 'in/deep.png', '-n', small, '-o', 'out', '--suffix', suffix, *flags, *gate]) == 0
        outputs.append(read_image(f'out/deep_{suffix}.png').rgb)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2]) and not torch.equal(outputs[0], outputs[3])


def test_undefended_network_never_masks(files, real_weights, capsys):
    assert main(['upscale', 'in/deep.png', '-n', 'realesr-animevideov3', '--gate', 'always']) == 2
    assert 'gate and seed need a defended network' in capsys.readouterr().err
    assert main(['upscale', 'in/deep.png', '-n', 'realesr-animevideov3']) == 0
    captured = capsys.readouterr()
    assert 'is not defended' in captured.err and 'masked' not in captured.out


def test_unreadable_files_are_listed(files, small, capsys):
    (files / 'in' / 'cut.jpg').write_bytes((files / 'in' / 'rgb.jpg').read_bytes()[:300])
    (files / 'in' / 'text.png').write_text('no image')
    assert main(['upscale', 'in', 'none.png', '-n', small, '-o', 'out', '--report', 'r.json']) == 1
    captured = capsys.readouterr()
    assert '4 of 7 images upscaled' in captured.out
    for name in ('cut.jpg', 'text.png', 'none.png'):
        assert name in captured.err
    assert 'Traceback' not in captured.err and len(list((files / 'out').rglob('*.*'))) == 4
    assert sum(bool(found['error']) for found in json.loads((files / 'r.json').read_text())['images']) == 3


def test_20_of_200_files_broken(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'in').mkdir()
    rng = np.random.default_rng(0)
    for number in range(200):
        ending = ['png', 'jpg', 'webp', 'tif', 'bmp'][number % 5]
        pixels = rng.integers(0, 256, (*rng.integers(8, 24, 2), 3)).astype(np.uint8)
        content = cv2.imencode(f'.{ending}', pixels if number % 7 else pixels[..., 0])[1].tobytes()
        broken = [b'', b'text', content[: len(content) // 2]][number % 3]
        (tmp_path / 'in' / f'{number}.{ending}').write_bytes(content if number % 10 else broken)
    assert main(['upscale', 'in', '-n', small, '-o', 'out']) == 1
    captured = capsys.readouterr()
    assert '180 of 200 images upscaled' in captured.out and captured.err.count('is not an image that can be') == 20
    results = list((tmp_path / 'out').iterdir())
    assert len(results) == 180 and all(cv2.imread(str(path)) is not None for path in results)


def test_existing_results_are_kept(files, small, capsys):
    def pixels():
        return (files / 'out' / 'rgb_out.jpg').read_bytes()

    arguments = ['upscale', 'in/rgb.jpg', '-n', small, '-o', 'out', '--gate', 'always', '--report', 'r.json']
    assert main(arguments) == 0
    before = pixels()
    assert main(arguments) == 2 and 'r.json is there already' in capsys.readouterr().err
    assert main(['upscale', 'in/inside/grey.png', *arguments[1:-2]]) == 0 and pixels() == before
    out = capsys.readouterr().out
    assert 'in/rgb.jpg: skipped, out/rgb_out.jpg is there already' in out
    assert '1 of 2 images upscaled into out' in out and '; 1 were there already' in out
    assert main([*arguments[:-1], 'out/r.json']) == 0  # a folder of results may hold the report
    assert [found['skipped'] for found in json.loads((files / 'out/r.json').read_text())['images']] == [True]
    assert main([*arguments, '--overwrite']) == 0 and pixels() != before  # masks were drawn anew
    original = (files / 'in' / 'rgb.jpg').read_bytes()
    assert main(['upscale', 'in/rgb.jpg', '-n', small, '-o', 'in', '--suffix', '', '--overwrite']) == 1
    assert 'would overwrite the input image' in capsys.readouterr().err
    assert (files / 'in' / 'rgb.jpg').read_bytes() == original
    assert main(['upscale', 'in/rgb.jpg', 'in/rgb.jpg', '-n', small, '-o', 'out', '--overwrite']) == 1
    assert 'would overwrite that of another image' in capsys.readouterr().err


def test_no_download_for_missing_images(files, capsys):
    assert main(['upscale', 'nowhere', '-n', 'nothing_like_it']) == 2
    assert 'nowhere: no such file or folder' in capsys.readouterr().err


@pytest.mark.parametrize(
    'flags, sentence',
    [
        (['-s', '0'], 'outscale 0.0: expected a number above 0'),
        (['-s', 'nan'], 'outscale nan'),
        (['-t', '-1'], 'tile -1'),
        (['--precision', 'fp16', '--device', 'cpu'], 'use bf16 or fp32'),
        (['--device', 'nonsense'], 'device nonsense'),
        (['--report', 'none/r.json'], 'there is no folder none'),
        (['--import', 'nothing_like_it'], '--import nothing_like_it'),
        (['-opt', 'none.yml'], 'none.yml'),
    ],
)
def test_wrong_options_are_named(flags, sentence, files, small, capsys):
    assert main(['upscale', 'in/rgb.jpg', '-n', small, '-o', 'out', *flags]) == 2
    assert sentence in capsys.readouterr().err and not (files / 'out').exists()


def test_profiles_and_orientation_are_kept(files, small, capsys):
    image = Image.open(files / 'in' / 'rgb.jpg')
    exif = image.getexif()
    exif[0x0112] = 6
    image.save('turned.png', exif=exif, icc_profile=b'a profile')
    assert main(['upscale', 'turned.png', '-n', small, '-o', 'out']) == 0
    assert 'rotated upright' in capsys.readouterr().out
    result = Image.open('out/turned_out.png')
    assert result.size == (128, 160) and result.info['icc_profile'] == b'a profile'
    assert result.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize('size', [(1, 1), (3, 70), (33, 2)])
@pytest.mark.parametrize('kind', ['RRDBNet', 'SwinIR', 'CDC'])
def test_images_of_any_size(kind, size):
    options = {**SMALL_NETWORKS[kind], 'type': f'Defended{kind}', 'defense': {'gate': 'always'}}
    scale = 2 if kind == 'RRDBNet' else 4  # which wants even sides
    net = build_network({**options, 'scale': 2} if kind == 'RRDBNet' else options)
    upscaled, _ = Upscaler(net, device='cpu', tile=16, overlap=8)(LoadedImage(torch.rand(1, 3, *size)))
    assert upscaled.rgb.shape == (1, 3, scale * size[0], scale * size[1])


def test_bf16_is_near_fp32_and_nan_is_repeated(real_network, photo):
    image = LoadedImage(photo[..., :24, :24])
    half, full = (
        Upscaler(real_network, device='cpu', precision=precision)(image)[0].rgb for precision in ('bf16', 'fp32')
    )
    assert 0 < (half - full).abs().max() < 0.05

    class Overflow(torch.nn.Conv2d):  # as networks overflow in half precision
        def forward(self, x):
            output = super().forward(x)
            return output if output.dtype == torch.float32 else output / 0

    upscaled, _ = Upscaler(Overflow(3, 3, 1), device='cpu', precision='bf16')(image)
    assert torch.isfinite(upscaled.rgb).all() and 'repeated in fp32' in upscaled.notes[0]


def test_options_of_real_esrgans_script(files, small, capsys):
    assert main(['upscale', '-i', 'in/rgb.jpg', '--model_path', small, '-o', 'out', '-t', '0', '--fp32']) == 0
    assert main(['upscale', 'in/rgb.jpg', '-n', small, '-o', 'same', '-t', '0', '--fp32']) == 0
    assert (files / 'out' / 'rgb_out.jpg').is_file() and (files / 'same' / 'rgb_out.jpg').is_file()
    assert main(['upscale', '-i', 'in/rgb.jpg', '-o', 'default']) == 0  # the weights of the package
    assert 'defended-general-x4v3 holds by its training' in capsys.readouterr().err
    assert main(['upscale', '-o', 'out']) == 2 and 'give images or folders' in capsys.readouterr().err
    assert main(['upscale', '-i', 'in/rgb.jpg', '-o', 'gpu', '-g', '99']) == 2
    assert 'device cuda:99' in capsys.readouterr().err
