"""Files that options name: weights, states to resume from, and lists of images."""

import copy

import pytest
import torch
from basicsr.archs import build_network

from helpers import read, shrink
from rsr_basicsr.archs import FrequencyClassifier
from rsr_basicsr.check import check_options
from rsr_basicsr.utils.errors import OptionsError


def test_resuming_does_not_need_the_first_weights(opt, tmp_path):
    opt['path'].update(pretrain_network_g='gone.pth', training_states=str(tmp_path), models=str(tmp_path))
    opt['auto_resume'] = True
    with pytest.raises(OptionsError, match='no such file: gone.pth'):
        check_options(copy.deepcopy(opt))
    torch.save({'iter': 2}, tmp_path / '2.state')
    with pytest.raises(OptionsError, match='no such file: gone.pth'):  # the state is not whole without its network
        check_options(copy.deepcopy(opt))
    torch.save({}, tmp_path / 'net_g_2.pth')
    check_options(opt)
    assert opt['path']['resume_state'] == str(tmp_path / '2.state')


def test_first_missing_image_is_named(opt, tmp_path, photos):
    meta_info = tmp_path / 'meta.txt'
    meta_info.write_text('rocket.png\nlost.png\n')
    opt['datasets']['train']['meta_info'] = str(meta_info)
    with pytest.raises(OptionsError, match='lists lost.png, which is not in'):
        check_options(opt)


@pytest.mark.parametrize(
    'line, message',
    [
        ('coffee_cup.png', 'has the line \'coffee_cup.png\', expected "gt, lq"'),
        ('coffee_cup.png, lost.png', 'lists lost.png, which is not in'),
        ('', 'lists no image'),
    ],
)
def test_lists_of_pairs(line, message, photos, tmp_path):
    opt = shrink(read('finetune/finetune_defended_realesrgan_x4plus_pairdata.yml'), photos)
    opt.update(is_train=True, dist=False)
    check_options(copy.deepcopy(opt))
    (tmp_path / 'list.txt').write_text(f'{line}\n')
    opt['datasets']['train']['meta_info'] = str(tmp_path / 'list.txt')
    with pytest.raises(OptionsError) as error:
        check_options(opt)
    assert message in str(error.value)


def test_damaged_weights_are_refused(opt, tmp_path):
    broken = tmp_path / 'broken.pth'
    torch.save({'params': {'a': torch.zeros(10000)}}, broken)
    broken.write_bytes(broken.read_bytes()[:1000])
    opt['path']['pretrain_network_g'] = str(broken)
    with pytest.raises(OptionsError, match='path.pretrain_network_g: .*broken.pth is damaged'):
        check_options(opt)


def test_weights_of_another_network_are_refused(opt, tmp_path):
    opt['path']['pretrain_network_g'] = str(tmp_path / 'w.pth')
    state = build_network({**opt['network_g'], 'num_block': 2}).state_dict()
    torch.save({'params': state}, tmp_path / 'w.pth')
    with pytest.raises(OptionsError, match=r'another network: body.1\S+ is \(4, 8, 3, 3\) in the file and missing in'):
        check_options(opt)
    torch.save({'other': state}, tmp_path / 'w.pth')
    with pytest.raises(OptionsError, match='has no entry params; it has other; see path.param_key_g'):
        check_options(opt)
    torch.save({'params': build_network(opt['network_g']).state_dict()}, tmp_path / 'w.pth')
    check_options(opt)


def test_classifier_weights_must_be_a_classifiers(opt, tmp_path):
    torch.save({'a': torch.zeros(1)}, tmp_path / 'c.pth')
    opt['network_g']['defense']['classifier']['weights'] = str(tmp_path / 'c.pth')
    with pytest.raises(OptionsError, match='network_g: DefendedRRDBNet cannot be built: .*another classifier'):
        check_options(opt)


@pytest.mark.parametrize('gate', ['classifier', 'soft'])
def test_testing_with_an_untrained_classifier_is_refused(gate, opt, tmp_path, real_weights, pairs):
    opt['datasets'] = {
        'test_1': {
            'name': 'a',
            'type': 'PairedImageDataset',
            'io_backend': {'type': 'disk'},
            'dataroot_gt': str(pairs / 'gt'),
            'dataroot_lq': str(pairs / 'lq'),
        }
    }
    opt.update(
        is_train=False,
        val={'save_img': False},
        network_g={
            'type': 'DefendedSRVGGNetCompact',
            'num_in_ch': 3,
            'num_out_ch': 3,
            'defense': {'gate': gate, 'classifier': {'type': 'paper', 'weights': 'untrained'}},
        },
    )
    opt['path'] = {'pretrain_network_g': str(real_weights)}
    with pytest.raises(OptionsError, match='plain backbone without a trained classifier'):
        check_options(opt)
    torch.save(FrequencyClassifier().state_dict(), tmp_path / 'classifier.pth')
    for classifier in ({'type': 'paper', 'weights': str(tmp_path / 'classifier.pth')}, {}):
        opt['network_g']['defense'] = {'classifier': classifier}
        check_options(opt)
