"""Fuzz every command with broken and hostile files: each must end in one error message and leave no file.

    python scripts/try_malformed.py [--count 300] [--seed 0]

Images that are truncated, empty, of another format than their name, or with an oversized header; weight files that are
truncated, hold NaN or tensors of odd kinds, claim more than their size holds, belong to another network or would run
code; options files that are not YAML, nest without end, have values of wrong types or would run code; leaderboard
entries and records of a stranger; pipes, sockets, devices, loops of links and folders in the place of files; names that
are not text; arguments out of any range. A case fails if the command ends in a traceback or exit code 0, takes longer
than a minute, prints nothing, runs code in the file, or leaves a file behind. Exit code 1 if any case fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pickle
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import rsr_basicsr  # noqa: F401  isort: skip

import cv2
import numpy as np
import torch
import yaml
from basicsr.archs import build_network
from PIL import Image

from rsr_basicsr.cli import main as rsr

CANARY = 'code_was_run'
LONGEST = 60  # seconds of a command
OPTIONS = Path(__file__).parents[1] / 'options'
NETWORK = dict(type='SRVGGNetCompact', num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=4)


class Case(NamedTuple):
    """A broken file and the commands that read such files."""

    kind: str
    content: bytes | Callable[[Path], None]  # or what makes the file
    ending: str
    commands: list[list[str]]  # FILE is replaced by its path


class RunsCode:
    """Creates the canary file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f'touch {CANARY}',)


IMAGE_COMMANDS = [
    ['upscale', 'FILE', '-n', 'good.pth', '-o', 'out'],
    ['detect', 'FILE'],
    ['stability', 'good.pth', 'FILE', '-o', 'out'],
]
WEIGHT_COMMANDS = [
    ['upscale', 'good.png', '-n', 'FILE', '-o', 'out'],
    ['stability', 'FILE', 'good.png', '-o', 'out'],
    ['export', 'FILE', '--backbone', 'out.pth'],
    ['detect', 'good.png', '--weights', 'FILE'],
    ['train', '-opt', 'good.yml', '--force_yml', 'path:pretrain_network_g=FILE'],
    ['check', 'good.yml', '--force_yml', 'path:pretrain_network_g=FILE'],
]
OPTION_COMMANDS = [[command, '-opt', 'FILE'] for command in ('train', 'test', 'masks', 'benchmark', 'adversarial-set')]
OPTION_COMMANDS += [
    ['check', 'FILE'],
    ['defend', 'FILE', '-o', 'out.yml'],
    ['leaderboard', 'FILE', '-o', 'out.md'],
    ['upscale', 'good.png', '-n', 'good.pth', '-opt', 'FILE', '-o', 'out'],
    ['stability', 'good.pth', 'good.png', '-opt', 'FILE', '-o', 'out'],
]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--count', type=int, default=300, help='number of broken files')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    rng, failed = random.Random(args.seed), 0
    signal.signal(signal.SIGALRM, _too_long)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder) if hasattr(contextlib, 'chdir') else _chdir(folder),
    ):
        _write_good()
        for number in range(args.count):
            with warnings.catch_warnings():  # torch warns of odd tensors
                warnings.simplefilter('ignore')
                case = KINDS[number % len(KINDS)](rng)
            file = f'case{number}{case.ending}'  # an ending that is not text makes such a name
            if callable(case.content):
                case.content(Path(file))
            else:
                Path(file).write_bytes(case.content)
            command = [word.replace('FILE', file) for word in rng.choice(case.commands)]
            problem = run(command)
            if problem:
                failed += 1
                print(f'{case.kind}: rsr {" ".join(command)!a}: {problem!a}')
            if problem and Path(file).is_file():
                Path(file).rename(Path(tempfile.gettempdir()) / file)  # kept for inspection
            elif os.path.isdir(file) and not os.path.islink(file):
                shutil.rmtree(file)
            elif os.path.lexists(file):
                os.remove(file)
    print(f'{args.count - failed} of {args.count} broken files ended in an error message and left nothing behind')
    return 1 if failed else 0


def run(command: list[str]) -> str:
    """Run a command on a broken file; returns what is wrong with its end, or an empty text."""
    before, text = _listing(), io.StringIO()
    code: Any
    signal.alarm(LONGEST)
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            code = rsr(command)
    except SystemExit as end:
        code = end.code
    except BaseException:  # a user would see it
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    output, left = text.getvalue(), _listing() - before
    if Path(CANARY).exists():
        os.remove(CANARY)
        return 'the code in the file was run'
    if left:
        return f'left {", ".join(sorted(left))}'
    if code == 0:
        return 'exit code 0'
    one_message = output.strip() and 'Traceback' not in output and 'usage:' not in output
    return '' if one_message else f'exit code {code}, output {output!r}'


def _too_long(*_: Any) -> None:
    raise TimeoutError(f'not ended after {LONGEST} s')


def _listing() -> set[str]:
    return {str(path) for path in Path().rglob('*')}


@contextlib.contextmanager
def _chdir(folder: str) -> Iterator[None]:  # contextlib.chdir needs Python 3.11
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _write_good() -> None:
    """Write the valid image, weights and options that the commands also need."""
    Path('photos').mkdir()
    for name in ('good.png', 'photos/photo.png'):
        Image.fromarray(_noise(random.Random(1), 64)).save(name)
    torch.save({'params': build_network(dict(NETWORK)).state_dict()}, 'good.pth')
    options = _options('finetune/finetune_defended_general_x4v3.yml')
    options['network_g'] = {**NETWORK, 'type': 'DefendedSRVGGNetCompact'}
    options.update(num_gpu=0)
    Path('photos/list.txt').write_text('photo.png\n')
    options['datasets'] = {
        'train': {**options['datasets']['train'], 'dataroot_gt': 'photos', 'meta_info': 'photos/list.txt'}
    }
    del options['val']
    Path('good.yml').write_text(yaml.safe_dump(options))


def _options(name: str) -> dict[str, Any]:
    return yaml.safe_load((OPTIONS / name).read_text(encoding='utf-8'))


def _noise(rng: random.Random, size: int) -> np.ndarray:
    return np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (size, size, 3)).astype(np.uint8)


# --- Images ---------------------------------------------------------------------------------------------------------


def _truncated_image(rng: random.Random) -> Case:
    kind = rng.choice(['PNG', 'JPEG', 'WEBP', 'BMP', 'TIFF'])
    content = io.BytesIO()
    Image.fromarray(_noise(rng, 48)).save(content, format=kind)
    whole = content.getvalue()
    return Case('truncated image', whole[: rng.randrange(1, len(whole) * 9 // 10)], f'.{kind.lower()}', IMAGE_COMMANDS)


def _not_an_image(rng: random.Random) -> Case:
    content = rng.choice(
        [
            b'',
            b'\0' * 200,
            bytes(rng.randrange(256) for _ in range(300)),
            b'GIF89a',
            b'<svg/>',
            b'PK\x03\x04',
            b'# text, named like an image\n',
        ]
    )
    return Case('not an image', content, rng.choice(['.png', '.jpg', '.webp', '.tif', '.bmp']), IMAGE_COMMANDS)


def _image_with_huge_header(rng: random.Random) -> Case:
    side = rng.choice([30000, 65535, 2**31 - 1])
    content = bytearray(cv2.imencode('.png', _noise(rng, 16))[1].tobytes())
    content[16:24] = struct.pack('>II', side, side)
    content[29:33] = struct.pack('>I', zlib.crc32(bytes(content[12:29])))
    return Case('huge header', bytes(content), '.png', IMAGE_COMMANDS)


def _image_out_of_range(rng: random.Random) -> Case:
    pixels = np.full((16, 16, 3), rng.choice([np.nan, np.inf, -1, 300]), np.float32)
    return Case('values outside [0, 1]', cv2.imencode('.tiff', pixels)[1].tobytes(), '.tiff', IMAGE_COMMANDS)


# --- Weights ----------------------------------------------------------------------------------------------------------


def _saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _state() -> dict[str, torch.Tensor]:
    return build_network(dict(NETWORK)).state_dict()


def _truncated_weights(rng: random.Random) -> Case:
    whole = _saved({'params': _state()})
    return Case('truncated weights', whole[: rng.randrange(len(whole))], '.pth', WEIGHT_COMMANDS)


def _not_weights(rng: random.Random) -> Case:
    content = rng.choice(
        [
            b'',
            b'\0' * 500,
            b'PK\x03\x04',
            b'version https://git-lfs.github.com/spec/v1\n',
            b'<html>404</html>',
            _saved([1, 2, 3]),
            _saved({}),
            _saved({'params': None}),
            _saved({'params': {'a': 1}}),
            _saved(torch.zeros(3)),
            pickle.dumps({'params': 'text'}),
        ]
    )
    return Case('not weights', content, '.pth', WEIGHT_COMMANDS)


def _weights_that_run_code(rng: random.Random) -> Case:
    variant = rng.randrange(4)
    if variant == 0:
        content = pickle.dumps({'params': RunsCode()})
    elif variant == 1:
        content = _saved({'params': {'body.0.weight': RunsCode()}})
    elif variant == 2:
        content = pickle.dumps(RunsCode(), protocol=0)
    else:  # torch's zip layout with a hostile pickle
        file = io.BytesIO()
        with zipfile.ZipFile(file, 'w') as archive:
            archive.writestr('archive/data.pkl', pickle.dumps({'params': RunsCode()}))
            archive.writestr('archive/version', '3\n')
            archive.writestr('archive/byteorder', 'little')
        content = file.getvalue()
    return Case('weights that run code', content, '.pth', WEIGHT_COMMANDS)


def _weights_of_another_network(rng: random.Random) -> Case:
    state = _state()
    name = rng.choice(list(state))
    change = rng.randrange(4)
    if change == 0:
        state[name] = torch.full_like(state[name], rng.choice([float('nan'), float('inf')]))
    elif change == 1:
        state[name] = torch.zeros(rng.choice([(2,), (1, 2, 3), (5, 5, 5, 5)]))
    elif change == 2:
        del state[name]
    else:
        state = {f'net.{key}': value for key, value in state.items()}
    return Case('weights of another network', _saved({'params': state}), '.pth', WEIGHT_COMMANDS)


# --- Options ----------------------------------------------------------------------------------------------------------


def _not_options(rng: random.Random) -> Case:
    texts = [
        '',
        '[]',
        '42',
        'text',
        '\t- a: b',
        'a: [1, 2',
        'name: "open',
        '{' * 5000,
        '[' * 5000,
        '- ' * 3000 + 'a',
        'a: &a [*a, *a]',
        'name: &n {n: *n}\nnetwork_g: *n\ndatasets: *n\npath: *n\n',
        '\0\0\0',
        '%YAML 9.9\n---\na: 1',
        '? [1, 2]\n: 3',
        '---\na: 1\n---\nb: 2',
        'a: 1\na: 2',
        '\ufeffname: ~',
        '1: 2\n3: 4',
        _bomb(),
    ]
    content = rng.choice([text.encode() for text in texts] + [b'\xff\xfe\x00name', bytes(range(256))])
    return Case('not options', content, '.yml', OPTION_COMMANDS)


def _bomb() -> str:
    """Nested lists, each ten times as large as the one before."""
    lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x, x]']
    lines += [f'a{n}: &a{n} [{", ".join([f"*a{n - 1}"] * 10)}]' for n in range(1, 12)]
    return '\n'.join([*lines, 'name: *a11', 'network_g: *a11', 'datasets: *a11', 'model_type: *a11', ''])


def _options_that_run_code(rng: random.Random) -> Case:
    tag = rng.choice(
        [
            f'!!python/object/apply:os.system ["touch {CANARY}"]',
            '!!python/name:os.system',
            f'!!python/object/new:subprocess.Popen [["touch", "{CANARY}"]]',
            '!!python/module:antigravity',
            f"!!python/object/apply:eval [\"open('{CANARY}', 'w')\"]",
        ]
    )
    text = Path('good.yml').read_text()
    place = rng.choice(['name: ', 'model_type: ', 'manual_seed: ', 'scale: '])
    lines = [f'{place}{tag}' if line.startswith(place) else line for line in text.splitlines()]
    return Case('options that run code', '\n'.join(lines).encode(), '.yml', OPTION_COMMANDS)


def _options_of_wrong_types(rng: random.Random) -> Case:
    options = yaml.safe_load(Path('good.yml').read_text())
    place, key = rng.choice(list(_places(options)))
    place[key] = rng.choice(
        [None, [], {}, 'nonsense', -1, 1e400, float('nan'), [[1]], {'a': 'b'}, True, '../../etc', '\0', 10**30]
    )
    # Training may survive one wrong value, but cannot start without photos.
    options['datasets'] = rng.choice([options.get('datasets'), 'nowhere', {'train': {'type': 'None'}}])
    options['path'] = {'pretrain_network_g': 'nowhere.pth'}
    return Case(
        'options of wrong types',
        yaml.safe_dump(options).encode(),
        '.yml',
        [command for command in OPTION_COMMANDS if command[0] in ('train', 'test', 'check')],
    )


def _places(block: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for key, value in block.items():
        yield block, key
        if isinstance(value, dict) and value:
            yield from _places(value)


# --- What is no file, and what is no text -----------------------------------------------------------------------------


def _no_regular_file(rng: random.Random) -> Case:
    def make_socket(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))

    make = rng.choice(
        [
            os.mkfifo,
            make_socket,
            lambda path: path.symlink_to(path.name),
            lambda path: path.symlink_to('nowhere'),
            lambda path: path.symlink_to('/dev/zero'),
            lambda path: path.symlink_to('/dev/full'),
            lambda path: path.mkdir(),
        ]
    )
    ending, commands = rng.choice([('.png', IMAGE_COMMANDS), ('.pth', WEIGHT_COMMANDS), ('.yml', OPTION_COMMANDS)])
    return Case('no regular file', make, ending, commands)


def _name_that_is_no_text(rng: random.Random) -> Case:
    ending, commands = rng.choice([('.png', IMAGE_COMMANDS), ('.pth', WEIGHT_COMMANDS), ('.yml', OPTION_COMMANDS)])
    content = rng.choice([b'', b'text', bytes(rng.randrange(256) for _ in range(100))])
    return Case('name that is no text', content, f'\udcff\udc80{ending}', commands)


def _argument_out_of_range(rng: random.Random) -> Case:
    value = rng.choice(
        ['nan', 'inf', '-inf', '-1', '1e30', '1' * 400, '', ' ', '0x10', '\0', '٣٣٣٣٣٣٣٣٣٣٣', 'é', '1e', '--']
    )
    upscaling = ['upscale', 'FILE', '-n', 'good.pth', '-o', 'out']
    commands = [[*upscaling, option, value] for option in ('-s', '-dn', '--precision', '--gate', '--device', '--ext')]
    commands += [
        [*upscaling, '--import', rng.choice(['', ' ', '.', 'os.', 'no.such', '1', '../x', '\0', 'a b'])],
        ['stability', 'good.pth', 'FILE', '-o', 'out', '--eps', value],
        ['stability', 'good.pth', 'FILE', '-o', 'out', '--steps', rng.choice(['0', '-1', '1.5', value])],
        ['stability', 'good.pth', 'FILE', '-o', 'out', '--crop', rng.choice(['0', '-1', '1.5', 'x'])],
        ['detect', 'FILE', '--threshold', value],
        ['export', 'good.pth', '--onnx', 'out.onnx', '--size', value, value],
        ['masks', '-opt', 'good.yml', '--size', value, value],
        ['check', 'good.yml', '--decode', rng.choice(['-1', '1.5', 'x'])],
        [
            'train',
            '-opt',
            'good.yml',
            '--force_yml',
            rng.choice(['=', 'a', ':', 'x=y', 'attack:eps', 'attack:eps=[', value]),
        ],
        ['train', '-opt', 'good.yml', '--force_yml', f'val:nix=[open({CANARY!r},"w")]'],
        ['train', '-opt', 'good.yml', '--force_yml', f'manual_seed=__import__("os").system("touch {CANARY}")'],
    ]
    return Case('argument out of range', (lambda path: shutil.copy('good.png', path) and None), '.png', commands)


# --- Files that claim more than they hold -----------------------------------------------------------------------------


def _weights_of_odd_kinds(rng: random.Random) -> Case:
    state = _state()
    name = rng.choice(list(state))
    shape = state[name].shape
    tensor = rng.choice(
        [
            lambda: torch.zeros(1).expand(10**12),
            lambda: torch.empty(10**7, 10**6, device='meta'),
            lambda: torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (10**14,)),
            lambda: torch.zeros(shape, dtype=torch.complex64),
            lambda: torch.zeros(shape).to(torch.float8_e4m3fn),
            lambda: torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8),
            lambda: torch.as_strided(torch.zeros(4), (10**6, 10**6), (0, 0)),
        ]
    )()
    state[name] = tensor
    if rng.random() < 0.3:
        state[f'{name}.more'] = state.pop(name)
    return Case('weights of odd kinds', _saved({'params': state}), '.pth', WEIGHT_COMMANDS)


def _weights_that_claim_too_much(rng: random.Random) -> Case:
    network = {**NETWORK, 'type': 'DefendedSRVGGNetCompact', 'defense': {'gate': 'never'}}
    network[rng.choice(['num_feat', 'num_conv', 'upscale'])] = rng.choice([10**9, 10**5, -1, 1e300, 'x', [], None])
    if rng.random() < 0.3:
        network['defense'] = rng.choice([[], 'never', {'gate': 'x'}, {'points': ['nowhere']}, {'mask': {'x': 1}}])
    content = _saved({'params': _state(), 'network_g': network})
    commands = [command for command in WEIGHT_COMMANDS if command[0] in ('upscale', 'stability', 'export')]
    return Case('weights that claim too much', content, '.pth', commands)


def _compressed_weights(rng: random.Random) -> Case:
    """A small file that unpacks into a gigabyte."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({'params': {}}) if rng.random() < 0.5 else bytes(2**26))
        archive.writestr('archive/version', '3\n')
        for number in range(rng.choice([1, 16])):
            archive.writestr(f'archive/data/{number}', bytes(2**26))
    return Case('compressed weights', file.getvalue(), '.pth', WEIGHT_COMMANDS)


def _postscript(rng: random.Random) -> Case:
    """PostScript under the name of an image: a reader of images must not start an interpreter for it."""
    text = f'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n({CANARY}) (w) file closefile showpage\n%%EOF\n'
    return Case('PostScript', text.encode(), rng.choice(['.png', '.jpg', '.tif', '.webp']), IMAGE_COMMANDS)


def _entries_of_strangers(rng: random.Random) -> Case:
    texts = [
        '[' * 100000,
        '{"a":' * 50000,
        '{"network": "\\ud800"}',
        '{"network": 1e999}',
        '1' * 5000,
        '"' + 'x' * 10**6 + '"',
        'null\nnull\n',
        '{}\n' * 1000,
        '\ufeff{}',
    ]
    content = rng.choice([text.encode() for text in texts] + [b'\xff\xfe', b'\x00' * 1000])
    return Case(
        'entries of strangers', content, '.jsonl', [['leaderboard', 'FILE', '-o', 'out.md'], ['leaderboard', 'FILE']]
    )


def _runs_of_strangers(rng: random.Random) -> Case:
    """A folder for rsr benchmark --merge, with options and records that anyone may have written."""
    options = rng.choice(
        [b'', b'{}', b'[]', b'[' * 10**5, b'null', b'{"name": "x", "networks": 3}', b'\xff', b'{"eps": [1e999]}']
    )
    record = rng.choice(
        [b'', b'{}', b'[' * 10**5, b'{"key": 1}', b'\x00', b'{"key": "a", "gallery": {"lq": "../../x"}}']
    )

    def make(path: Path) -> None:
        (path / 'record').mkdir(parents=True)
        (path / 'options.json').write_bytes(options)
        (path / 'record' / '0.jsonl').write_bytes(record)

    return Case('runs of strangers', make, '', [['benchmark', '--merge', 'FILE', '-o', 'out']])


KINDS: list[Callable[[random.Random], Case]] = [
    _truncated_image,
    _truncated_weights,
    _not_options,
    _not_an_image,
    _not_weights,
    _options_that_run_code,
    _image_with_huge_header,
    _weights_that_run_code,
    _options_of_wrong_types,
    _image_out_of_range,
    _weights_of_another_network,
    _no_regular_file,
    _name_that_is_no_text,
    _argument_out_of_range,
    _weights_of_odd_kinds,
    _weights_that_claim_too_much,
    _compressed_weights,
    _postscript,
    _entries_of_strangers,
    _runs_of_strangers,
]

if __name__ == '__main__':
    sys.exit(main())
