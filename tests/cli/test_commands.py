"""The commands in README and docs run as written, on options files with small numbers."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from basicsr.archs import build_network

from benchmark_runs import offline
from helpers import OPTIONS, SMALL_NETWORKS, shrink
from rsr_basicsr.cli import main

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]

#: Commands that another file runs: start of the command -> that file and a text that it must contain
ELSEWHERE = {
    'bash scripts/quickstart.sh': ('tests/test_quickstart.py', 'def test_the_whole_way'),
    'bash scripts/test.sh': ('.ci/run', 'scripts/test.sh'),
    'bash scripts/lint.sh': ('.ci/run', 'scripts/lint.sh'),
    'source .venv/bin/activate': ('scripts/_environment.sh', 'bin/activate'),
    'python scripts/install_basicsr.py': ('tests/test_packaging.py', 'install_basicsr.py'),
    'pip install': ('tests/test_packaging.py', 'pip'),
    'torchrun --nproc_per_node=4 -m rsr_basicsr.train': ('tests/distributed_runs.py', 'torch.distributed.run'),
    'torchrun --nnodes=2': ('tests/models/test_distributed.py', '--nnodes=2'),
    'torchrun --nproc_per_node=4 -m rsr_basicsr.cli benchmark': (
        'tests/benchmark/test_benchmark_resuming.py',
        'torch.distributed.run',
    ),
    'rsr benchmark -opt options/benchmark/paper.yml --force_yml networks:cdc:weights=untrained': (
        'tests/benchmark/test_benchmark_protocols.py',
        "'untrained' if network['type'] == 'DefendedCDC'",
    ),
    'srun python': ('tests/models/test_distributed.py', 'slurm'),
    'rsr adversarial-set': ('tests/data/test_adversarial_set.py', "main(['adversarial-set'"),
    'rsr train -opt options/train/train_frequency_classifier.yml': ('tests/models/test_detector_training.py', 'train('),
    'rsr test -opt options/test/test_frequency_classifier.yml': (
        'tests/models/test_detector_training.py',
        "main(['test'",
    ),
}
#: Weights that would have to be downloaded -> smaller ones that other tests download anyway
SMALLER = dict.fromkeys(
    ('realesr-general-x4v3', 'RealESRGAN_x4plus', 'RealESRGAN_x4plus_anime_6B'), 'realesr-animevideov3'
)


def commands(document):
    """The commands in tables and in code blocks, without comments."""
    for row in re.findall(r'^\| (`rsr .*?) \|', document.read_text(encoding='utf-8'), flags=re.MULTILINE):
        yield from re.findall('`([^`]+)`', row)
    for block in re.findall(r'^```\n(.*?)^```', document.read_text(encoding='utf-8'), flags=re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if re.match(r'(rsr|python|bash|pip|source|find|torchrun|srun) ', line):
                yield re.split(r'\s+#', line)[0]


@pytest.fixture
def place(tmp_path, monkeypatch, photos, photo):
    """A folder as the documents expect it, with small networks, small photos and short trainings."""
    monkeypatch.chdir(tmp_path)
    for name in ('PHOTOS', 'photos', 'folder', 'datasets/DF2K'):
        Path(name).mkdir(parents=True)
        for number in range(6):
            cv2.imwrite(f'{name}/{number}.png', (photo[0, :, number:48, :40] * 255).permute(1, 2, 0).numpy())
    shutil.copy('folder/0.png', 'photo.png')
    net = build_network({'type': 'DefendedSRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']})
    for name in ('net_g_latest.pth', 'my.pth'):
        torch.save({'params': net.state_dict()}, name)
    shutil.copytree(OPTIONS, 'options')
    for file in (*Path('options').glob('finetune/*.yml'), *Path('options').glob('train/*defended*.yml')):
        opt = shrink(yaml.safe_load(file.read_text(encoding='utf-8')), photos, iterations=2)
        opt['network_g']['defense'].pop('classifier')
        for key in ('optim_classifier', 'classifier_opt'):
            del opt['train'][key]
        _write(opt, file)
    for file in ('options/test/test_defended_realesrgan_x4plus.yml', 'TEST.yml'):
        _write(_test_options(), Path(file))
    _write(_benchmark_options(), Path('options/benchmark/quick.yml'))
    plain = shrink(yaml.safe_load((OPTIONS / 'finetune/finetune_defended_general_x4v3.yml').read_text()), photos, 2)
    for name in ('model_type', 'network_g'):
        block, key = (plain, name) if name == 'model_type' else (plain[name], 'type')
        block[key] = block[key].replace('Defended', '')
    for block, key in (
        (plain, 'attack'),
        (plain['network_g'], 'defense'),
        (plain['val'], 'attack'),
        (plain['val'], 'panel_freq'),
        (plain['train'], 'optim_classifier'),
        (plain['train'], 'classifier_opt'),
        (plain['train'], 'target'),
    ):
        block.pop(key, None)
    _write(plain, Path('IN.yml'))
    shutil.copy('options/finetune/finetune_defended_general_x4v3.yml', 'options.yml')
    return tmp_path


def _write(opt, path):
    path.write_text(yaml.safe_dump(opt, sort_keys=False), encoding='utf-8')


def _test_options():
    opt = yaml.safe_load((OPTIONS / 'test/test_defended_realesrgan_x4plus.yml').read_text(encoding='utf-8'))
    opt.update(num_gpu=0, network_g={'type': 'DefendedSRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']})
    opt['datasets'] = {
        'test_1': {
            'name': 'photos',
            'type': 'SingleImageDataset',
            'dataroot_lq': 'PHOTOS',
            'io_backend': {'type': 'disk'},
        }
    }
    opt['path'] = {'pretrain_network_g': 'my.pth'}
    opt['val'] = {'save_img': True, 'suffix': None}
    return opt


def _benchmark_options():
    opt = offline(yaml.safe_load((OPTIONS / 'benchmark/quick.yml').read_text(encoding='utf-8')))
    del opt['networks']['bicubic']
    small = SMALL_NETWORKS['SRVGGNetCompact']
    torch.save({'params': build_network({'type': 'SRVGGNetCompact', **small}).state_dict()}, 'small.pth')
    for network in opt['networks'].values():
        network.update(small, weights='my.pth' if 'Defended' in network['type'] else 'small.pth')
    opt['datasets'] = {'BSD100': {'type': 'ReducedImageDataset', 'dataroot_gt': 'photos', 'num_images': 1}}
    opt.update(attacks={'pgd': {'type': 'PGD', 'steps': 1}}, eps=[8], mask_seeds=[0], num_gpu=0)
    return opt


@pytest.mark.parametrize(
    'document', [document for document in DOCUMENTS if any(commands(document))], ids=lambda path: path.name
)
def test_commands_of_a_document(document, place, monkeypatch):
    for line in dict.fromkeys(commands(document)):
        run_as_it_stands(line, monkeypatch)


def run_as_it_stands(line, monkeypatch):
    elsewhere = next((proof for start, proof in ELSEWHERE.items() if line.startswith(start)), None)
    if elsewhere is not None:
        assert elsewhere[1] in (ROOT / elsewhere[0]).read_text(encoding='utf-8'), line
        return
    if line.startswith('find '):
        subprocess.run(line, shell=True, check=True)
        return
    assert line.startswith('rsr '), f'no test runs: {line}'
    if '--merge' in line:
        for name in ('mine', 'theirs'):
            shutil.copytree('benchmark/quick', f'benchmark/{name}')
    words = [SMALLER.get(word, word) for word in shlex.split(line.split(' > ')[0])]
    if words[1] == 'options' and '-o' in words:
        words[words.index('-o') + 1] = 'fresh'  # the files in options/ have been replaced by small ones
    files = [str(path) for word in words[1:] if '*' in word for path in Path().glob(word)]
    words = [word for word in words if '*' not in word] + files
    monkeypatch.setattr('sys.argv', words)
    code = main(words[1:])
    assert code in ((0, 3) if words[1] == 'detect' else (0,)), f'{line}: exit code {code}'


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)
def test_scripts_exist(document):
    for script in re.findall(r'scripts/\w+\.(?:py|sh)', document.read_text(encoding='utf-8')):
        assert (ROOT / script).is_file(), script


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)
def test_links_are_valid(document):
    text = document.read_text(encoding='utf-8')
    for target, anchor in re.findall(r'\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)', text):
        path = (document.parent / target) if target else document
        assert path.exists(), target
        if anchor:
            titles = re.findall(r'^#+ (.+)$', path.read_text(encoding='utf-8'), flags=re.MULTILINE)
            anchors = {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}
            assert anchor in anchors, f'{target}#{anchor}'
