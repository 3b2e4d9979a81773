"""Cost of attacks: passes as documented, memory, precision."""

import contextlib
import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from networks import DefendedGain
from rsr_basicsr.archs import RandomFrequencyMask
from rsr_basicsr.attacks import ATTACKS, PGD
from rsr_basicsr.attacks.half import check_bf16, weights_in_bf16
from rsr_basicsr.attacks.memory import InputGradientOnly
from rsr_basicsr.attacks.problem import Problem, saves_memory


def test_networks_that_checkpoint_by_themselves():
    class Checkpointed(nn.Sequential):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)
    lq = torch.rand(1, 3, 9, 9)
    first, second = (PGD(eps=4, steps=2, seed=1)(kind(*layers), lq) for kind in (nn.Sequential, Checkpointed))
    assert torch.equal(first, second)


DOCS = (Path(__file__).parents[2] / 'docs' / 'attacks.md').read_text(encoding='utf-8')
COST = {
    cells[0].strip(' `'): cells[1:]
    for cells in (
        line.strip('|').split('|')
        for line in DOCS.split('## Cost')[1].split('\n## ')[0].splitlines()
        if line.startswith('| `')
    )
}


class Counting(nn.Module):
    """Counts its passes."""

    def __init__(self, net):
        super().__init__()
        self.net, self.forward_passes, self.backward_passes = net, 0, 0

    def forward(self, x):
        self.forward_passes += 1
        output = self.net(x)
        if output.requires_grad:
            output.register_hook(lambda gradient: setattr(self, 'backward_passes', self.backward_passes + 1))
        return output


@pytest.mark.parametrize(
    'name, settings',
    [
        (name, settings)
        for name in ATTACKS
        if name not in ('Transfer', 'WorstOf')
        for settings in ({}, dict(restarts=2), dict(eot_samples=3), dict(keep_best=True))
        if set(settings) <= set(ATTACKS[name].parameters())
    ],
    ids=str,
)
def test_cost_is_as_documented(name, settings):
    parameters = ATTACKS[name].parameters()
    small = {
        key: value for key, value in dict(steps=4, queries=4, size=8, weights=(0.0, 1.0)).items() if key in parameters
    }
    attack = ATTACKS[name](eps=4, **small, **settings)
    net = Counting(DefendedGain(defense={'gate': 'never'}))
    attack(net, torch.rand(1, 3, 8, 8))
    known = {
        'T': getattr(attack, 'steps', None),
        'Q': getattr(attack, 'queries', None),
        'N': attack.eot_samples,
        'R': attack.restarts,
        'L': len(getattr(attack, 'weights', ())),
        'K': int(getattr(attack, 'keep_best', 0)),
        'M': int(attack.restarts > 1),
    }
    forward, backward = (eval(re.sub(r'[^TQNRLKM0-9+*() ]', '', cell), {}, known) for cell in COST[name][:2])
    reference = int(attack.asks_for_loss)  # the clean output
    assert (net.forward_passes - reference, net.backward_passes) == (forward, backward)


CONVOLUTIONS = [
    dict(padding=1),
    dict(stride=2, padding=(1, 0)),
    dict(dilation=2, groups=3),
    dict(padding='same'),
    dict(padding=1, padding_mode='reflect'),
    dict(bias=False),
]


@pytest.mark.parametrize('options', CONVOLUTIONS, ids=str)
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_convolutions_without_their_input_have_its_gradient(options, layout):
    layer = nn.Conv2d(3, 6, 3, **options).requires_grad_(False)
    x = torch.rand(2, 3, 9, 10).contiguous(memory_format=layout).requires_grad_()
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    kept = []
    with (
        InputGradientOnly(),
        torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: [kept.append(tensor), tensor][1], lambda tensor: tensor
        ),
    ):
        output = layer(x)
    assert torch.equal(torch.autograd.grad(output.square().sum(), x)[0], expected)
    if 'padding_mode' not in options and options.get('padding') != 'same':
        assert sum(tensor.untyped_storage().nbytes() for tensor in kept) == (layer.weight.numel() + 1) * 4
    with InputGradientOnly():  # trainable weights get their gradient
        layer.requires_grad_(True)(x).sum().backward()
    assert layer.weight.grad.abs().max() > 0


def test_bf16_is_near_fp32(real_network, photo):
    photo = photo[..., :24, :24]
    problems = [
        Problem(PGD(precision=precision), real_network, photo, torch.tensor(4 / 255)) for precision in ('fp32', 'bf16')
    ]
    gradients = []
    for problem in problems:
        problem.refer_to(torch.zeros(1, 3, 96, 96))
        gradients.append(problem.gradient(photo)[0])
    assert gradients[1].dtype == torch.float32 and not torch.equal(*gradients)
    assert F.cosine_similarity(*(gradient.flatten() for gradient in gradients), dim=0) > 0.9


class Casts(TorchDispatchMode):
    """Counts casts of tensors as large as a weight of the network."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._to_copy.default and args[0].dim() == 4 and args[0].shape[-1] == 3
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_bf16_casts_no_weight_in_a_pass(real_network, photo, layout):
    net, lq = copy.deepcopy(real_network).to(memory_format=layout), photo[..., :24, :24]
    before = [parameter.detach().clone() for parameter in net.parameters()]
    attack, passes, gradients = PGD(precision='bf16', objective='ground_truth'), [], []
    for block in (weights_in_bf16, lambda net: contextlib.nullcontext()):
        problem = Problem(attack, net.requires_grad_(False), lq, torch.tensor(4 / 255))
        problem.refer_to(torch.zeros(1, 3, 96, 96))
        with block(net), Casts() as casts:
            gradients.append(problem.gradient(lq)[0])
        passes.append(casts.count)
    assert torch.equal(*gradients)
    assert passes[0] == 0 < passes[1]
    assert all(new.dtype == torch.float32 and torch.equal(new, old) for new, old in zip(net.parameters(), before))


def test_bf16_follows_weights_that_have_changed(photo):
    net, lq = nn.Conv2d(3, 3, 3, padding=1), photo[..., :8, :8]
    results = []
    for _ in range(2):
        results.append(PGD(steps=1, seed=0, precision='bf16')(net, lq))
        with torch.no_grad():
            net.weight.copy_(torch.randn_like(net.weight))
    assert not torch.equal(*results)


def test_bf16_that_is_emulated_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Tesla T4')
    monkeypatch.setattr(torch.cuda, 'device', contextlib.nullcontext)
    with pytest.raises(ValueError, match='Tesla T4 only emulates it; write fp32'):
        check_bf16(torch.device('cuda'))
    check_bf16(torch.device('cpu'))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_masks_keep_the_memory_format(dtype):
    x = torch.rand(2, 3, 8, 10, dtype=dtype).to(memory_format=torch.channels_last)
    masked = RandomFrequencyMask()(x)
    assert masked.dtype == dtype and masked.is_contiguous(memory_format=torch.channels_last)
    assert RandomFrequencyMask()(x.contiguous()).is_contiguous()


@pytest.mark.parametrize('samples', [1, 3])
def test_signs_are_drawn_on_plateaus_only(samples):
    images = torch.rand(samples, 3, 4, 4)
    generators = [torch.Generator().manual_seed(index) for index in range(samples)]
    before = [generator.get_state() for generator in generators]
    problem = Problem(PGD(), nn.Identity(), images, torch.tensor(8 / 255), generators)
    gradient = torch.rand(samples, 3, 4, 4) + 1
    assert torch.equal(problem.off_plateaus(gradient), gradient)
    gradient[-1] = 0
    found = problem.off_plateaus(gradient)
    assert torch.equal(found[:-1], gradient[:-1]) and torch.equal(found[-1].abs(), torch.ones(3, 4, 4))
    assert len(found[-1].unique()) == 2
    unchanged = [torch.equal(generator.get_state(), state) for generator, state in zip(generators, before)]
    assert unchanged == [True] * (samples - 1) + [False]


def test_compiled_networks(photo):
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh())
    compiled = torch.compile(net, backend='eager')
    first, second = (PGD(eps=4, steps=2, seed=1)(n, photo[..., :8, :8]) for n in (net, compiled))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize('device, memory, saves', [('cpu', None, True), ('cuda', None, False), ('cuda', 4.0, True)])
def test_passes_on_a_gpu_save_memory_only_where_they_must(device, memory, saves):
    assert saves_memory(PGD(memory=memory), torch.device(device)) == saves
