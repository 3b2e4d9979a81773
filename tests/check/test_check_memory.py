"""The memory of a training step that ``rsr check`` estimates."""

import copy
import re

import pytest
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.utils.registry import MODEL_REGISTRY
from training_files import GAN

from helpers import read, shrink
from rsr_basicsr.attacks import IFGSM
from rsr_basicsr.attacks.problem import Problem
from rsr_basicsr.check import check_options
from rsr_basicsr.check.step_memory import GIB, StepMemory, estimate
from rsr_basicsr.check.survey import compare_with_gpu
from rsr_basicsr.check.validation_memory import note_memory
from rsr_basicsr.options.loading import as_parsed
from rsr_basicsr.options.messages import Problems


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
    return still + peak_of(profile)


def peak_of(profile):
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == '[memory]']
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


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


def test_buckets_of_several_processes_are_a_copy_of_the_gradients(photos):
    opt = shrink(read(GAN), photos)
    as_parsed(opt, 'train', '.')
    check_options(opt)
    model = MODEL_REGISTRY.get(opt['model_type'])(copy.deepcopy(opt))
    trained = [p for net in (model.net_g, model.net_d) for p in net.parameters() if p.requires_grad]
    one, several = (estimate({**opt, 'dist': dist}, 16, 4) for dist in (False, True))
    assert several.fixed - one.fixed == pytest.approx(4 * sum(p.numel() for p in trained), rel=1e-6)
    assert several.sample == one.sample


def test_memory_of_an_attacked_validation():
    """Against what torch's profiler sees being allocated on a CPU, where convolutions keep their inputs, too."""
    net = RRDBNet(3, 3, num_feat=16, num_block=2, num_grow_ch=8)
    opt = {
        'val': {'attack': {'type': 'IFGSM', 'eps': 8, 'steps': 10, 'objective': 'stability', 'seed': 0}},
        'num_gpu': 0,
    }
    problems = Problems()
    note_memory(opt, net, {'val': (160, 120), 'val_2': (20, 30)}, problems)
    found = re.search(r'datasets.val, 160x120, takes ([\d.]+) GiB whole, counted', problems.facts[0])
    attack, lq, target = IFGSM(steps=1), torch.rand(1, 3, 120, 160), torch.rand(1, 3, 480, 640)
    with torch.profiler.profile(profile_memory=True) as profile:
        problem = Problem(attack, net.requires_grad_(False), lq, torch.tensor(8 / 255))
        problem.network = net  # as on a GPU
        problem.refer_to(target)
        problem.uphill(lq)
    assert float(found[1]) == pytest.approx(peak_of(profile) / GIB, rel=0.2, abs=0.05)


@pytest.mark.parametrize('free, warns', [(0.5, True), (20, False)])
def test_validation_that_exceeds_the_gpu_is_warned_of(free, warns, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (free * GIB, 24 * GIB))
    opt = {'val': {'attack': {'type': 'PGD', 'eps': 8, 'steps': 2}}, 'num_gpu': 1}
    problems = Problems()
    note_memory(opt, torch.nn.Conv2d(3, 3, 3, padding=1), {'val': (160, 120)}, problems)
    assert [('attacked in tiles' in warning) for warning in problems.warnings] == [True] * warns


def test_tiles_of_a_validation_count_as_tiles():
    opt = {'val': {'attack': {'type': 'IFGSM', 'eps': 8}, 'tile': 64, 'tile_overlap': 16}, 'num_gpu': 0}
    facts = []
    for size in (200, 2000):
        problems = Problems()
        note_memory(opt, RRDBNet(3, 3, num_block=1), {'val': (size, size)}, problems)
        facts.append(problems.facts[0].replace(f'{size}x{size}', ''))
    assert facts[0] == facts[1] and 'in tiles of 64 pixels' in facts[0]


@pytest.mark.parametrize('share, images', [(0.5, 2), (1.0, 4)])
def test_recorded_pass_is_counted(share, images, photos):
    opt = shrink(read(GAN), photos)
    opt['attack'].update(mode='mixed', share=share, masked=0, steps=1)
    as_parsed(opt, 'train', '.')
    check_options(opt)
    plain, graph = (estimate({**opt, 'attack': {**opt['attack'], 'cuda_graph': on}}, 16, 4) for on in (False, True))
    net = MODEL_REGISTRY.get(opt['model_type'])(copy.deepcopy(opt)).bare_net.requires_grad_(False)
    lq = torch.rand(images, 3, 16, 16)
    with torch.profiler.profile(profile_memory=True) as profile, net.defense.forced(False):
        x = lq.clone().requires_grad_()
        torch.autograd.grad(net(x).square().sum(), x)
    assert graph.of(4) - plain.of(4) == pytest.approx(peak_of(profile), rel=0.35)
