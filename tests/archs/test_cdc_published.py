"""Published weight files of CDC load under our names and give the published outputs."""

import logging

import cv2
import numpy as np
import pytest
import scipy.fft
import torch
from basicsr.utils import logger as basicsr_logger
from cdc_files import (
    PUBLISHED,
    REFERENCE,
    SMALL,
    WRAPPED,
    at_reference,
    fill_by_formula,
    published_state,
    reference_input,
    save,
    small_cdc,
    with_classifier,
)

from rsr_basicsr.archs import CDC
from rsr_basicsr.archs.cdc_published import is_published, renamed
from rsr_basicsr.cli import main
from rsr_basicsr.inference.recognition import open_network
from rsr_basicsr.utils.errors import WeightsError
from rsr_basicsr.weights.state_dict import load_network, load_state


@pytest.fixture
def log():
    """Lines logged by BasicSR's logger."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(f'{record.levelname}: {record.getMessage()}')
    logger = basicsr_logger.get_root_logger()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield lines
    logger.setLevel(level)
    logger.removeHandler(handler)


def test_every_published_name_has_ours():
    keys = {f'{module}.weight': torch.zeros(0) for module in PUBLISHED.values()}
    expected = {published: ours for ours, published in PUBLISHED.items()}
    assert len(keys) == 395 and is_published(keys)
    assert list(renamed(keys)) == [f'{expected[key[: -len(".weight")]]}.weight' for key in keys]
    classifier = [f'preclass.fcall.{layer}.{name}' for layer in (0, 2, 4) for name in ('weight', 'bias')]
    assert list(renamed(dict.fromkeys(classifier))) == [
        f'defense.classifier.body.{layer}.{name}' for layer in (0, 2, 4) for name in ('weight', 'bias')
    ]
    unknown = ['HG_0.down1.res_block.res.0.scale.weight', 'upsample_flat.9.0.bias', 'upsample_sky.0.0.bias', 'x']
    assert list(renamed(dict.fromkeys(unknown))) == unknown


@pytest.mark.parametrize('scale, kernel', [(2, 1), (3, 3)])
def test_scales_with_one_upsampling(scale, kernel):
    # Blocks of a published head: convolution; upsampling, convolution, activation; convolution, activation;
    # convolution.
    pairs = {ours: published for ours, published in PUBLISHED.items() if 'heads' not in ours}
    for number, component in enumerate(('flat', 'edge', 'corner')):
        for heads, name in (('picture_heads', f'upsample_{component}'), ('attention_heads', f'{component}_map')):
            pairs.update(
                {
                    f'{heads}.{number}.{ours}': f'{name}.{published}'
                    for ours, published in ((0, '0.0'), (2, '1.1'), (4, '2.0'), (6, '3.0'))
                }
            )
    net = small_cdc(scale=scale)
    state = published_state(net, pairs)
    assert state['flat_map.3.0.weight'].shape[-1] == kernel
    loaded = CDC(**SMALL, scale=scale)
    loaded.load_state_dict(state)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_recognized_under_our_names(scale, tmp_path):
    net = small_cdc(scale=scale)
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    found, x = open_network(str(tmp_path / 'net.pth')), torch.rand(1, 3, 17, 20)
    with torch.no_grad():
        assert type(found).__name__ == 'CDC' and torch.equal(found(x), net(x))


@pytest.fixture(scope='module')
def published_file(tmp_path_factory):
    """The reference's network of four hourglasses as its authors would have published it, with a classifier."""
    net = fill_by_formula(CDC(num_hourglass=4))
    return save(with_classifier(net), tmp_path_factory.mktemp('published') / 'net.pth')


def test_reference_from_a_published_file(published_file, log):
    net, case = open_network(published_file), REFERENCE['cases'][1]
    assert type(net).__name__ == 'DefendedCDC' and net.defense.gate == 'classifier'
    assert float(net.defense.threshold_in_effect) == pytest.approx(0.9) and len(net.mask_points) == 3
    with torch.no_grad(), net.defense.forced(False):
        found, expected = at_reference(net(reference_input(*case['size'])), case['heads']['fused'])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not [line for line in log if 'WARNING' in line or 'left out' in line]


def test_upscale_gives_the_reference(published_file, tmp_path):
    case = REFERENCE['cases'][1]
    image = (reference_input(*case['size'])[0].permute(1, 2, 0).numpy()[..., ::-1] * 65535).round()
    cv2.imwrite(str(tmp_path / 'in.png'), image.astype(np.uint16))
    flags = ['-n', published_file, '-o', str(tmp_path), '--gate', 'never']
    assert main(['upscale', str(tmp_path / 'in.png'), *flags]) == 0
    output = cv2.imread(str(tmp_path / 'in_out.png'), cv2.IMREAD_UNCHANGED)[..., ::-1].astype(np.float32) / 65535
    found, expected = at_reference(torch.from_numpy(output.copy()).permute(2, 0, 1)[None], case['heads']['fused'])
    assert ((expected > 0) & (expected < 1)).sum() == 4
    torch.testing.assert_close(found, expected.clamp(0, 1), rtol=0, atol=2e-3)


def published_logits(state, x):
    """Logits of 48x48 images: log spectrum of the channel mean, 3x3 means, three layers, no scaling of features."""
    spectrum = scipy.fft.dctn(x.double().mean(dim=1).numpy(), axes=(1, 2), norm='ortho')
    features = torch.from_numpy(np.log(np.abs(spectrum))).view(-1, 16, 3, 16, 3).mean(dim=(2, 4)).flatten(1)
    for layer in (0, 2, 4):
        weight, bias = (state[f'preclass.fcall.{layer}.{name}'].double() for name in ('weight', 'bias'))
        features = features @ weight.T + bias
        features = features if layer == 4 else torch.where(features > 0, features, 0.01 * features)
    return features.float()


@pytest.mark.parametrize('classifier', [False, True])
@pytest.mark.parametrize('how', WRAPPED)
def test_recognized_in_any_file_format(how, classifier, tmp_path, log):
    net = small_cdc()
    state = with_classifier(net) if classifier else published_state(net)
    path = save(state, tmp_path / 'net.pth', how)
    found = open_network(path)
    assert type(found).__name__ == ('DefendedCDC' if classifier else 'CDC')
    assert not [line for line in log if 'WARNING' in line or 'left out' in line]
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in net.state_dict().items())
    if classifier:
        x = torch.rand(3, 3, 48, 48)
        torch.testing.assert_close(found.defense.classifier(x), published_logits(state, x), atol=1e-4, rtol=1e-4)
    assert load_network({'type': 'CDC', **SMALL, 'weights': path}) is not None


@pytest.mark.parametrize('kind', ['CDC', 'DefendedCDC'])
def test_classifier_without_a_place_is_left_out(kind, tmp_path, log):
    net = small_cdc()
    target = small_cdc(kind)  # whose classifier is the ensemble
    path = save(with_classifier(net), tmp_path / 'net.pth')
    kept = {key: value.clone() for key, value in target.state_dict().items() if key.startswith('defense.')}
    log.clear()
    target.load_state_dict(load_state(path))
    state = target.state_dict()
    assert all(torch.equal(state[key], value) for key, value in {**net.state_dict(), **kept}.items())
    assert len([line for line in log if 'the classifier in the published file is left out' in line]) == 1
    assert not [line for line in log if 'WARNING' in line]


def test_other_tensors_are_named(tmp_path):
    state = published_state(small_cdc())
    state['HG_0.extra.weight'] = torch.zeros(1)
    with pytest.raises(WeightsError, match='HG_0.extra.weight is .1,. in the file and missing in CDC'):
        open_network(save(state, tmp_path / 'net.pth'))
    with pytest.raises(WeightsError, match=r'stem.weight is \(4, 3, 3, 3\) in the file and \(8, 3, 3, 3\)'):
        load_network(
            {
                'type': 'CDC',
                'num_feat': 8,
                'num_hourglass': 4,
                'weights': save(published_state(small_cdc()), tmp_path / 'net.pth'),
            }
        )
