"""Checkpoints: written atomically, checked before use, and resumed exactly."""

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs import build_network

from helpers import SMALL_NETWORKS, paired_options, train, write
from rsr_basicsr import checkpoints
from rsr_basicsr.checkpoints import ResumingSampler, newest_whole_state, written_whole
from rsr_basicsr.cli import main
from rsr_basicsr.utils import files
from rsr_basicsr.weights.state_dict import load_state


def train_more(opt, iterations, folder, monkeypatch, *flags):
    opt['train']['total_iter'] = iterations
    return train(opt, folder, monkeypatch, *flags)


def everything(folder, iteration):
    state = torch.load(folder / 'training_states' / f'{iteration}.state', weights_only=True)
    networks = {key: load_state(folder / 'models' / f'net_g_{iteration}.pth', key) for key in ('params', 'params_ema')}
    return state, networks


@pytest.mark.parametrize(
    'iterations, target', [(2, 'pretrained'), (3, 'ground_truth')], ids=['within an epoch', 'at its end']
)
def test_resumed_training_equals_an_uninterrupted_one(iterations, target, pairs, photos, tmp_path, monkeypatch):
    # Five pairs in batches of two with a ratio of 1.2 make epochs of three iterations. Everything is random: crops,
    # flips, the attacked share, eps, the start of the attack, the masks, the validation.
    opt = paired_options(pairs, photos=photos)
    opt['datasets']['train'].update(dataset_enlarge_ratio=1.2, use_hflip=True, use_rot=True, gt_size=48)
    opt['datasets']['val'] = dict(
        name='pairs',
        type='PairedImageDataset',
        dataroot_gt=str(pairs / 'gt'),
        dataroot_lq=str(pairs / 'lq'),
        io_backend={'type': 'disk'},
    )
    opt['val'] = {
        'val_freq': iterations,
        'save_img': False,
        'attack': {'type': 'PGD', 'eps': 8, 'steps': 1},
        'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}},
    }
    opt['attack'] = {'type': 'PGD', 'eps': [1, 8], 'steps': 1, 'mode': 'mixed', 'share': 0.7, 'warm_start': True}
    opt['logger']['save_checkpoint_freq'] = iterations
    plain = build_network({'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']})
    torch.save({'params': plain.state_dict()}, tmp_path / 'start.pth')
    opt['path']['pretrain_network_g'] = str(tmp_path / 'start.pth')
    opt['train']['target'] = target
    (tmp_path / 'straight').mkdir()
    (tmp_path / 'resumed').mkdir()
    expected, networks = everything(train_more(opt, 2 * iterations, tmp_path / 'straight', monkeypatch), 2 * iterations)

    train_more(opt, iterations, tmp_path / 'resumed', monkeypatch)
    for generator in (torch.manual_seed, random.seed, np.random.seed):
        generator(99)  # what the process has been at does not matter
    found, others = everything(
        train_more(opt, 2 * iterations, tmp_path / 'resumed', monkeypatch, '--auto_resume'), 2 * iterations
    )
    for key, state in networks.items():
        assert all(torch.equal(value, others[key][name]) for name, value in state.items()), key
    assert found['iter'] == 2 * iterations
    for ours, theirs in zip(found['optimizers'], expected['optimizers']):
        for index, entries in theirs['state'].items():
            assert all(
                torch.equal(torch.as_tensor(value), torch.as_tensor(ours['state'][index][name]))
                for name, value in entries.items()
            )
    ours, theirs = found['rsr_basicsr']['random'][0], expected['rsr_basicsr']['random'][0]
    assert torch.equal(ours.pop('torch'), theirs.pop('torch')) and ours == theirs
    assert torch.equal(found['rsr_basicsr']['perturbation'][0], expected['rsr_basicsr']['perturbation'][0])


def test_sampler_skips_seen_samples_of_the_epoch(monkeypatch):
    def order(epoch):
        sampler = ResumingSampler(range(10), num_replicas=2, rank=1, ratio=2)
        sampler.set_epoch(epoch)
        return list(sampler)

    whole = order(3)
    # Ten samples per process in batches of three: three iterations per epoch, regardless of the epoch in the state.
    state = {'epoch': 99, 'iter': 10}
    monkeypatch.setattr(ResumingSampler, 'resumed', checkpoints._Resumed(state, 3))
    assert order(3) == whole[3:] and len(order(4)) == 10 and state['epoch'] == 3
    # At the end of an epoch nothing of it is left, and the next one is complete.
    state = {'epoch': 0, 'iter': 12}
    monkeypatch.setattr(ResumingSampler, 'resumed', checkpoints._Resumed(state, 3))
    assert order(3) == whole[9:] and state['epoch'] == 3 and len(order(4)) == 10


@pytest.fixture
def saved(tmp_path):
    """Options of a run with complete checkpoints of the iterations 2, 10 and 9."""
    opt = {
        'network_g': {},
        'network_d': {},
        'path': {name: str(tmp_path / name) for name in ('models', 'training_states')},
    }
    for folder in opt['path'].values():
        Path(folder).mkdir()
    for iteration in (2, 10, 9):
        with written_whole(opt['path']):
            save(opt, iteration)
    return opt


def save(opt, iteration):
    for label in ('g', 'd'):
        torch.save({'params': {'a': torch.zeros(9999)}}, Path(opt['path']['models']) / f'net_{label}_{iteration}.pth')
    torch.save(
        {'iter': iteration, 'rsr_basicsr': {'networks': [['net_g', 'net_d']]}},
        Path(opt['path']['training_states']) / f'{iteration}.state',
    )


def halve(path):
    path = Path(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_newest_complete_state_is_taken(saved, tmp_path, caplog):
    states, models = (Path(saved['path'][name]) for name in ('training_states', 'models'))
    assert newest_whole_state(saved) == str(states / '10.state') and not caplog.records
    halve(models / 'net_d_10.pth')
    assert newest_whole_state(saved) == str(states / '9.state')
    assert re.search('skips the training state of iteration 10: .*net_d_10.pth is damaged', caplog.text)
    halve(states / '9.state')
    assert newest_whole_state(saved) == str(states / '2.state')
    (models / 'net_g_2.pth').unlink()
    assert newest_whole_state(saved) is None and 'finds no complete training state' in caplog.text


def test_no_flipped_bit_reaches_a_resumed_training(saved, caplog):
    path = Path(saved['path']['models']) / 'net_g_10.pth'
    whole, skipped = path.read_bytes(), 0
    for place in range(5, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        if newest_whole_state(saved).endswith('9.state'):
            skipped += 1
        else:  # a bit that no reader looks at
            assert not torch.load(path, weights_only=True)['params']['a'].any()
    assert skipped >= 35 and 'is damaged: the checksum of' in caplog.text


def test_state_with_code_is_skipped(saved, tmp_path, caplog):
    class Malicious:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'ran',)

    torch.save({'iter': 10, 'x': Malicious()}, Path(saved['path']['training_states']) / '10.state')
    assert newest_whole_state(saved).endswith('9.state') and not (tmp_path / 'ran').exists()
    assert 'wants to run' in caplog.text


@pytest.mark.parametrize('broken, loss', [('net_g_10.pth', 'half'), ('net_g_10.pth', 'gone'), ('10.state', 'half')])
def test_incomplete_checkpoint_replaces_nothing(broken, loss, saved, tmp_path):
    places = dict(saved['path'])
    before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
    with pytest.raises(OSError, match=f'{broken} was not written'), written_whole(saved['path'], ['net_g', 'net_d']):
        save(saved, 10)
        written = next(tmp_path.glob(f'.saving-*/*/{broken}'))
        halve(written) if loss == 'half' else written.unlink()
    assert saved['path'] == places
    assert before == {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}


def test_leftovers_of_a_killed_run_are_removed(saved, tmp_path):
    code = (
        'import sys, time; from rsr_basicsr.checkpoints import written_whole; '
        'with_ = written_whole({"models": sys.argv[1] + "/models", "training_states": sys.argv[1] + '
        '"/training_states"}); with_.__enter__(); print("in", flush=True); time.sleep(60)'
    )
    with subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b'in\n'
        process.send_signal(signal.SIGKILL)
    assert list(tmp_path.glob('.saving-*'))
    with written_whole(saved['path']):
        save(saved, 11)
    assert not list(tmp_path.glob('.saving-*')) and newest_whole_state(saved).endswith('11.state')


def test_full_disk_costs_one_checkpoint(pairs, photos, tmp_path, monkeypatch, caplog):
    opt = paired_options(pairs, photos=photos)
    replace = checkpoints.os.replace
    monkeypatch.setattr(checkpoints.os, 'replace', lambda a, b: replace(a, b) if '_2.' not in a else no_space())
    folder = train_more(opt, 4, tmp_path, monkeypatch)
    assert sorted(path.name for path in folder.glob('*/*.*')) == ['4.state', 'net_g_4.pth', 'net_g_latest.pth']


def test_training_without_final_networks_fails(pairs, photos, tmp_path, monkeypatch, capsys):
    opt = paired_options(pairs, photos=photos, iterations=2)
    replace = checkpoints.os.replace
    monkeypatch.setattr(checkpoints.os, 'replace', lambda a, b: replace(a, b) if 'latest' not in a else no_space())
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-opt', str(write(opt, tmp_path / 'options.yml'))]) == 1
    assert 'could not be written: [Errno 28] No space left on device; make room' in capsys.readouterr().err


def test_named_state_is_checked_with_its_networks(pairs, photos, tmp_path, monkeypatch, capsys):
    opt = paired_options(pairs, photos=photos, iterations=2)
    folder = train_more(opt, 2, tmp_path, monkeypatch)
    opt['path']['resume_state'] = str(folder / 'training_states/2.state')
    opt['name'] = 'another'
    assert main(['train', '-opt', str(write(opt, tmp_path / 'options.yml'))]) == 2
    assert re.search('path.resume_state: .*another/models/net_g_2.pth does not exist', capsys.readouterr().err)
    halve(opt['path']['resume_state'])
    assert main(['train', '-opt', 'options.yml']) == 2
    assert re.search('path.resume_state: .*2.state is damaged', capsys.readouterr().err)


def test_unused_network_is_not_required(pairs, photos, tmp_path, monkeypatch):
    opt = paired_options(pairs, photos=photos, iterations=2)
    opt['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 8}  # left from a GAN
    folder = train_more(opt, 2, tmp_path, monkeypatch)
    assert not (folder / 'models/net_d_2.pth').exists()
    train_more(opt, 4, tmp_path, monkeypatch, '--auto_resume')
    assert (folder / 'training_states/4.state').is_file() and not list(tmp_path.rglob('*_archived_*'))


@pytest.mark.timeout(120)
def test_folder_of_a_running_training_is_kept(pairs, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    opt = paired_options(pairs, photos=photos, iterations=10000)
    opt['logger']['save_checkpoint_freq'] = 1
    write(opt, tmp_path / 'options.yml')
    states = tmp_path / 'experiments' / opt['name'] / 'training_states'
    with subprocess.Popen(
        [sys.executable, '-m', 'rsr_basicsr.train', '-opt', 'options.yml'],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None and newest(states) < 1:
            time.sleep(0.05)
        monkeypatch.setattr(files, '_LOCK_TIMEOUT', 0.1)
        for command in (['train', '-opt', 'options.yml'], ['train', '-opt', 'options.yml', '--auto_resume']):
            assert main(command) == 2
            assert re.search(
                f'^rsr train: name: .*{opt["name"]} belongs to a run that still goes on; wait',
                capsys.readouterr().err,
                flags=re.MULTILINE,
            )
        assert main(['check', 'options.yml', '--no-memory', '--decode', '0']) == 2
        assert 'belongs to a run that still goes on' in capsys.readouterr().out
        process.kill()
    assert process.returncode == -signal.SIGKILL and not list(tmp_path.rglob('*_archived_*'))
    monkeypatch.setattr(files, '_LOCK_TIMEOUT', 30)
    train_more(opt, 2, tmp_path, monkeypatch)
    assert len(list(tmp_path.glob('experiments/*_archived_*/training_states/1.state'))) == 1


def no_space():
    raise OSError(28, 'No space left on device')


@pytest.mark.timeout(300)
def test_killed_at_any_moment_it_resumes(pairs, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt = paired_options(pairs, photos=photos, iterations=400)
    opt['logger'].update(save_checkpoint_freq=1, print_freq=50)
    write(opt, tmp_path / 'options.yml')
    states, least = tmp_path / 'experiments' / opt['name'] / 'training_states', 0
    for wait in (0.0, 0.3, 0.7):
        process = subprocess.Popen(
            [sys.executable, '-m', 'rsr_basicsr.train', '-opt', 'options.yml', '--auto_resume'],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        while process.poll() is None and newest(states) <= least:
            time.sleep(0.05)
        time.sleep(wait)
        process.kill()
        output = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, output
        found = re.search(r'Resuming training from epoch: \d+, iter: (\d+)', output)
        assert (int(found[1]) if found else 0) == least, output
        least = newest(states)
    opt['train']['total_iter'] = least + 2
    write(opt, tmp_path / 'options.yml')
    assert main(['train', '-opt', 'options.yml', '--auto_resume']) == 0
    assert newest(states) == least + 2 and not list(tmp_path.rglob('*_archived_*'))
    shutil.rmtree(tmp_path / 'experiments')


def newest(states):
    return max((int(path.stem) for path in states.glob('*.state')), default=0)
