"""Training files that the tests of options and of ``rsr check`` start from, and a run of the latter."""

import re

from helpers import write
from rsr_basicsr.cli import main

TRAIN = 'train/train_defended_realesrnet_x4plus.yml'
GENERAL, GAN = 'finetune/finetune_defended_general_x4v3.yml', 'finetune/finetune_defended_realesrgan_x4plus.yml'


def in_order(opt):
    opt['train']['scheduler']['milestones'] = [2]
    opt['logger']['save_checkpoint_freq'] = 2
    opt['datasets']['train']['num_worker_per_gpu'] = 0
    return opt


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
