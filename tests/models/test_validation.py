"""Validation, clean and under attack: metrics, panels, warnings."""

import re

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers import SMALL_NETWORKS, paired_options, train, write
from rsr_basicsr.attacks import PGD
from rsr_basicsr.cli import main
from rsr_basicsr.weights.state_dict import load_network


@pytest.fixture
def opt(pairs, photos, tmp_path):
    """Options of a training that validates before the start, at the second iteration and at the end."""
    torch.manual_seed(3)
    plain = build_network({'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']})
    torch.save({'params': plain.state_dict()}, tmp_path / 'start.pth')
    opt = paired_options(pairs, photos=photos, iterations=2)
    opt['path'] = {'pretrain_network_g': str(tmp_path / 'start.pth')}
    opt['train']['ema_decay'] = 0
    opt['network_g']['defense'] = {'gate': 'always', 'seed': 0}
    opt['datasets']['val'] = dict(
        name='pairs',
        type='PairedImageDataset',
        dataroot_gt=str(pairs / 'gt'),
        dataroot_lq=str(pairs / 'lq'),
        io_backend={'type': 'disk'},
    )
    opt['val'] = {
        'val_freq': 2,
        'save_img': True,
        'panel_freq': 2,
        'guard': 0.01,
        'attack': {'type': 'PGD', 'eps': 8, 'steps': 3, 'seed': 1, 'quantize': 'none'},
        'metrics': {'gain': {'type': 'calculate_gain'}, 'psnr': {'type': 'calculate_psnr', 'crop_border': 4}},
    }
    opt['logger']['use_tb_logger'] = True
    return opt


def scalars(folder, name):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}, events


def by_hand(net, pairs):
    """PSNR to the ground truth clean and attacked, stability, and gain, from the definition."""
    psnr = {'clean': [], 'attacked': [], 'stability': [], 'gain': []}

    def compare(a, b):
        a, b = (x[..., 4:-4, 4:-4].clamp(0, 1).mul(255).round() for x in (a, b))
        return float(10 * torch.log10(255**2 / (a - b).double().square().mean()))

    for file in sorted((pairs / 'gt').iterdir()):
        gt, lq = (
            torch.from_numpy(cv2.cvtColor(cv2.imread(str(pairs / kind / file.name)), cv2.COLOR_BGR2RGB))
            .permute(2, 0, 1)[None]
            .float()
            / 255
            for kind in ('gt', 'lq')
        )
        with torch.no_grad():
            clean = net(lq)
        attacked = PGD(eps=8, steps=3, seed=1, objective='stability')(net, lq)
        with torch.no_grad():
            output = net(attacked)
        for name, pair in (('clean', (clean, gt)), ('attacked', (output, gt)), ('stability', (output, clean))):
            psnr[name].append(compare(*pair))
        moved = [
            (a.clamp(0, 1).mul(255).round() - b.clamp(0, 1).mul(255).round()).square().mean().sqrt()
            for a, b in ((output, clean), (attacked, lq))
        ]
        psnr['gain'].append(float(moved[0] / moved[1]))
    return {name: sum(values) / len(values) for name, values in psnr.items()}


def test_curves_start_with_the_pretrained_network(opt, pairs, tmp_path, monkeypatch):
    folder = train(opt, tmp_path, monkeypatch)
    network = {**opt['network_g'], 'weights': tmp_path / 'start.pth'}
    start = load_network({**network, 'defense': {'gate': 'never'}})  # as released
    end = load_network({**network, 'weights': folder / 'models/net_g_2.pth'})
    tb = tmp_path / 'tb_logger' / opt['name']
    for iteration, net in ((0, start), (2, end)):
        expected = by_hand(net, pairs)
        for name, key in (
            ('pairs/psnr', 'clean'),
            ('pairs_attacked/psnr', 'attacked'),
            ('pairs_attacked/stability', 'stability'),
            ('pairs_attacked/gain', 'gain'),
        ):
            curve, events = scalars(tb, f'metrics/{name}')
            assert set(curve) >= {0, 2} and abs(curve[iteration] - expected[key]) < 0.02, (name, iteration)
    assert {
        'losses/l_clean',
        'losses/l_attacked',
        'losses/l_classifier',
        'classifier_acc',
        'attacked_share',
        'attack_eps',
        't_attack',
    } <= set(events.Tags()['scalars'])
    assert {0, 2} <= {image.step for image in events.Images('panel/pairs')}

    panel = cv2.imread(str(folder / 'visualization/panel/pairs_2.png'))
    assert panel.shape == (2 * 64 + 3 * 4, 2 * 64 + 3 * 4, 3)
    clean, attacked = panel[4:68, 4:68].astype(int), panel[72:136, 4:68].astype(int)
    changes = [
        abs(clean - cv2.resize(cv2.imread(str(file)), (64, 64), interpolation=cv2.INTER_NEAREST)).max()
        for file in (pairs / 'lq').iterdir()
    ]  # the first one of them that the folder gives
    assert min(changes) <= 1 and 4 < abs(attacked - clean).max() <= 9
    # The saved outputs are those of the clean images.
    assert len(list(folder.glob('visualization/*/*_2.png'))) == 6  # and the panel


def test_the_last_validation_is_that_of_the_last_iteration(opt, tmp_path, monkeypatch):
    opt['train']['total_iter'], opt['val']['val_freq'] = 3, 2
    log = next(train(opt, tmp_path, monkeypatch).glob('train_*.log')).read_text()
    assert set(re.findall(r'Best: .* @ (\d+) iter', log)) <= {'0', '2', '3'}
    tb = tmp_path / 'tb_logger' / opt['name']
    assert sorted(scalars(tb, 'metrics/pairs/psnr')[0]) == [0, 2, 3]


def test_validation_is_repeatable(opt, tmp_path, monkeypatch):
    opt['network_g']['defense'].pop('seed')  # masks are drawn
    log = next(train(opt, tmp_path, monkeypatch).glob('train_*.log')).read_text()
    found = re.findall(r'# (psnr|stability|gain): ([\d.]+)', log)
    second, last = found[4:8], found[8:]  # of the second iteration, and of the end, which is the same
    assert len(found) == 12 and second == last and second != found[:4]


def test_best_metrics_are_resumed(opt, tmp_path, monkeypatch):
    def best():  # clean and attacked
        log = ''.join(file.read_text() for file in sorted(tmp_path.glob('experiments/*/train_*.log')))
        return re.findall(r'# psnr: .*Best: ([\d.]+ @ \d+) iter', log)[-2:]

    opt['train'].update(total_iter=2, optim_g={'type': 'Adam', 'lr': 0.3})  # from here on all is worse
    opt['val']['val_freq'] = 1  # BasicSR saves before it validates
    train(opt, tmp_path, monkeypatch)
    before = best()
    opt['train']['total_iter'] = 4
    train(opt, tmp_path, monkeypatch, '--auto_resume')
    assert best() == before and all(value.endswith('@ 0') for value in before)


def test_guard_warns_in_a_resumed_training(opt, tmp_path, monkeypatch):
    opt['val'].update(guard=0.5, panel_freq=None, val_freq=1)
    opt['train']['optim_g']['lr'] = 0.1  # which ruins it
    warning = re.compile(r'Validation pairs: clean PSNR ([\d.-]+) dB is [\d.]+ dB below the ([\d.]+) dB of the weights')
    folder = train(opt, tmp_path, monkeypatch)
    first = warning.search(next(folder.glob('*.log')).read_text())
    assert first and float(first[1]) < float(first[2]) - 0.5
    (tmp_path / 'start.pth').unlink()  # no longer needed
    opt['train']['total_iter'] = 4
    train(opt, tmp_path, monkeypatch, '--auto_resume')
    text = sorted(folder.glob('*.log'))[-1].read_text()
    assert warning.search(text)[2] == first[2] and 'as iteration 0' not in text

    opt['train'].update(target='pretrained', total_iter=6)
    write(opt, tmp_path / 'options.yml')
    assert main(['train', '-opt', 'options.yml', '--auto_resume']) == 2

    # No warning without a loss of PSNR.
    torch.save(
        {'params': build_network({'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']}).state_dict()},
        tmp_path / 'start.pth',
    )
    opt['train'].update(target='ground_truth', total_iter=2)
    opt['train']['optim_g']['lr'] = 0
    opt.update(name='harmless')
    opt['network_g']['defense']['gate'] = 'never'
    assert not warning.search(next(train(opt, tmp_path, monkeypatch).glob('*.log')).read_text())


@pytest.mark.parametrize('size, tiles', [(16, {}), (13, {'tile': 8, 'tile_overlap': 0})], ids=str)
def test_swinir_is_attacked_at_any_size(size, tiles, opt, pairs, tmp_path, monkeypatch):
    for kind, scale in (('gt', 4), ('lq', 1)):
        (tmp_path / kind).mkdir()
        for file in (pairs / kind).iterdir():
            cv2.imwrite(str(tmp_path / kind / file.name), cv2.imread(str(file))[: size * scale, : 16 * scale])
        opt['datasets']['val'][f'dataroot_{kind}'] = str(tmp_path / kind)
    opt.update(model_type='DefendedSwinIRModel', network_g={'type': 'DefendedSwinIR', **SMALL_NETWORKS['SwinIR']})
    opt['path'] = {}
    del opt['val']['guard']
    opt['val'].update(tiles)
    log = next(train(opt, tmp_path, monkeypatch).glob('*.log')).read_text()
    stability = [float(value) for value in re.findall(r'# stability: ([\d.]+)', log)]
    assert len(stability) == 2 and all(5 < value < 60 for value in stability)


def test_tiles_are_attacked_as_one_image(opt, tmp_path, monkeypatch):
    opt['val'].update(tile=8, tile_overlap=4)
    whole = dict(opt['val'], tile=None)
    found = []
    for val in (opt['val'], whole):
        opt.update(val=val, name=f'tile{val["tile"]}')
        opt['network_g']['defense']['gate'] = 'never'
        log = next(train(opt, tmp_path, monkeypatch).glob('*.log')).read_text()
        found.append(float(re.findall(r'# stability: ([\d.]+)', log)[-1]))
    assert abs(found[0] - found[1]) < 0.5  # a network of four layers sees less than the overlap


@pytest.mark.parametrize(
    'val, message',
    [
        ({'attack': {'type': 'PGD', 'eps': 8}}, "val.attack: the key 'steps' is missing"),
        ({'attack': {'type': 'PGD', 'steps': 2}}, "val.attack: the key 'eps' is missing"),
        ({'attack': {'type': 'PGD', 'eps': 8, 'steps': 2, 'mode': 'paired'}}, "val.attack: unknown key 'mode'"),
        ({'metrics': None}, 'val.attack: there are no val.metrics'),
        ({'metrics': {'ssim': {'type': 'calculate_ssim', 'crop_border': 4}}}, 'val.guard: it watches'),
        (
            {'metrics': {'stability': {'type': 'calculate_psnr', 'crop_border': 4}}},
            'val.metrics: stability is measured',
        ),
        ({'panel_freq': 3}, 'val.panel_freq: 3 is not a multiple of val_freq, 2'),
        ({'gaurd': 1}, "val: unknown key 'gaurd'; did you mean 'guard'?"),
        ({'guard': -1}, 'val.guard: expected a number of at least 0'),
    ],
    ids=str,
)
def test_wrong_validation_options_are_named(val, message, opt, tmp_path, monkeypatch, capsys):
    opt['val'].update(val)
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-opt', str(write(opt, tmp_path / 'options.yml'))]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'experiments').exists()


def test_metrics_of_attacks_need_one(opt, tmp_path, monkeypatch, capsys):
    del opt['val']['attack']
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-opt', str(write(opt, tmp_path / 'options.yml'))]) == 2
    assert 'gain: calculate_gain is for attacked images; add a block val.attack' in capsys.readouterr().err


def test_plain_models_refuse_val_attack(opt, tmp_path, monkeypatch, capsys):
    opt.update(model_type='SRModel')
    opt['network_g']['type'] = 'SRVGGNetCompact'
    del opt['network_g']['defense'], opt['attack']
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-opt', str(write(opt, tmp_path / 'options.yml'))]) == 2
    assert (
        'val.attack: model_type SRModel does not know it; write model_type: DefendedSRModel' in capsys.readouterr().err
    )


def test_missing_pretrained_weights_are_named(opt, tmp_path, monkeypatch, capsys):
    opt['path'] = {}
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-opt', str(write(opt, tmp_path / 'options.yml'))]) == 2
    assert 'val.guard: it compares with the weights that the training begins with' in capsys.readouterr().err
    del opt['val']['guard']
    opt['train']['target'] = 'pretrained'
    assert main(['train', '-opt', str(write(opt, tmp_path / 'options.yml'))]) == 2
    assert 'train.target: pretrained needs the weights' in capsys.readouterr().err


def test_infinite_psnr_is_no_best(opt, tmp_path, monkeypatch, caplog):
    # BasicSR would keep it for ever: the output for a black image can equal its ground truth.
    for kind, side in (('gt', 64), ('lq', 16)):
        (tmp_path / 'black' / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'black' / kind / 'a.png'), np.zeros((side, side, 3), np.uint8))
        opt['datasets']['val'][f'dataroot_{kind}'] = str(tmp_path / 'black' / kind)
    network = build_network({'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']})
    for weight in network.parameters():
        torch.nn.init.zeros_(weight)  # the residual is 0, so that black stays black
    torch.save({'params': network.state_dict()}, tmp_path / 'start.pth')
    opt['network_g']['defense'] = {'gate': 'never'}
    opt['train']['optim_g']['lr'] = 1e-12
    folder = train(opt, tmp_path, monkeypatch)
    log = next(folder.glob('train_*.log')).read_text()
    assert 'Validation pairs: psnr is inf, which no later value could beat' in log
    assert 'Best: inf' not in log and '# psnr: inf' in log
