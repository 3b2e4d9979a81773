"""``rsr check``: what it finds, all at once, in files that are really broken, and that BasicSR trips over the same."""

import ast
import copy
import inspect
import os
import random
import re
import shutil
import textwrap

import cv2
import lmdb
import pytest
import torch
from basicsr.archs import build_network
from basicsr.data import realesrgan_dataset, realesrgan_paired_dataset
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.models import base_model, realesrgan_model, realesrnet_model, sr_model, srgan_model
from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY
from PIL import Image

from helpers import paired_options, read, shrink, write
from rsr_basicsr.check import check_options, stray_keys
from rsr_basicsr.check.step_memory import GIB, StepMemory, estimate
from rsr_basicsr.check.survey import compare_with_gpu, survey
from rsr_basicsr.cli import main
from rsr_basicsr.options.loading import as_parsed
from rsr_basicsr.options.messages import Problems

GENERAL, GAN = 'finetune/finetune_defended_general_x4v3.yml', 'finetune/finetune_defended_realesrgan_x4plus.yml'


@pytest.fixture
def opt(photos):
    """A small training that is in order, with a validation."""
    return in_order(shrink(read(GENERAL), photos))


def in_order(opt):
    opt['train']['scheduler']['milestones'] = [2]
    opt['logger']['save_checkpoint_freq'] = 2
    opt['datasets']['train']['num_worker_per_gpu'] = 0
    return opt


@pytest.fixture
def folder(pairs, tmp_path):
    """Pairs of one's own, to be broken."""
    for kind in ('gt', 'lq'):
        shutil.copytree(pairs / kind, tmp_path / 'pairs' / kind)
    return tmp_path / 'pairs'


def check(opt, tmp_path, capsys, *flags):
    """Exit code, and the lines below each heading, of ``rsr check``."""
    code = main(['check', str(write(opt, tmp_path / 'o.yml')), *flags])
    out = capsys.readouterr().out
    found = {
        title: re.findall(r'^  (.*)$', text, re.M) for title, text in re.findall(r'^(\w+):\n((?:  .*\n)+)', out, re.M)
    }
    errors, warnings = found.get('Errors', []), found.get('Warnings', [])
    count = f'{len(errors)} error{"s" * (len(errors) != 1)}, {len(warnings)} warning{"s" * (len(warnings) != 1)}'
    assert out.splitlines()[-1] == count and code == (2 if errors else 0)
    return errors, warnings, found['Facts']


def set_in(opt, path, value):
    *sections, key = path.split(':')
    for section in sections:
        opt = opt[section]
    if value is None:
        del opt[key]
    else:
        opt[key] = value


# files that are in order


def small_photos(warning):
    return warning.startswith('datasets.train: ') and 'filled up to 400x400' in warning


@pytest.mark.parametrize('name', [GENERAL, GAN])
@pytest.mark.parametrize('defended', [True, False], ids=['defended', 'plain'])
def test_a_file_in_order_passes_and_nothing_is_written(name, defended, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt = in_order(shrink(read(name), photos))
    if not defended:
        opt['model_type'], opt['network_g']['type'] = opt['model_type'][8:], opt['network_g']['type'][8:]
        del opt['attack'], opt['network_g']['defense'], opt['val']['attack'], opt['val']['panel_freq']
        for key in ('train_classifier', 'optim_classifier', 'classifier_opt', 'target'):
            opt['train'].pop(key, None)
    errors, warnings, facts = check(opt, tmp_path, capsys)
    assert errors == [] and all(map(small_photos, warnings)) and os.listdir(tmp_path) == ['o.yml']
    assert facts[0].endswith('o.yml: a training (rsr train)')
    assert 'datasets.val.dataroot_lq: 5 images, 16x16' in facts
    assert any(fact.startswith('memory: ') and 'GiB per sample' in fact for fact in facts)
    assert any('attacks nothing; rsr defend' in fact for fact in facts) is not defended
    masks = [fact for fact in facts if fact.startswith('mask ')]
    assert masks[:1] == (['mask 1, input: the image, 3 x 16 x 16'] if defended else [])


def test_a_test_is_none_of_a_training(opt, pairs, tmp_path, capsys):
    torch.save({'params': build_network(dict(opt['network_g'])).state_dict()}, tmp_path / 'w.pth')
    test = {key: opt[key] for key in ('name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'network_g')}
    test.update(
        val={'save_img': False},
        path={'pretrain_network_g': str(tmp_path / 'w.pth')},
        datasets={
            'test_1': {
                'name': 'a',
                'type': 'PairedImageDataset',
                'dataroot_gt': str(pairs / 'gt'),
                'dataroot_lq': str(pairs / 'lq'),
                'io_backend': {'type': 'disk'},
            }
        },
    )
    errors, warnings, facts = check(test, tmp_path, capsys)
    assert (errors, warnings) == ([], []) and facts[0].endswith('a test (rsr test)')
    assert f'path.pretrain_network_g: {tmp_path / "w.pth"} has params; it fits DefendedSRVGGNetCompact' in facts
    test['val']['save_img'], test['datasets']['Set5'] = True, test['datasets'].pop('test_1')
    errors, _, _ = check(test, tmp_path, capsys)
    assert [error.split(',')[0] for error in errors] == [
        'datasets.Set5: BasicSR knows data sets by names such as test_1',
        "val: the key 'suffix' is missing",
    ]


# what is wrong


def test_everything_wrong_is_named_at_once_and_nothing_that_follows_from_it(opt, tmp_path, capsys):
    opt['network_g']['num_fea'] = opt['network_g'].pop('num_feat')
    opt['train']['optim_g'].update(lr='fast')
    opt['train']['totl_iter'] = opt['train'].pop('total_iter')
    opt['attack'].update(epz=opt['attack'].pop('eps'), share=2)
    del opt['jpeg_range'], opt['noise_range']
    opt['datasets']['train'].update(dataroot_gt='nowhere')
    opt['datasets']['train']['dataset_enlarge_ration'] = opt['datasets']['train'].pop('dataset_enlarge_ratio')
    opt['datasets']['val']['io_backend']['type'] = 'dsk'
    opt['path'].update(pretrain_network_g='gone.pth', pretrain_model_d=None)
    opt['val']['metrics']['psnr']['crop_borders'] = opt['val']['metrics']['psnr'].pop('crop_border')
    opt['logger']['print_freq'] = 0
    errors, _, _ = check(opt, tmp_path, capsys)
    assert sorted(errors) == sorted(
        [
            "network_g: unknown key 'num_fea'; did you mean 'num_feat'?",
            "train.optim_g.lr: expected a number of at least 0, got 'fast'",
            "train: unknown key 'totl_iter'; did you mean 'total_iter'?",
            "attack: unknown key 'epz'; did you mean 'eps'?",
            'attack.share: expected a number above 0 and at most 1, got 2',
            "the key 'noise_range' is missing; did you mean 'noise_range' where it says 'noise_range2'?",
            "the key 'jpeg_range' is missing; did you mean 'jpeg_range' where it says 'jpeg_range2'?",
            'datasets.train.dataroot_gt: no such folder: nowhere',
            "datasets.train: unknown key 'dataset_enlarge_ration'; did you mean 'dataset_enlarge_ratio'?",
            "datasets.val.io_backend.type: expected one of disk, lmdb, memcached, got 'dsk'",
            "path: unknown key 'pretrain_model_d', of whose value BasicSR would make a folder; did you mean "
            "'pretrain_network_d'?",
            "val.metrics.psnr: unknown key 'crop_borders'; did you mean 'crop_border'?",
            'logger.print_freq: expected a whole number of at least 1, got 0',
        ]
    )


ERRORS = [
    ('train:pixel_opt:reduction', 'men', 'train.pixel_opt: L1Loss cannot be built: Unsupported reduction mode: men'),
    ('train:optim_g:betas', [0.9, 2], 'train.optim_g: Adam cannot be built: Invalid beta parameter at index 1: 2'),
    ('train:scheduler', {'type': 'CosineAnnealingRestartLR', 'periods': [2]}, 'they end after 2 iterations, and the'),
    ('train:perceptual_opt', {'type': 'PerceptualLoss', 'layer_weights': {'conv9': 1}}, "'conv9' is not in list"),
    ('gt_size', 66, 'gt_size: 66 is not a multiple of the scale, 4; write 64'),
    ('gt_size', 404, 'gt_size: RealESRGANDataset cuts its images to 400x400, which has no patch of 404; write 400'),
    ('queue_size', 5, 'queue_size: 5 is not a multiple of the batch size 2'),
    ('datasets:train:batch_size_per_gpu', 100, 'queue_size: 4 is not a multiple of the batch size 100'),
    ('datasets:train:prefetch_mode', 'cuda', 'datasets.train.prefetch_mode: cuda needs pin_memory: true beside it'),
    ('datasets:train:io_backend:path', 'a', "datasets.train.io_backend: a disk takes no 'path'; remove it"),
    ('datasets:valid', {}, 'datasets.valid: BasicSR knows data sets by names such as train, val, val_2; got'),
    ('scale', 2, 'network_g: DefendedSRVGGNetCompact cannot be built: it upscales by 4, but scale is 2'),
    ('logger:wandb', {'project': 'a'}, 'logger.wandb: BasicSR wants use_tb_logger: true beside it'),
    ('attack', None, 'model_type DefendedRealESRNetModel needs an attack block'),
    ('path:param_kee_g', 'params', 'path: unknown key'),
]


@pytest.mark.parametrize('path, value, sentence', ERRORS, ids=lambda value: value if isinstance(value, str) else None)
def test_errors(path, value, sentence, opt, tmp_path, capsys):
    set_in(opt, path, value)
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory', '--decode', '0')
    # No package wandb where the tests run.
    errors = [error for error in errors if 'package wandb' not in error and 'do not fill one batch' not in error]
    assert len(errors) == 1 and sentence in errors[0]


WARNINGS = [
    ('cutblur', 1, 'the options: nothing reads cutblur; remove it'),
    ('datasets:train:gt_size', 32, 'datasets.train.gt_size: 32 is not read; the patches have the gt_size of the top'),
    ('train:ema_decay', 1, 'train.ema_decay: 1 never lets the moving average move; write 0.999'),
    ('train:scheduler:milestones', [2, 9], 'train.scheduler.milestones: 9 is never reached, since the training ends'),
    ('logger:save_checkpoint_freq', 5000, 'logger.save_checkpoint_freq: 5000 is more than total_iter, 4: nothing is'),
    ('datasets:val', None, 'val: there is no data set to validate with; add datasets.val'),
    ('datasets:train:num_worker_per_gpu', 10**4, f'10000 processes for {os.cpu_count()} cores; write {os.cpu_count()}'),
    ('queue_size', 2, 'queue_size: 2 holds one batch, whose images share their degradations'),
]


@pytest.mark.parametrize('path, value, sentence', WARNINGS, ids=lambda value: value if isinstance(value, str) else None)
def test_warnings(path, value, sentence, opt, tmp_path, capsys):
    set_in(opt, path, value)
    errors, warnings, _ = check(opt, tmp_path, capsys, '--no-memory', '--decode', '0')
    assert errors == [] and len(warnings) == 1 and sentence in warnings[0]


def test_keys_of_classes_of_ones_own_are_not_known(opt, tmp_path, capsys):
    class OwnModel(MODEL_REGISTRY.get('DefendedRealESRNetModel')):
        pass

    if 'OwnModel' not in MODEL_REGISTRY:
        MODEL_REGISTRY.register(OwnModel)
    opt['train'].update(ema_deca=0.9, cutblur=0.5)
    del opt['train']['ema_decay']
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == ["train: unknown key 'ema_deca'; did you mean 'ema_decay'?"]
    opt['model_type'] = 'OwnModel'
    errors, warnings, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == [] and "train: unknown key 'ema_deca'; did you mean 'ema_decay'?" in warnings
    assert not any('cutblur' in warning for warning in warnings)


def test_patches_that_a_network_does_not_take(pairs, photos, tmp_path, capsys):
    opt = in_order(paired_options(pairs, 'DefendedSwinIRModel', photos=photos))
    opt['network_g'] = dict(
        type='DefendedSwinIR',
        upscale=4,
        in_chans=3,
        img_size=16,
        window_size=8,
        depths=[1],
        embed_dim=8,
        num_heads=[1],
        upsampler='pixelshuffle',
        defense={},
    )
    opt['datasets']['train']['gt_size'] = 48
    sentence = (
        'gt_size: 48 gives low-resolution patches of 12x12, which {} does not take; write a multiple of 32, '
        'that is window_size 8 times scale 4'
    )
    assert check(opt, tmp_path, capsys, '--no-memory')[0] == [sentence.format('DefendedSwinIR')]
    opt.update(model_type='SwinIRModel', network_g={**opt['network_g'], 'type': 'SwinIR'})
    del opt['attack'], opt['network_g']['defense'], opt['train']['optim_classifier'], opt['train']['classifier_opt']
    assert check(opt, tmp_path, capsys, '--no-memory')[0] == [sentence.format('SwinIR')]
    opt['network_g']['upscale'] = 2  # of a plain network too
    assert check(opt, tmp_path, capsys, '--no-memory')[0] == ['network_g: SwinIR upscales by 2, but scale is 4']


def test_weights(opt, tmp_path, capsys, real_weights):
    state = build_network(dict(opt['network_g'])).state_dict()
    torch.save({'params': state, 'params_ema': state}, tmp_path / 'w.pth')
    opt['path'].update(pretrain_network_g=str(tmp_path / 'w.pth'), strict_load_g=True)
    opt['train']['optim_g']['lr'] = 1e-3
    _, warnings, facts = check(opt, tmp_path, capsys, '--no-memory', '--decode', '0')
    assert (
        f'path.pretrain_network_g: {tmp_path / "w.pth"} has params and params_ema, params is taken; it fits '
        'DefendedSRVGGNetCompact' in facts
    )
    assert warnings == [
        'train.optim_g.lr: 0.001 is high for weights that are trained already; 0.0001 is usual',
        'path.param_key_g: params is taken, while the moving average begins with params_ema; params_ema is there too, '
        'and usually the better one',
    ]
    other = build_network({**opt['network_g'], 'num_conv': 4})
    torch.save({'params': other.state_dict()}, tmp_path / 'w.pth')
    opt['path'].update(param_key_g='params_ema', strict_load_g=False)
    errors, warnings, _ = check(opt, tmp_path, capsys, '--no-memory', '--decode', '0')
    assert errors == [] and re.search(r'has \d+ tensors, of which \d+ fit \w+; the others are left out', warnings[1])
    assert (
        f'path.param_key_g: params_ema is not in {tmp_path / "w.pth"}, and BasicSR takes params; write params'
        in warnings
    )
    opt['path']['pretrain_network_g'] = str(real_weights)
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory', '--decode', '0')
    assert len(errors) == 1 and 'of which 0 fit DefendedSRVGGNetCompact; name the weights of this net' in errors[0]


def test_an_experiment_of_that_name_and_keys_that_stand_twice(opt, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'experiments' / opt['name']).mkdir(parents=True)
    file = write(opt, tmp_path / 'o.yml')
    file.write_text(f'{file.read_text()}scale: 4\n')
    assert main(['check', '-opt', 'o.yml', '--no-memory', '--decode', '0']) == 0
    out = capsys.readouterr().out
    assert re.search(r'scale is in line \d+ and again in line \d+, which counts; remove one of them', out)
    assert f'name: experiments/{opt["name"]} exists; BasicSR will rename it' in out and '0 errors, 2 warn' in out


# images, and what BasicSR makes of them


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-40])


def as_jpeg_cut_short(path):
    Image.open(path).save(path, 'JPEG')
    cut_short(path)


BROKEN = {
    'empty': (lambda path: path.write_bytes(b''), 'is an empty file; take it out, or save it again'),
    'text': (lambda path: path.write_text('an image'), 'is not an image that OpenCV can read'),
    'cut': (lambda path: path.write_bytes(path.read_bytes()[:60]), 'cannot be decoded'),
    'header': (lambda path: path.write_bytes(path.read_bytes()[:20]), 'is not an image that'),
    'wide': (
        lambda path: cv2.imwrite(str(path), cv2.imread(str(path))[:, :40]),
        'coffee_cup.png is 40x64 and its low-resolution image 16x16, but scale is 4; see dataroot_lq',
    ),
    'gone': (lambda path: path.unlink(), 'datasets.train.dataroot_lq: 5 files for 4 in'),
    'renamed': (lambda path: path.rename(path.with_name('a.png')), 'a.png is not in'),
}


@pytest.mark.parametrize('breaks, sentence', BROKEN.values(), ids=BROKEN)
def test_broken_images_that_stop_basicsr(breaks, sentence, folder, photos, tmp_path, capsys):
    opt = in_order(paired_options(folder, photos=photos))
    assert check(opt, tmp_path, capsys, '--no-memory')[0] == []
    read_all(opt)
    breaks(folder / 'gt' / 'coffee_cup.png')
    with pytest.raises(Exception):
        read_all(opt)
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory', '--decode', '1')
    assert len(errors) == 1 and errors[0].startswith('datasets.train') and sentence in errors[0]


@pytest.mark.parametrize('breaks', [cut_short, as_jpeg_cut_short])
def test_images_of_which_the_end_is_missing(breaks, folder, photos, tmp_path, capsys):
    breaks(folder / 'gt' / 'coffee_cup.png')  # which OpenCV fills up in silence
    opt = in_order(paired_options(folder, photos=photos))
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory', '--decode', '1')
    assert len(errors) == 1 and 'coffee_cup.png cannot be decoded' in errors[0]


def read_all(opt):
    options = copy.deepcopy({**opt['datasets']['train'], 'phase': 'train', 'scale': opt['scale']})
    dataset = DATASET_REGISTRY.get(options['type'])(options)
    return [dataset[index] for index in range(len(dataset))]


def test_what_basicsr_does_not_keep_of_a_image(folder, photos, tmp_path, capsys):
    deep = cv2.imread(str(folder / 'gt' / 'coffee_cup.png')).astype('uint16') * 257
    cv2.imwrite(str(folder / 'gt' / 'coffee_cup.png'), deep)
    grey = Image.open(folder / 'gt' / 'coffee_spoon.png').convert('LA')
    grey.save(folder / 'gt' / 'coffee_spoon.png')
    opt = in_order(paired_options(folder, photos=photos))
    assert all(item['gt'].shape[0] == 3 and (item['gt'] * 255 % 1 == 0).all() for item in read_all(opt))
    errors, warnings, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert (
        errors == []
        and (
            'datasets.train.dataroot_gt: '
            + '; '.join(
                f'1 of 5 images: {what}'
                for what in (
                    'more than 8 bit, of which BasicSR reads 8',
                    'grey, read as three equal channels',
                    'transparency, which is dropped',
                )
            )
        )
        in warnings
    )


def test_lists(folder, photos, tmp_path, capsys):
    opt = in_order(paired_options(folder, photos=photos))
    opt['datasets']['train'].update(meta_info_file=str(tmp_path / 'list.txt'), filename_tmpl='{}x4')
    (tmp_path / 'list.txt').write_text('coffee_cup.png (64,64,3)\ncoffee_spoon.png\n')
    with pytest.raises(FileNotFoundError):
        read_all(opt)
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == [
        f'datasets.train.meta_info_file: {tmp_path / "list.txt"} lists coffee_cupx4.png, which is not in '
        f'{folder / "lq"}, nor are 1 others'
    ]
    opt['datasets']['train']['filename_tmpl'] = '{'
    assert (
        "filename_tmpl: expected a name with braces in it, such as '{}x4', got '{'"
        in check(opt, tmp_path, capsys, '--no-memory')[0][0]
    )
    opt['datasets']['train'].update(filename_tmpl='{}', dataset_enlarge_ratio=0.5)
    assert check(opt, tmp_path, capsys, '--no-memory')[0] == [
        'datasets.train.dataset_enlarge_ratio: 2 images, each 0.5 times, do not fill one batch of 2, and nothing '
        'would be trained; write 1 or more'
    ]


def test_photos_smaller_than_what_is_cut_out_of_them(opt, folder, photos, tmp_path, capsys):
    opt['datasets']['train'].update(dataroot_gt=str(folder / 'gt'), meta_info=str(tmp_path / 'list.txt'))
    (tmp_path / 'list.txt').write_text('coffee_cup.png\ncoffee_spoon.png\n')
    _, warnings, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert warnings == [
        'datasets.train: coffee_cup.png is 64x64, and is filled up to 400x400 by its mirror image (and 1 more)'
    ]
    opt = in_order(paired_options(folder, photos=photos))
    opt['datasets']['train']['gt_size'] = 128
    with pytest.raises(ValueError, match='smaller than patch size'):
        read_all(opt)
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == [
        'datasets.train.gt_size: astronaut_face.png is 64x64, smaller than 128 (and 4 more); take it '
        'out, or lower gt_size'
    ]


def test_databases(folder, photos, tmp_path, capsys):
    opt = in_order(paired_options(folder, photos=photos))
    opt['datasets']['train']['io_backend']['type'] = 'lmdb'
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == [
        f'datasets.train.dataroot_gt: with io_backend lmdb BasicSR wants a folder NAME.lmdb, got '
        f'{folder / "gt"}; write type: disk for a folder of images'
    ]
    for kind in ('gt', 'lq'):
        write_database(folder / kind, folder / f'{kind}.lmdb')
        opt['datasets']['train'][f'dataroot_{kind}'] = str(folder / f'{kind}.lmdb')
    assert len(read_all(opt)) == 5
    errors, _, facts = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == [] and 'datasets.train.dataroot_gt: 5 images, 64x64' in facts
    data = folder / 'gt.lmdb' / 'data.mdb'
    data.write_bytes(data.read_bytes()[:20000])  # reading which would end the process
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == [
        f'datasets.train: {folder / "gt.lmdb"} cannot be read as LMDB: data.mdb is cut short; create it again'
    ]
    (folder / 'gt.lmdb' / 'meta_info.txt').write_text('other.png (64,64,3) 1\n')
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert 'astronaut_face is in one of' in errors[0]


def write_database(source, target):
    with lmdb.open(str(target), map_size=10**7) as database, database.begin(write=True) as view:
        for path in source.iterdir():
            view.put(path.stem.encode(), path.read_bytes())
    (target / 'meta_info.txt').write_text(''.join(f'{path.name} (1,1,3) 1\n' for path in source.iterdir()))


# other kinds of files, and files that are none


@pytest.mark.parametrize(
    'content, sentence',
    [
        ({'photos': 'nowhere', 'count': 5, 'kinds': {'reduced': 1}}, 'photos: '),
        ({'photos': 'nowhere', 'count': 5, 'kindz': {'reduced': 1}}, "unknown key 'kindz'; did you mean 'kinds'?"),
        (
            {'name': 'a', 'networks': {}, 'attacks': {}, 'epz': [8], 'datasets': {}},
            "unknown key 'epz'; did you mean 'eps'",
        ),
    ],
)
def test_sets_and_benchmarks(content, sentence, tmp_path, capsys):
    errors, _, _ = check(content, tmp_path, capsys)
    assert any(sentence in error for error in errors)


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'a: [1',
        b'\x80\x04\x95',
        b'[]',
        b'a: 2001-99-99',
        b'[' * 600,
        b'a: !!int x',
        b'a: !!python/object/apply:os.system ["touch ran"]',
    ],
    ids=range(8),
)
def test_files_that_are_none(content, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'o.yml').write_bytes(content)
    assert main(['check', 'o.yml']) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('rsr check: -opt o.yml') and len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == ['o.yml']


def test_malformed_options_end_in_sentences(opt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = [None, [], {}, {'type': 5}, 'x', -1, float('nan'), 10**400, [[1]], True, {1: 2}, '{']
    aliases = 'a: &a [x, x, x, x, x, x, x, x]\n' + ''.join(
        f'{name}: &{name} [{", ".join([f"*{before}"] * 8)}]\n' for before, name in zip('abcdefghijk', 'bcdefghijkl')
    )
    for seed in range(25):
        broken, draw = copy.deepcopy(opt), random.Random(seed)
        for _ in range(draw.choice([1, 2, 5, 20])):
            place, key = draw.choice(list(places(broken)))
            place[key] = copy.deepcopy(draw.choice(odd))
        found = survey(str(write(broken, tmp_path / 'o.yml')), decoded=0, count_memory=False)
        assert all('\n' not in sentence for sentence in found)
    text = write(opt, tmp_path / 'o.yml').read_text()
    (tmp_path / 'o.yml').write_text(f'{aliases}{text}train: *l\nnetwork_g: &n\n  type: RRDBNet\n  defense: *n\n')
    found = survey('o.yml', count_memory=False)
    assert [len(sentence) < 400 for sentence in found if sentence.startswith('train: expected a block')] == [True]


def places(block):
    for key, value in block.items():
        yield block, key
        if isinstance(value, dict):
            yield from places(value)


# memory


def test_memory_is_that_of_the_step_on_a_cpu(photos):
    """Against what torch's profiler sees being allocated, which includes what the operators take for themselves."""
    opt = shrink(read(GAN), photos)
    as_parsed(opt, 'train', '.')
    check_options(opt)
    model = MODEL_REGISTRY.get(opt['model_type'])(copy.deepcopy(opt))
    found = estimate(opt, 16, 4)
    for batch in (4, 8):
        assert allocated(model, batch, 16) == pytest.approx(found.of(batch), rel=0.15)
    assert found.largest_batch(1.5 + found.of(7.5) / GIB) == 7 and found.largest_batch(1) == 0


def allocated(model, batch, size):
    def step():
        model.lq, model.gt = torch.rand(batch, 3, size, size), torch.rand(batch, 3, 4 * size, 4 * size)
        model.gt_usm = model.gt
        model.optimize_parameters(1)

    step()
    nets = [model.net_g, model.net_g_ema, model.net_d]
    still = 4 * sum(parameter.numel() for net in nets for parameter in net.parameters())
    for optimizer in model.optimizers:
        optimizer.zero_grad()
        still += sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == '[memory]']
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return still + peak


@pytest.mark.parametrize('free, whole, errors, warnings', [(20, 24, 0, 0), (10, 24, 0, 1), (6, 6, 1, 0)])
def test_memory_of_a_gpu_is_compared(free, whole, errors, warnings, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (free * GIB, whole * GIB))
    problems = Problems()
    compare_with_gpu(StepMemory(GIB, GIB), 8, problems)
    assert (len(problems), len(problems.warnings)) == (errors, warnings)
    for sentence in [*problems, *problems.warnings]:
        assert sentence == (
            'datasets.train.batch_size_per_gpu: a batch of 8 takes about 10.5 GiB, and this GPU has '
            f'{free}.0 GiB free of {whole}.0; write {int(free - 2.5)} or less'
        )


# the tables of what BasicSR reads


@pytest.mark.parametrize(
    'kind, cls',
    [
        ('PairedImageDataset', PairedImageDataset),
        ('SingleImageDataset', SingleImageDataset),
        ('RealESRGANDataset', realesrgan_dataset.RealESRGANDataset),
        ('RealESRGANPairedDataset', realesrgan_paired_dataset.RealESRGANPairedDataset),
    ],
)
def test_every_key_that_a_data_set_reads_is_known(kind, cls):
    assert asked_for(cls, 'opt') <= {*stray_keys._DATASET, *stray_keys._OF_DATASET[kind]}


@pytest.mark.parametrize(
    'cls',
    [
        base_model.BaseModel,
        sr_model.SRModel,
        srgan_model.SRGANModel,
        realesrnet_model.RealESRNetModel,
        realesrgan_model.RealESRGANModel,
    ],
)
def test_every_key_that_a_model_reads_is_known(cls):
    top, train, sure = stray_keys._read_by(cls)
    assert sure and asked_for(cls, 'train_opt') <= {*train} and len(asked_for(sr_model.SRModel, 'train_opt')) >= 4
    networks = {'network_g', 'network_d'}
    assert asked_for(cls, 'opt') <= {*top, *networks}


def asked_for(cls, name):
    """Keys that the source of a class takes out of ``name`` or ``self.name``."""
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls)))):
        if isinstance(node, ast.Subscript):
            owner, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'get':
            owner, key = node.func.value, node.args[0]
        else:
            continue
        if getattr(owner, 'id', getattr(owner, 'attr', None)) == name and isinstance(key, ast.Constant):
            found.add(key.value)
    return found


def test_problems_know_what_depends_on_them():
    problems = Problems()
    with problems.noted(part='train.optim_g'):
        raise ValueError('wrong')
    assert problems == ['wrong'] and problems.there('train') and not problems.sound('train')
    assert problems.sound('train.optim') and not problems.there('train.optim_g.lr')
