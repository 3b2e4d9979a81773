"""The detector trained by BasicSR's trainer on a set written by ``rsr adversarial-set``."""

import json
import re

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model
from distributed_runs import torchrun

from helpers import SMALL_NETWORKS, read, train, write
from rsr_basicsr.cli import main
from rsr_basicsr.data.adversarial_set import write_adversarial_set
from rsr_basicsr.data.adversarial_set_options import check_adversarial_set
from rsr_basicsr.metrics.detection import roc_auc
from rsr_basicsr.weights.state_dict import load_state

OPTIONS = 'train/train_frequency_classifier.yml'


@pytest.fixture(scope='module')
def sets(photos, tmp_path_factory):
    """Folder with a set of strongly attacked pairs, and two of clean images, the second of an odd number."""
    folder = tmp_path_factory.mktemp('sets')
    opt = read('adversarial_set/train.yml')
    network = {'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']}
    torch.manual_seed(0)
    torch.save({'params': build_network(dict(network)).state_dict()}, folder / 'tiny.pth')
    network['weights'] = str(folder / 'tiny.pth')
    opt.update(
        photos=[str(photos)],
        count=24,
        size=32,
        eps=[6, 10],
        attacks=[{'type': 'FGSM'}],
        kinds={'reduced': 1, 'photo_as_it_is': 1},
        networks={'tiny': network},
    )
    del opt['dataroot']
    alone = {'networks': None, 'attacks': None}
    for name, changes in {
        'pairs': {},
        'clean': {**alone, 'seed': 1},
        'odd': {**alone, 'seed': 2, 'count': 5},
    }.items():
        options = check_adversarial_set({**opt, **changes})
        write_adversarial_set(options, folder / name, workers=0, progress=False)
    return folder


@pytest.fixture
def opt(sets):
    opt = read(OPTIONS)
    opt.update(name='detector', num_gpu=0, manual_seed=0)
    pairs, clean = str(sets / 'pairs'), str(sets / 'clean')
    opt['datasets']['train'].update(dataroot=pairs, dataroot_extra=clean, num_worker_per_gpu=0, batch_size_per_gpu=8)
    for name in ('val_x4plus_large', 'val_attacks', 'val_clean_large'):
        del opt['datasets'][name]
    opt['datasets']['val']['dataroot'], opt['datasets']['val_clean']['dataroot'] = pairs, clean
    opt['train']['calibration'].update(
        false_alarms=0.05,
        datasets=[
            {'type': 'AdversarialSetDataset', 'dataroot': pairs},
            {'type': 'AdversarialSetDataset', 'dataroot': clean},
        ],
    )
    opt['train'].update(total_iter=40)
    opt['train']['scheduler'].update(periods=[60], restart_weights=[1])
    opt['val']['val_freq'] = 20
    opt['logger'].update(print_freq=10, save_checkpoint_freq=20, use_tb_logger=False)
    return opt


def test_train_calibrate_validate_resume(opt, tmp_path, monkeypatch, capsys):
    folder = train(opt, tmp_path, monkeypatch)
    log = capsys.readouterr().out + next(folder.glob('*.log')).read_text()
    losses = [float(found) for found in re.findall(r'l_classifier: ([\d.e+-]+)', log)]
    assert losses[-1] < 0.7 * losses[0]
    assert re.search(r'Validation heldout_x4plus, 48 images, threshold [\d.]+: auc [\d.]+, false_alarms', log)
    assert re.search(r'eps 8: 24 images, misses [\d.]+, auc', log) and 'source reduced' in log

    record = json.loads((folder / 'detection_heldout_x4plus.json').read_text())
    scores = {label: [v['score'] for v in record['verdicts'] if v['attacked'] is label] for label in (False, True)}
    assert record['rates']['auc'] == pytest.approx(roc_auc(scores[False], scores[True]))
    assert record['rates']['auc'] > 0.8

    # The threshold leaves at most the asked share of the clean images of both calibration sets beyond it, and not
    # much less: at a lower one, there would be more.
    clean = np.array(
        scores[False]
        + [v['score'] for v in json.loads((folder / 'detection_heldout_clean.json').read_text())['verdicts']]
    )
    saved = load_state(folder / 'models' / 'net_g_latest.pth')
    limit = -saved['threshold'].double().logit().item()
    assert (clean > limit + 1e-3).mean() <= 0.05 < (clean > limit - 1e-3).mean() + 2 / len(clean)
    assert record['threshold'] == pytest.approx(saved['threshold'].item())
    # Saved twice, at the last iteration and at the end: what was calibrated once stays as it is.
    twice = [
        load_state(folder / 'models' / f'net_g_{name}.pth', key)
        for name in (40, 'latest')
        for key in ('params', 'params_ema')
    ]
    assert len({(state['temperature'].item(), state['threshold'].item()) for state in twice}) == 1

    opt['train']['total_iter'] = 60
    train(opt, tmp_path, monkeypatch, '--auto_resume')
    again = capsys.readouterr()
    assert 'Resuming training from epoch' in again.out + again.err and (folder / 'models' / 'net_g_60.pth').is_file()


@pytest.mark.parametrize('network', [{'type': 'ResidualClassifier', 'num_feat': 8}, {'type': 'FrequencyClassifier'}])
def test_every_classifier_trains(network, opt, tmp_path, monkeypatch):
    opt['network_g'] = network
    opt['train'].update(total_iter=2, ema_decay=0.5)
    del opt['datasets']['val'], opt['datasets']['val_clean'], opt['val']
    state = load_state(train(opt, tmp_path, monkeypatch) / 'models' / 'net_g_latest.pth', 'params_ema')
    assert all(value.isfinite().all() for value in state.values())
    # The moving average decides with statistics of what was seen, not with those of the start.
    assert all(value.abs().max() > 0 for key, value in state.items() if key.endswith('running_mean'))


def test_builtin_weights_are_measured_on_folders_of_images(opt, photos, tmp_path, monkeypatch, capsys):
    opt['network_g'] = {'type': 'EnsembleClassifier', 'weights': 'builtin'}
    opt['datasets'] = {
        'test_pairs': {**opt['datasets']['val']},
        'test_folder': {
            'name': 'folder',
            'type': 'SingleImageDataset',
            'dataroot_lq': str(photos / 'lq'),
            'io_backend': {'type': 'disk'},
        },
    }
    opt['val'] = {'save_img': False}
    for key in ('train', 'logger'):
        del opt[key]
    monkeypatch.chdir(tmp_path)
    assert main(['test', '-opt', str(write(opt, tmp_path / 'o.yml'))]) == 0
    record = json.loads((tmp_path / 'results' / 'detector' / 'detection_folder.json').read_text())
    assert len(record['verdicts']) == len(list((photos / 'lq').glob('*.png')))
    assert set(record['rates']) == {'false_alarms'} and record['verdicts'][0]['facts'] == {'source': 'folder'}


def test_training_starts_from_the_builtin_weights(opt):
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    opt['network_g'] = {'type': 'EnsembleClassifier', 'weights': 'builtin'}
    opt['path'] = {}
    model = build_model(opt)
    expected = load_state(type(model.net_g).builtin_weights())
    assert all(torch.equal(value, expected[key].to(value)) for key, value in model.net_g.state_dict().items())


def test_training_with_pairs_made_on_the_fly(opt, sets, photos, tmp_path, monkeypatch):
    network = {'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact'], 'weights': str(sets / 'tiny.pth')}
    made = {
        **read('adversarial_set/train.yml'),
        'photos': str(photos),
        'count': 24,
        'size': 32,
        'kinds': {'reduced': 1},
        'networks': {'tiny': network},
        'attacks': [{'type': 'FGSM', 'eps': 8}],
    }
    block = opt['datasets']['train']
    for key in ('dataroot', 'dataroot_extra', 'transplant'):
        del block[key]
    block.update({key: value for key, value in made.items() if key != 'dataroot'}, type='AdversarialImagesDataset')
    opt['train'].update(total_iter=2)
    del opt['datasets']['val'], opt['datasets']['val_clean'], opt['val']
    assert (train(opt, tmp_path, monkeypatch) / 'models' / 'net_g_latest.pth').is_file()
    block['kinds'] = {'reducd': 1}
    assert main(['train', '-opt', str(write(opt, tmp_path / 'o.yml'))]) == 2


@pytest.mark.parametrize(
    'path, value, sentence',
    [
        (('train', 'calibration', 'datasets'), [], 'train.calibration.datasets: expected a list in brackets'),
        (('train', 'calibration', 'false_alarm'), 0.1, "unknown key 'false_alarm'"),
        (('train', 'clip_gradient'), 0, 'train.clip_gradient: expected a number above 0'),
        (('datasets', 'train', 'dataroot'), 'nowhere', 'datasets.train.dataroot: no such folder: nowhere'),
        (('datasets', 'train', 'weaken'), 2, 'datasets.train.weaken: expected a number'),
        (('network_g', 'num_fea'), 2, "network_g: unknown key 'num_fea'; did you mean 'num_feat'?"),
    ],
)
def test_wrong_options_are_named(path, value, sentence, opt, tmp_path, monkeypatch, capsys):
    place = opt
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-opt', str(write(opt, tmp_path / 'o.yml'))]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert not (tmp_path / 'experiments').exists()


SCORING = """
import json, os
from rsr_basicsr.models import FrequencyClassifierModel as Model

counts = [0]
feed = Model.feed_data
def feed_and_count(self, data):
    feed(self, data)
    if not self.deployed_net.training:
        counts[0] += len(self.lq)
        with open(f'scored_{os.environ["RANK"]}.json', 'w') as file:
            json.dump(counts, file)
Model.feed_data = feed_and_count
"""


def test_two_processes_calibrate_and_validate_as_one(opt, sets, tmp_path, monkeypatch):
    """Untrained networks of one seed, so that only the shares of the images differ."""
    opt['network_g'] = {'type': 'FrequencyClassifier'}
    opt['datasets']['val_clean']['dataroot'] = opt['train']['calibration']['datasets'][1]['dataroot'] = str(
        sets / 'odd'
    )
    opt['train'].update(total_iter=1, ema_decay=0)
    opt['train']['optim_g']['lr'] = 0
    opt['datasets']['train']['batch_size_per_gpu'] = 4
    (tmp_path / 'two').mkdir()
    (tmp_path / 'two' / 'scoring.py').write_text(SCORING)
    run = torchrun(opt, tmp_path / 'two', flags=('--launcher', 'pytorch', '--import', 'scoring'))
    assert run.returncode == 0, run.stdout
    (tmp_path / 'one').mkdir()
    folders = [train(opt, tmp_path / 'one', monkeypatch), tmp_path / 'two' / 'experiments' / 'detector']
    one, two = (load_state(folder / 'models' / 'net_g_latest.pth') for folder in folders)
    assert one.keys() == two.keys() and all(torch.allclose(two[key], value, rtol=1e-5) for key, value in one.items())
    assert one['temperature'].item() != 1  # it was calibrated

    for name in ('heldout_x4plus', 'heldout_clean'):
        one, two = (json.loads((folder / f'detection_{name}.json').read_text()) for folder in folders)
        assert len(one['verdicts']) == len(two['verdicts']) == (48 if name == 'heldout_x4plus' else 5)
        for alone, shared in zip(one['verdicts'], two['verdicts']):
            assert shared.pop('score') == pytest.approx(alone.pop('score'), rel=1e-4)
            assert shared == alone
        assert two['rates'] == pytest.approx(one['rates'])
    first, second = (json.loads((tmp_path / 'two' / f'scored_{rank}.json').read_text())[0] for rank in range(2))
    passes, images = 2, 48 + 5  # calibrated and validated at the end
    assert (first, second) == (passes * (24 * 2 // 2 + 3), passes * (24 * 2 // 2 + 2)) and first + second == 2 * images


def test_unfinished_set_is_refused(opt, tmp_path, monkeypatch, capsys):
    (tmp_path / 'begun' / 'parts').mkdir(parents=True)
    opt['datasets']['train']['dataroot'] = str(tmp_path / 'begun')
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-opt', str(write(opt, tmp_path / 'o.yml'))]) == 2
    assert 'is not a finished adversarial set' in capsys.readouterr().err
