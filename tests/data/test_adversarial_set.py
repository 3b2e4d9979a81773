"""Adversarial sets: deterministic, resumable, readable by BasicSR."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.data import build_dataset

from helpers import OPTIONS, SMALL_NETWORKS, read, write
from rsr_basicsr.cli import main
from rsr_basicsr.data import AdversarialImages
from rsr_basicsr.data.adversarial_images import fingerprint
from rsr_basicsr.data.adversarial_set import read_facts
from rsr_basicsr.data.adversarial_set_options import check_adversarial_set
from rsr_basicsr.data.clean_images import REAL_ESRGAN, CleanImages
from rsr_basicsr.data.clean_kinds import KINDS, to_8_bit
from rsr_basicsr.utils.errors import OptionsError


@pytest.fixture(scope='module')
def opt(photos, tmp_path_factory):
    """Options of a set of six pairs on a tiny network."""
    opt = read('adversarial_set/train.yml')
    network = {'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']}
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save({'params': build_network(dict(network)).state_dict()}, weights)
    opt.update(photos=[str(photos)], count=6, size=32, networks={'tiny': {**network, 'weights': str(weights)}})
    return opt


@pytest.fixture(scope='module')
def images(opt):
    options = check_adversarial_set(json.loads(json.dumps(opt)))
    return AdversarialImages(**{key: value for key, value in options.items() if key != 'dataroot'})


@pytest.fixture(scope='module')
def folder(opt, tmp_path_factory):
    """A set started by a killed process and finished by two workers."""
    base = tmp_path_factory.mktemp('set')
    many = write({**opt, 'count': 30}, base / 'many.yml')
    process = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'rsr_basicsr.cli',
            'adversarial-set',
            '-opt',
            str(many),
            '-o',
            str(base / 'set'),
            '--workers',
            '1',
        ],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    first, deadline = base / 'set' / 'parts' / '00000000.json', time.time() + 200
    while not first.is_file() and time.time() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # its workers too
    assert process.wait() == -signal.SIGKILL and not (base / 'set' / 'facts.jsonl').exists()
    made = first.stat().st_mtime_ns
    assert (
        main(['adversarial-set', '-opt', str(write(opt, base / 'opt.yml')), '-o', str(base / 'set'), '--workers', '2'])
        == 0
    )
    assert first.stat().st_mtime_ns == made
    return base / 'set'


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize('kind', [*KINDS, REAL_ESRGAN])
def test_every_kind_of_clean_image(kind, opt, photos):
    names = sorted(str(path) for path in photos.glob('*.png'))
    clean = CleanImages(names, {kind: 1}, 48, opt['real_esrgan'])
    drawn = [clean.draw(np.random.default_rng(seed))[0] for seed in (1, 2, 1)]
    assert all(image.shape == (48, 48, 3) and image.dtype == np.uint8 for image in drawn)
    assert np.array_equal(drawn[0], drawn[2]) and not np.array_equal(drawn[0], drawn[1])


def test_degradations_keep_global_random_state(opt, photos):
    clean = CleanImages([str(photos / 'rocket.png')], {REAL_ESRGAN: 1}, 48, opt['real_esrgan'])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    clean.draw(np.random.default_rng(0))
    assert torch.equal(torch.rand(3), expected)


def test_pairs_are_within_the_ball(images):
    for pair in map(images.__getitem__, range(6)):
        change = pair.attacked.astype(int) - pair.clean
        reach = np.abs(change).max()
        assert pair.facts['network'] == 'tiny' and 0.5 <= pair.facts['eps'] <= 16
        assert pair.facts['changed'] == pytest.approx((change != 0).mean(), abs=1e-4)
        square = np.square(change).mean() ** 0.5  # of L2, which IFGSM is there with too, eps is the root mean square
        assert reach <= pair.facts['eps'] or (pair.facts['attack'] == 'IFGSM' and square <= pair.facts['eps'] + 0.3)
    with pytest.raises(IndexError, match='there are 6 pairs'):
        images[6]


def test_set_on_disk_equals_computed_pairs(folder, images, one_thread):
    facts = read_facts(folder)
    dataset = build_dataset(
        {
            'type': 'PairedImageDataset',
            'name': 'set',
            'phase': 'val',
            'scale': 1,
            'dataroot_gt': str(folder / 'clean.lmdb'),
            'dataroot_lq': str(folder / 'attacked.lmdb'),
            'io_backend': {'type': 'lmdb'},
        }
    )  # BasicSR's own reader
    assert len(dataset) == 6 and [entry['key'] for entry in facts] == [f'{index:08d}' for index in range(6)]
    for index in (4, 1):  # in any order
        pair, item = images[index], dataset[index]
        for side, name in (('clean', 'gt'), ('attacked', 'lq')):
            stored = (item[name] * 255).round().byte().permute(1, 2, 0).numpy()
            assert np.array_equal(stored, getattr(pair, side))
        assert facts[index] == {'key': f'{index:08d}', **pair.facts}
    assert (folder / 'clean.lmdb' / 'meta_info.txt').read_text().splitlines()[0] == '00000000.png (32,32,3) 1'


def test_data_sets_for_the_trainer(folder, opt, one_thread):
    on_disk = build_dataset({'type': 'AdversarialSetDataset', 'name': 'set', 'phase': 'val', 'dataroot': str(folder)})
    made = build_dataset(
        {
            'type': 'AdversarialImagesDataset',
            'name': 'set',
            'phase': 'val',
            **{key: value for key, value in opt.items() if key != 'dataroot'},
        }
    )
    changed = [index for index, facts in enumerate(read_facts(folder)) if facts['changed'] > 0]
    assert len(made) == 6 and len(on_disk) == len(changed) > 0
    stored, fresh = on_disk[0], made[changed[0]]
    assert torch.equal(stored['clean'], fresh['clean']) and torch.equal(stored['attacked'], fresh['attacked'])
    assert stored['eps'] == fresh['eps'] and stored['source'] == fresh['source']

    turned = build_dataset(
        {
            'type': 'AdversarialSetDataset',
            'name': 'set',
            'phase': 'train',
            'dataroot': str(folder),
            'crop': 24,
            'weaken': 1,
            'use_hflip': True,
            'use_rot': True,
            'dataroot_extra': str(folder),
            'transplant': 0.5,
        }
    )[0]
    assert {key: turned[key].shape for key in ('clean', 'attacked', 'extra')} == dict.fromkeys(
        ('clean', 'attacked', 'extra'), (3, 24, 24)
    )
    weak = build_dataset(
        {'type': 'AdversarialSetDataset', 'name': 'set', 'phase': 'train', 'dataroot': str(folder), 'weaken': 1}
    )
    for item, full in zip(map(weak.__getitem__, range(len(weak))), map(on_disk.__getitem__, range(len(weak)))):
        change, before = item['attacked'] - item['clean'], full['attacked'] - full['clean']
        assert (change.abs() <= before.abs() + 1e-6).all() and (change * before >= 0).all()
        assert item['eps'] <= full['eps']


def test_clean_images_only(opt, tmp_path, capsys):
    clean = write({**opt, 'networks': None, 'attacks': None, 'count': 3}, tmp_path / 'o.yml')
    assert main(['adversarial-set', '-opt', str(clean), '-o', str(tmp_path / 'set'), '--workers', '0']) == 0
    assert '3 clean images, 3 of them made now' in capsys.readouterr().out
    dataset = build_dataset(
        {'type': 'AdversarialSetDataset', 'name': 'set', 'phase': 'val', 'dataroot': str(tmp_path / 'set')}
    )
    assert len(dataset) == 3 and 'attacked' not in dataset[0] and 'eps' not in dataset[0]
    assert not (tmp_path / 'set' / 'attacked.lmdb').exists()


def test_exception_on_foreign_folder(folder, opt, tmp_path, capsys):
    other = write({**opt, 'seed': 3}, tmp_path / 'o.yml')
    assert main(['adversarial-set', '-opt', str(other), '-o', str(folder)]) == 2
    assert 'holds pairs of other options, weights or photos' in capsys.readouterr().err
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('')
    assert main(['adversarial-set', '-opt', str(other), '-o', str(tmp_path / 'mine')]) == 2
    assert 'is not empty and not an adversarial set' in capsys.readouterr().err
    with pytest.raises(OptionsError, match='is not a finished adversarial set'):
        read_facts(tmp_path / 'mine')


def test_device_of_the_command(folder, opt, tmp_path, capsys):
    """The CPU is the default, so that sets that were begun without the option go on."""
    file = str(write(opt, tmp_path / 'o.yml'))
    assert main(['adversarial-set', '-opt', file, '-o', str(folder), '--device', 'cpu']) == 0
    assert '6 pairs, 0 of them made now' in capsys.readouterr().out
    command = ['adversarial-set', '-opt', file, '-o', str(tmp_path / 'set')]
    for name in ('nonsense', 'cuda:99'):
        assert main([*command, '--device', name]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f'rsr adversarial-set: device {name}: ') and len(error.splitlines()) == 1
        assert error.strip().endswith('use cpu, or leave it out') and not (tmp_path / 'set').exists()


def test_sets_of_a_gpu_have_folders_of_their_own(opt):
    options = check_adversarial_set(json.loads(json.dumps(opt)))
    options.pop('dataroot')
    texts = {name: fingerprint({**options, 'device': name}) for name in ('cpu', 'cuda', 'cuda:1')}
    assert texts['cpu'] == fingerprint(options) and texts['cuda'] == texts['cuda:1'] != texts['cpu']


def test_networks_are_attacked_on_the_device(opt, device, one_thread):
    options = check_adversarial_set(json.loads(json.dumps(opt)))
    options.pop('dataroot')
    made, again = (AdversarialImages(**options, device=str(device)) for _ in range(2))
    reference = AdversarialImages(**options)
    for index in range(3):
        torch.rand(index + 1, device=device)  # what was drawn before does not matter
        pair, same, expected = made[index], again[index], reference[index]
        assert made.network('tiny').body[0].weight.device.type == device.type
        assert np.array_equal(pair.attacked, same.attacked) and np.array_equal(pair.clean, expected.clean)
        assert device.type != 'cpu' or np.array_equal(pair.attacked, expected.attacked)


@pytest.mark.parametrize(
    'change, sentence',
    [
        ({'kind': {}}, "unknown key 'kind'; did you mean 'kinds'?"),
        ({'kinds': {'sharp': 1}}, "kinds: unknown key 'sharp'; did you mean 'sharpened'?"),
        ({'kinds': {'noisy': 0}}, 'kinds.noisy: expected a number above 0'),
        ({'kinds': {}}, 'kinds: there is none'),
        ({'real_esrgan': None}, 'kinds: real_esrgan needs the degradations in a block real_esrgan'),
        ({'size': 128}, 'size: 128 is more than 100, the images that real_esrgan makes at scale 4'),
        ({'photos': ['nowhere']}, 'photos: nowhere is not a folder of images'),
        ({'networks': None}, 'networks and attacks need each other'),
        ({'attacks': [{'type': 'PGD', 'step': 3}]}, "unknown key 'step'"),
        ({'attacks': [{'type': 'FGSM', 'steps': 3}]}, 'attacks, number 1: FGSM has no'),
        ({'eps': [0, 2]}, 'eps: expected a number above 0'),
        ({'real_esrgan': {**read('adversarial_set/train.yml')['real_esrgan'], 'resize_prob': [1]}}, 'expected three'),
        ({'eps': [8, 2]}, 'eps: expected [low, high]'),
        ({'count': 0}, 'count: expected a whole number of at least 1'),
        ({'networks': {'x': {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3}}}, "networks.x: the key 'weights' is"),
    ],
)
def test_wrong_options_are_named(change, sentence, opt, tmp_path, capsys):
    wrong = {**opt, **change}
    assert main(['adversarial-set', '-opt', str(write(wrong, tmp_path / 'o.yml')), '-o', str(tmp_path / 'set')]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1 and not (tmp_path / 'set').exists()


def test_exception_on_broken_photo_before_work(opt, tmp_path, capsys):
    folder = tmp_path / 'photos of 2026'
    folder.mkdir()
    shown = np.random.default_rng(0).integers(0, 256, (60, 50, 3)).astype(np.uint8)
    assert cv2.imwrite(str(folder / 'a good one.png'), shown)
    (folder / 'broken.png').write_bytes(b'no image')
    changed = write(
        {**opt, 'photos': str(folder), 'kinds': {'reduced': 1, 'real_esrgan': 1}, 'count': 3, 'seed': 1},
        tmp_path / 'o.yml',
    )
    command = ['adversarial-set', '-opt', str(changed), '-o', str(tmp_path / 'set'), '--workers', '0']
    assert main(command) == 1
    assert 'broken.png is not an image that can be read; remove it from' in capsys.readouterr().err.splitlines()[-1]
    (folder / 'broken.png').unlink()
    assert main(command) == 0
    assert {facts['photo'] for facts in read_facts(tmp_path / 'set')} == {'a good one.png'}


def test_a_set_can_grow_and_shrink(opt, tmp_path):
    def pack(count):
        clean = write(
            {**opt, 'networks': None, 'attacks': None, 'kinds': {'reduced': 1}, 'count': count}, tmp_path / 'o.yml'
        )
        assert main(['adversarial-set', '-opt', str(clean), '-o', str(tmp_path / 'set'), '--workers', '0']) == 0
        lines = (tmp_path / 'set' / 'clean.lmdb' / 'meta_info.txt').read_text().splitlines()
        return len(lines), len(read_facts(tmp_path / 'set'))

    assert [pack(count) for count in (2, 4, 3)] == [(2, 2), (4, 4), (3, 3)]
    dataset = build_dataset(
        {'type': 'AdversarialSetDataset', 'name': 's', 'phase': 'val', 'dataroot': str(tmp_path / 'set')}
    )
    assert dataset[2]['clean'].shape == (3, 32, 32)


def test_8_bit_is_rounded():
    assert to_8_bit(np.array([[[0.0, 1.0, 1.4 / 255]]])).tolist() == [[[0, 255, 1]]]
    assert cv2.imread(str(OPTIONS), cv2.IMREAD_COLOR) is None  # what read_photo relies on
