"""Trainers that validate by a loop of their own (HAT, DRCT, ATD): the attack reaches them, or the run stops."""

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.metrics import calculate_metric
from basicsr.models.sr_model import SRModel
from basicsr.utils import tensor2img
from torch.nn import functional as F

from helpers import SMALL_NETWORKS, paired_options
from rsr_basicsr import defend_model
from rsr_basicsr.utils.errors import OptionsError


class OwnLoopModel(SRModel):
    """As HATModel: pads, runs and crops in three methods of its own, and never calls ``test``."""

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        name = dataloader.dataset.opt['name']
        self.metric_results = dict.fromkeys(self.opt['val']['metrics'], 0)
        self._initialize_best_metric_results(name)
        for data in dataloader:
            self.take(data)
            self.process()
            pair = {'img': tensor2img([self.result()]), 'img2': tensor2img([data['gt']])}
            for metric, opt in self.opt['val']['metrics'].items():
                self.metric_results[metric] += calculate_metric(pair, dict(opt)) / len(dataloader)
        self._log_validation_metric_values(current_iter, name, tb_logger)

    def take(self, data):
        self.feed_data(data)

    def result(self):
        return self.get_current_visuals()['result']

    def process(self):
        height, width = self.lq.shape[-2:]
        window = self.opt['network_g'].get('window_size', 1)
        padded = F.pad(self.lq, (0, -width % window, 0, -height % window), 'reflect')
        net = self.net_g_ema if hasattr(self, 'net_g_ema') else self.net_g
        net.eval()
        with torch.no_grad():
            self.output = net(padded)[..., : height * 4, : width * 4]
        net.train()


class WithoutVisuals(OwnLoopModel):
    def result(self):
        return self.output


class WithoutFeedData(OwnLoopModel):
    def take(self, data):
        self.lq, self.gt = data['lq'], data['gt']


@pytest.fixture
def pairs_of(tmp_path):
    """Three pairs whose LQ has the given height and width."""

    def make(height, width):
        for name in ('gt', 'lq'):
            (tmp_path / name).mkdir()
        for number in range(3):
            noise = np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)
            lq = cv2.GaussianBlur(noise, (5, 5), 0)
            cv2.imwrite(str(tmp_path / 'lq' / f'{number}.png'), lq)
            gt = cv2.resize(lq, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(tmp_path / 'gt' / f'{number}.png'), gt)
        return tmp_path

    return make


def validated(cls, pairs, photos, network='SRVGGNetCompact'):
    """Metrics per data set name, of a model of that class with seeded weights."""
    opt = paired_options(pairs, photos=photos)
    defense = opt['network_g']['defense']
    opt['network_g'] = {'type': f'Defended{network}', **SMALL_NETWORKS[network], 'defense': defense}
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    opt['path'].update(models='', training_states='', visualization='')
    attack = {'type': 'PGD', 'eps': 8, 'steps': 2, 'seed': 0}
    opt['val'] = {'attack': attack, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}}
    torch.manual_seed(0)
    model = defend_model(cls)(opt)
    found = {}
    log = model._log_validation_metric_values

    def note(current_iter, name, tb_logger):
        log(current_iter, name, tb_logger)
        best = model.best_metric_results[name]
        found[name] = {**{metric: best[metric]['val'] for metric in best}, **model.metric_results}

    model._log_validation_metric_values = note
    dataset = build_dataset({**opt['datasets']['train'], 'phase': 'val', 'name': 'SET', 'scale': 4})
    model.validation(build_dataloader(dataset, {'phase': 'val'}), 1, None)
    return found


def test_attack_reaches_a_loop_of_its_own(pairs_of, photos):
    pairs = pairs_of(16, 16)
    own, basicsrs = validated(OwnLoopModel, pairs, photos), validated(SRModel, pairs, photos)
    assert own['SET_attacked']['psnr'] < own['SET']['psnr'] - 0.01
    for name, metric in (('SET', 'psnr'), ('SET_attacked', 'psnr'), ('SET_attacked', 'stability')):
        assert own[name][metric] == pytest.approx(basicsrs[name][metric], abs=1e-6)


def test_loop_that_pads_to_windows_itself(pairs_of, photos):
    found = validated(OwnLoopModel, pairs_of(18, 13), photos, network='SwinIR')
    assert found['SET_attacked']['psnr'] != found['SET']['psnr']
    assert 5 < found['SET_attacked']['stability'] < 60


@pytest.mark.parametrize(
    'cls, message',
    [(WithoutVisuals, 'does not call get_current_visuals'), (WithoutFeedData, 'gave 0 of 3 images to feed_data')],
)
def test_loop_out_of_reach_stops_before_it_reports(cls, message, pairs_of, photos, caplog):
    with pytest.raises(OptionsError, match=message):
        validated(cls, pairs_of(16, 16), photos)
    assert 'SET_attacked' not in caplog.text
