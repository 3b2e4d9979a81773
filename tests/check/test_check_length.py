"""Whether a training reaches its last iteration, as BasicSR counts epochs."""

import re

from basicsr.utils import logger as basicsr_logger

from helpers import paired_options, write
from rsr_basicsr.cli import main


def test_check_says_when_a_training_ends_early(pairs, tmp_path, monkeypatch, capsys):
    # Five images in batches of three: two batches by BasicSR's count, one that is full.
    opt = paired_options(pairs)
    opt['datasets']['train'].update(batch_size_per_gpu=3, dataset_enlarge_ratio=1)
    file = str(write(opt, tmp_path / 'options.yml'))
    assert main(['check', file, '--no-memory', '--force_yml', 'train:total_iter=10']) == 0
    assert 'the training ends after 6 of 10 iterations' in capsys.readouterr().out
    basicsr_logger.initialized_logger.clear()
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-opt', file, '--force_yml', 'train:total_iter=10']) == 0
    (log,) = (tmp_path / 'experiments' / 'paired').glob('train_paired_*.log')
    assert re.findall(r'iter: +(\d+),', log.read_text())[-1] == '6'
    assert main(['check', file, '--no-memory', '--force_yml', 'train:total_iter=2']) == 0
    assert 'the training ends after' not in capsys.readouterr().out
