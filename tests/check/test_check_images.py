"""What ``rsr check`` finds in images that are really broken, and that BasicSR trips over the same."""

import copy
import os

import cv2
import lmdb
import pytest
from basicsr.utils.registry import DATASET_REGISTRY
from PIL import Image
from training_files import check, in_order

from helpers import paired_options


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


@pytest.mark.parametrize('size', ['', ' (64,64,3)'])
def test_names_with_spaces_in_lists(size, folder, photos, tmp_path, capsys):
    for kind in ('gt', 'lq'):
        os.rename(folder / kind / 'coffee_cup.png', folder / kind / 'coffee cup.png')
    (tmp_path / 'list.txt').write_text(f'\ufeffcoffee cup.png{size}\ncoffee_spoon.png{size}\n', encoding='utf-8')
    opt = in_order(paired_options(folder, photos=photos))
    opt['datasets']['train'].update(meta_info_file=str(tmp_path / 'list.txt'))
    with pytest.raises(FileNotFoundError):
        read_all(opt)
    errors, _, _ = check(opt, tmp_path, capsys, '--no-memory')
    assert errors == [
        f"datasets.train.meta_info_file: {tmp_path / 'list.txt'} lists 'coffee cup.png', of which BasicSR reads "
        "'coffee', up to the space; rename the image"
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
