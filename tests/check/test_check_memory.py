"""The memory of a training step that ``rsr check`` estimates."""

import copy

import pytest
import torch
from basicsr.utils.registry import MODEL_REGISTRY
from training_files import GAN

from helpers import read, shrink
from rsr_basicsr.check import check_options
from rsr_basicsr.check.step_memory import GIB, StepMemory, estimate
from rsr_basicsr.check.survey import compare_with_gpu
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
