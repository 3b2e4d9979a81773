"""``rsr stability``: what it prints and writes, and how it ends."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.rrdbnet_arch import RRDBNet

from helpers import SMALL_NETWORKS, run_command
from rsr_basicsr.cli import main

QUICK = ['--steps', '2', '--crop', '24', '--device', 'cpu']


@pytest.fixture
def folder(tmp_path, monkeypatch, photo):
    """Working directory with a weight file and a folder of images: RGB, grey, RGBA, 16 bits."""
    monkeypatch.chdir(tmp_path)
    net = build_network({'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']})
    torch.save({'params': net.state_dict()}, 'small.pth')
    (tmp_path / 'in').mkdir()
    pixels = (photo[0] * 255).permute(1, 2, 0).numpy().astype(np.uint8)
    for name, content in (
        ('rgb.png', pixels),
        ('grey.png', pixels[..., 0]),
        ('rgba.png', np.concatenate([pixels, pixels[..., :1]], axis=2)),
        ('deep.png', pixels * np.uint16(257)),
    ):
        assert cv2.imwrite(f'in/{name}', content)
    return tmp_path


def test_table_answer_and_files(folder, capsys):
    assert main(['stability', 'small.pth', 'in', '-o', 'out', *QUICK]) == 0
    printed = capsys.readouterr().out
    assert '8 crops of 4 images, the most textured of each, PGD with 2 steps' in printed
    written = json.loads((folder / 'out' / 'stability.json').read_text())
    assert [(row['network'], row['eps']) for row in written['rows']] == [
        ('small', 2),
        ('bicubic', 2),
        ('small', 8),
        ('bicubic', 8),
    ]
    for row in written['rows']:
        line = next(line for line in printed.splitlines() if line.split()[:2] == [row['network'], str(row['eps'])])
        low, high = row['stability_interval']
        assert f'{row["levels"]:.1f}  {row["stability"]:.1f} [{low:.1f}, {high:.1f}]' in line
        assert (
            row['stability']
            == pytest.approx(
                np.mean(
                    [
                        attack['stability']
                        for crop in written['crops']
                        for attack in crop['attacks']
                        if attack['eps'] == row['eps']
                    ]
                )
            )
            or row['is_baseline']
        )
    assert ' '.join(written['summary'][0].split()) in ' '.join(printed.split())
    assert printed.endswith('Where it moves: out/stability.html\n')
    for text in (written, (folder / 'out' / 'stability.html').read_text()):
        assert str(folder) not in str(text)
    notes = {crop['image']: crop['notes'] for crop in written['crops']}
    assert notes['rgb.png'] == [] and all(notes[name] for name in ('grey.png', 'rgba.png', 'deep.png'))


def test_same_figures_in_another_process(folder):
    command = ['rsr_basicsr.cli', 'stability', 'small.pth', 'in/rgb.png', '--eps', '8', *QUICK, '-o']
    for name in ('a', 'b'):
        run = run_command(folder, *command, name)
        assert run.returncode == 0, run.stdout
    assert (folder / 'a' / 'stability.json').read_text() == (folder / 'b' / 'stability.json').read_text()


def test_unreadable_images_are_listed(folder, capsys):
    (folder / 'in' / 'cut.png').write_bytes((folder / 'in' / 'rgb.png').read_bytes()[:300])
    assert main(['stability', 'small.pth', 'in', 'none.png', *QUICK]) == 1
    captured = capsys.readouterr()
    assert 'crops of 4 images' in captured.out and 'Traceback' not in captured.err
    assert 'rsr stability: cut.png is not an image' in captured.err
    assert 'rsr stability: none.png: no such file' in captured.err
    assert len(json.loads((folder / 'stability' / 'stability.json').read_text())['failed']) == 2


def test_number_of_images_is_told(folder, capsys):
    assert main(['stability', 'small.pth', 'in', '--num-images', '2', '--eps', '4', *QUICK]) == 0
    captured = capsys.readouterr()
    assert 'takes 2 of 4 images' in captured.err and 'crops of 2 images' in captured.out
    assert 'Warning: Only 2 images' in captured.out


def test_existing_page_is_kept(folder, capsys):
    arguments = ['stability', 'small.pth', 'in/rgb.png', '-o', 'out', *QUICK]
    assert main(arguments) == 0
    before = (folder / 'out' / 'stability.html').read_bytes()
    assert main([*arguments, '--seed', '1']) == 2
    assert 'out/stability.html is there already' in capsys.readouterr().err
    assert (folder / 'out' / 'stability.html').read_bytes() == before
    assert main([*arguments, '--seed', '1', '--overwrite']) == 0
    assert (folder / 'out' / 'stability.html').read_bytes() != before


def test_networks_of_scale_1_and_2(folder, capsys):
    for scale in (1, 2):
        net = RRDBNet(3, 3, scale=scale, num_feat=4, num_block=1, num_grow_ch=4)
        torch.save({'params': net.state_dict()}, f'x{scale}.pth')
        flags = ['--crop', '21', '--steps', '1', '--eps', '8', '-o', f'out{scale}']  # 21 needs padding
        assert main(['stability', f'x{scale}.pth', 'in/rgb.png', *flags]) == 0
        assert ('identity' if scale == 1 else 'bicubic') in capsys.readouterr().out


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        (['small.pth', 'in/rgb.png', '--eps', '0.031'], 'eps 0.031: expected a whole number from 1 to 255'),
        (['small.pth', 'in/rgb.png', '--eps', '2', '300'], 'eps 300: expected'),
        (['small.pth', 'in/rgb.png', '--steps', '0'], 'steps 0: expected at least 1'),
        (['small.pth', 'in/rgb.png', '--crop', '4'], 'crop 4: expected at least 16'),
        (['small.pth', 'in/rgb.png', '--num-images', '-1'], 'num_images -1'),
        (['small.pth', 'in/rgb.png', '--device', 'nonsense'], 'device nonsense'),
        (['small.pth', 'in/rgb.png', '--import', 'nothing_like_it'], '--import nothing_like_it'),
        (['small.pth', 'in/rgb.png', '-opt', 'none.yml'], 'none.yml'),
        (['small.pth', 'nowhere'], 'nowhere: no such file or folder'),
        (['small.pth', 'empty'], 'there is no image in empty'),
        (['none.pth', 'in/rgb.png'], 'none.pth does not exist'),
        (['realesr-genral-x4v3', 'in/rgb.png'], 'realesr-general-x4v3'),
        (['small.pth', 'tiny.png'], 'tiny.png: 9x9 pixels are too few'),
        (['in/rgb.png', 'in/rgb.png'], 'in/rgb.png'),
    ],
)
def test_wrong_input_is_named_and_nothing_written(arguments, sentence, folder, capsys):
    (folder / 'empty').mkdir()
    cv2.imwrite('tiny.png', np.zeros((9, 9, 3), np.uint8))
    assert main(['stability', *arguments, '-o', 'out']) in (1, 2)
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count('\n') == 1 and captured.out == ''
    assert not (folder / 'out').exists()
