"""Several processes: gloo on the CPU, started by torchrun or by slurm's variables."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
import torch
from distributed_runs import WITNESS, options, start, torchrun, witness

from helpers import PUBLISHED, write


@pytest.fixture(scope='module')
def both(pairs, photos, tmp_path_factory):
    """Folder of a training of ten steps by two processes, ``two``, and of the same by one, ``one``."""
    folder = tmp_path_factory.mktemp('both')
    run = torchrun(options(pairs, photos, batch=2), folder / 'two')
    assert run.returncode == 0, run.stdout
    assert run.stdout.count('exit hooks run') == 2 and 'shutting down' not in run.stdout
    run = start(options(pairs, photos, batch=4), folder / 'one', sys.executable, flags=())
    assert run.returncode == 0, run.stdout
    assert 'exit hooks run' in run.stdout and 'shutting down' in run.stdout
    return folder


def test_two_processes_train_as_one_with_the_same_global_batch(both):
    one, two = witness(both / 'one'), witness(both / 'two')
    assert len(one) == len(two) == 10
    for name in ('l_pix', 'l_clean', 'l_attacked', 'l_classifier', 'classifier_acc', 'attacked_share', 'attack_eps'):
        for step, (alone, shared) in enumerate(zip(one, two)):
            assert abs(alone[name] - shared[name]) < 1e-4, (step, name)
    assert abs(one[-1]['weights'] / two[-1]['weights'] - 1) < 1e-5
    # The network has moved by more than that, and both processes have the same one.
    assert abs(one[0]['weights'] / one[-1]['weights'] - 1) > 1e-3
    assert two[-1]['weights'] == witness(both / 'two', rank=1)[-1]['weights']


def test_attack_adds_no_communication(both, pairs, photos, tmp_path):
    clean = options(pairs, photos, batch=2, iterations=3)
    clean['attack']['every'] = 100
    run = torchrun(clean, tmp_path)
    assert run.returncode == 0, run.stdout
    attacked = [(step['buckets'], step['all_reduce']) for step in witness(both / 'two')]
    without = [(step['buckets'], step['all_reduce']) for step in witness(tmp_path)]
    assert 'l_attacked' not in witness(tmp_path)[-1]
    assert attacked[1:] == 9 * without[1:2] and without[1][0] > 0  # the first step finds out how to fill the buckets
    # The plain network does not send less than the defended one, except for the bucket of the classifier.
    plain = options(pairs, photos, batch=2, iterations=3, model_type='SRModel')
    plain['network_g'] = {key: value for key, value in plain['network_g'].items() if key != 'defense'}
    plain['network_g']['type'] = 'SRVGGNetCompact'
    del plain['attack'], plain['train']['classifier_opt'], plain['train']['optim_classifier']
    run = torchrun(plain, tmp_path / 'plain')
    assert run.returncode == 0, run.stdout
    assert attacked[-1][0] <= witness(tmp_path / 'plain')[-1]['buckets'] + 1


@pytest.mark.parametrize(
    'model_type, train_classifier, attack',
    [
        ('DefendedSRModel', True, {'mode': 'mixed', 'share': 0.3, 'every': 2, 'warm_start': True, 'type': 'PGD'}),
        ('DefendedSRModel', False, {'mode': 'alternating'}),
        ('DefendedSRGANModel', True, {}),
        ('DefendedSRGANModel', True, {**PUBLISHED, 'seed': None}),  # in every other iteration without a generator step
    ],
    ids=['mixed', 'alternating', 'gan', 'published'],
)
def test_every_mode_trains_distributed(model_type, train_classifier, attack, pairs, photos, tmp_path):
    opt = options(pairs, photos, batch=2, iterations=4, model_type=model_type)
    opt['train']['train_classifier'] = train_classifier
    opt['attack'].update(attack)
    if model_type == 'DefendedSRGANModel':
        opt['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 8}
        opt['train'].update(
            optim_d={'type': 'Adam', 'lr': 1e-4},
            net_d_iters=2,
            gan_opt={'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1},
        )
    run = torchrun(opt, tmp_path)
    assert run.returncode == 0, run.stdout
    assert len(witness(tmp_path)) == 4
    assert witness(tmp_path)[-1]['weights'] == witness(tmp_path, rank=1)[-1]['weights']
    if attack.get('mode') != 'mixed':
        return
    # The random streams of both processes are in the state, differ, and are restored.
    state = torch.load(tmp_path / 'experiments/paired/training_states/4.state', weights_only=True)
    first, second = state['rsr_basicsr']['random']
    assert first['python'] != second['python']
    opt['train']['total_iter'] = 6
    run = torchrun(opt, tmp_path, flags=('--launcher', 'pytorch', '--auto_resume'))
    assert run.returncode == 0 and 'Resuming training from epoch: 0, iter: 4' in run.stdout, run.stdout
    # The same with one process, for which an epoch has twice the iterations.
    opt['train']['total_iter'] = 7
    run = start(opt, tmp_path, sys.executable, flags=('--auto_resume',))
    assert run.returncode == 0 and re.search('iter: +7,', run.stdout), run.stdout


def test_validation_and_test_are_distributed(pairs, photos, tmp_path):
    opt = options(pairs, photos, batch=2, iterations=2)
    opt['network_g']['defense']['seed'] = 0
    images = dict(
        name='pairs',
        type='PairedImageDataset',
        dataroot_gt=str(pairs / 'gt'),
        dataroot_lq=str(pairs / 'lq'),
        io_backend={'type': 'disk'},
    )
    opt['datasets']['val'] = images
    opt['val'] = {
        'val_freq': 2,
        'save_img': True,
        'attack': {'type': 'PGD', 'eps': 8, 'steps': 2, 'seed': 0},
        'metrics': {
            'psnr': {'type': 'calculate_psnr', 'crop_border': 4},
            'ssim': {'type': 'calculate_ssim', 'crop_border': 4},
        },
    }
    run = torchrun(opt, tmp_path / 'trained')
    assert run.returncode == 0, run.stdout
    trained = re.findall(r'# (\w+): ([\d.]+)', run.stdout)[-5:]
    assert [name for name, _ in trained] == ['psnr', 'ssim', 'psnr', 'ssim', 'stability']
    assert len({path.parent.name for path in tmp_path.rglob('visualization/*/*.png')}) == 5

    # One process gets the results of two for five images; and so do three processes for two images.
    few = tmp_path / 'few'
    for file in sorted((pairs / 'gt').iterdir())[:2]:
        for kind in ('gt', 'lq'):
            (few / kind).mkdir(parents=True, exist_ok=True)
            (few / kind / file.name).write_bytes((pairs / kind / file.name).read_bytes())
    test = {key: opt[key] for key in ('scale', 'num_gpu', 'manual_seed', 'network_g', 'model_type')}
    test.update(
        name='tested',
        val={**opt['val'], 'suffix': None},
        path={
            'pretrain_network_g': str(tmp_path / 'trained/experiments/paired/models/net_g_latest.pth'),
            'param_key_g': 'params_ema',
        },
    )
    test['datasets'] = {
        'test_1': images,
        'test_2': {**images, 'name': 'few', 'dataroot_gt': str(few / 'gt'), 'dataroot_lq': str(few / 'lq')},
    }
    results = []
    for processes in (1, 3):
        folder = tmp_path / f'test{processes}'
        run = (
            torchrun(test, folder, processes, module='rsr_basicsr.test')
            if processes > 1
            else start(test, folder, sys.executable, module='rsr_basicsr.test', flags=())
        )
        assert run.returncode == 0, run.stdout
        results.append(re.findall(r'# (\w+): ([\d.]+)', run.stdout))
        found = list((folder / 'results/tested/visualization').rglob('*.png'))
        assert len(found) == 2 * (5 + 2)  # clean and attacked
    assert results[0] == results[1] and len(results[0]) == 10
    assert [name for name, _ in trained] == [name for name, _ in results[0][:5]]
    for (_, ours), (_, theirs) in zip(trained, results[0]):
        assert abs(float(ours) - float(theirs)) < 2e-3


def free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def test_slurm_launcher(pairs, photos, tmp_path):
    # Variables that srun sets for its tasks, and the output of scontrol that BasicSR reads.
    (tmp_path / 'scontrol').write_text('#!/bin/sh\necho 127.0.0.1\n')
    (tmp_path / 'scontrol').chmod(0o755)
    opt = options(pairs, photos, batch=2, iterations=2)
    opt['dist_params'] = {'backend': 'nccl', 'port': free_port()}
    file = write(opt, tmp_path / 'options.yml')
    (tmp_path / 'witness.py').write_text(WITNESS)
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                '-m',
                'rsr_basicsr.train',
                '-opt',
                str(file),
                '--launcher',
                'slurm',
                '--import',
                'witness',
            ],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                'SLURM_PROCID': str(rank),
                'SLURM_NTASKS': '2',
                'SLURM_NODELIST': 'here',
                'SLURM_LOCALID': str(rank),
                'PATH': f'{tmp_path}:{os.environ["PATH"]}',
                'OMP_NUM_THREADS': '1',
            },
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], '\n'.join(outputs)
    assert witness(tmp_path, 0)[-1]['weights'] == witness(tmp_path, 1)[-1]['weights']


def test_two_machines_with_unequal_processes(pairs, photos, tmp_path):
    """Both on this machine: a launcher for each, which meet at a port, with two processes and with one."""
    file = write(options(pairs, photos, batch=1, iterations=2), tmp_path / 'options.yml')
    (tmp_path / 'witness.py').write_text(WITNESS)
    meeting = [f'--rdzv_endpoint=127.0.0.1:{free_port()}', '--rdzv_backend=c10d', '--rdzv_id=1', '--nnodes=2']
    training = ['-m', 'rsr_basicsr.train', '-opt', str(file), '--launcher', 'pytorch', '--import', 'witness']
    launchers = [
        subprocess.Popen(
            [sys.executable, '-m', 'torch.distributed.run', *meeting, f'--nproc_per_node={processes}', *training],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': 'lo'},
        )
        for processes in (2, 1)
    ]
    outputs = [launcher.communicate(timeout=200)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], '\n'.join(outputs)
    first, *others = (witness(tmp_path, rank)[-1]['weights'] for rank in range(3))
    assert others == [first, first]


def test_more_processes_than_gpus_end_in_one_sentence(pairs, photos, tmp_path):
    """One GPU, which is not there: the processes end before one uses it."""
    (tmp_path / 'one_gpu.py').write_text(
        'import os, time, torch\ntorch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1\n'
        "time.sleep(0 if os.environ['LOCAL_RANK'] == '1' else 3)\n"  # the one that prints is the last to know
    )
    opt = options(pairs, photos, batch=2, num_gpu='auto')
    run = torchrun(opt, tmp_path, flags=('--launcher', 'pytorch', '--import', 'one_gpu'))
    assert run.returncode != 0 and 'OptionsError' not in run.stdout  # the traceback is the launcher's own
    assert (
        run.stdout.count('2 processes on this machine, but torch sees 1 GPU; start them with --nproc_per_node=1') == 1
    )
    assert not (tmp_path / 'experiments').exists()


def test_wrong_options_are_reported_once(pairs, photos, tmp_path):
    opt = options(pairs, photos, batch=2)
    opt['attack']['stepz'] = 1
    run = torchrun(opt, tmp_path)
    assert run.returncode != 0
    assert run.stdout.count("attack: unknown key 'stepz'; did you mean 'steps'?") == 1
    assert not (tmp_path / 'experiments').exists()


STATISTICS = """
import json, os
import torch
from rsr_basicsr.models.attack_augmentation import AttackAugmentation

save = AttackAugmentation.save
def save_and_tell(self, epoch, current_iter):
    sums = []
    for shared in (False, True):
        nets = (self.bare_net, self.net_g_ema) if hasattr(self, 'net_g_ema') else (self.bare_net,)
        sums.append([[float(p.double().sum()) for n, p in net.defense.classifier.named_parameters() if 'running' in n]
                     for net in nets])
        if not shared:
            save(self, epoch, current_iter)
    file = f'statistics_{os.environ["RANK"]}.json'
    if not os.path.isfile(file):  # the first of two: the processes agree from then on
        with open(file, 'w') as opened:
            json.dump(sums, opened)
AttackAugmentation.save = save_and_tell
"""


def test_processes_agree_on_the_statistics_of_the_classifier(pairs, photos, tmp_path):
    opt = options(pairs, photos, batch=2, iterations=3)
    opt['network_g']['defense']['classifier'] = {'type': 'residual', 'weights': 'untrained'}
    opt['train'].update(train_classifier=True, ema_decay=0.5)
    (tmp_path / 'noted.py').write_text(STATISTICS)
    run = torchrun(opt, tmp_path, flags=('--launcher', 'pytorch', '--import', 'noted'))
    assert run.returncode == 0, run.stdout
    (before, after), (other_before, other_after) = (
        json.loads((tmp_path / f'statistics_{rank}.json').read_text()) for rank in range(2)
    )
    assert before != other_before and after == other_after and len(after) == 2
    for sums in zip(before, other_before, after):
        for mine, theirs, both in zip(*sums):
            assert abs((mine + theirs) / 2 - both) < 1e-4 * max(1, abs(both))
