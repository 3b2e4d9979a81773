"""Several GPUs and one process: ``auto`` takes one of them, a number above 1 is refused."""

import pytest
import torch
from basicsr import train as basicsr_train
from basicsr.utils import logger

from helpers import paired_options, read, write
from rsr_basicsr.check import check_options
from rsr_basicsr.check.survey import survey
from rsr_basicsr.cli import main
from rsr_basicsr.options.loading import take_one_gpu
from rsr_basicsr.utils.errors import OptionsError


@pytest.fixture
def three_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 3)


def test_a_detector_needs_a_launcher(three_gpus):
    opt = {**read('train/train_frequency_classifier.yml'), 'num_gpu': 2}
    opt.update(is_train=True, dist=False)
    with pytest.raises(OptionsError, match='num_gpu: 2 without a launcher; start one process per GPU'):
        check_options(opt)


SENTENCE = 'num_gpu: auto takes one of 3 GPUs; for all: torchrun --nproc_per_node=3 -m rsr_basicsr.train -opt FILE'


def test_auto_is_one_gpu_without_a_launcher(pairs, photos, three_gpus, tmp_path, monkeypatch, capsys):
    opt = paired_options(pairs, photos=photos)
    opt['num_gpu'] = 2
    found = {}

    def pipeline(root):  # as far as BasicSR's needs no GPU
        found.update(basicsr_train.parse_options(root)[0])
        basicsr_train.get_root_logger(log_file=str(tmp_path / 'log.txt'))
        basicsr_train.get_root_logger()

    monkeypatch.setattr(basicsr_train, 'train_pipeline', pipeline)
    monkeypatch.chdir(tmp_path)
    logger.initialized_logger.clear()
    file = str(write(opt, tmp_path / 'o.yml'))
    assert main(['train', '-opt', file, '--force_yml', 'num_gpu=auto']) == 0
    assert found['num_gpu'] == 1 and (tmp_path / 'log.txt').read_text().count(SENTENCE) == 1
    assert main(['train', '-opt', file]) == 2
    assert 'num_gpu: 2 without a launcher' in capsys.readouterr().err


def test_check_tells_that_auto_is_one_gpu(pairs, photos, three_gpus, tmp_path):
    file = write({**paired_options(pairs, photos=photos), 'num_gpu': 'auto'}, tmp_path / 'o.yml')
    problems = survey(str(file), count_memory=False)
    assert any(SENTENCE in fact for fact in problems.facts) and not list(problems)
    assert not any('launcher;' in warning for warning in problems.warnings)


@pytest.mark.parametrize('count', [0, 1])
def test_auto_says_nothing_of_one_gpu(count, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
    opt = {'num_gpu': 'auto', 'train': {}}
    assert take_one_gpu(opt) is None and opt['num_gpu'] == count
