"""Recorded passes, with a stand-in that records as CUDA graphs do: fixed inputs, outputs and gradients."""

import copy
import gc
import weakref

import pytest
import torch
from meta_models import model_on_meta

from networks import DefendedGain
from rsr_basicsr.attacks import IFGSM, PGD
from rsr_basicsr.attacks.graph import _MOST, _RECORDED, GraphedPasses, _gate
from rsr_basicsr.attacks.problem import Problem
from rsr_basicsr.ops.frequency import radial_distance
from rsr_basicsr.utils.errors import DeviceError


class Recorder:
    """Records a function on the CPU: each call writes into the input and the output of the first one."""

    def __init__(self):
        self.recordings = 0

    def __call__(self, function, sample):
        self.recordings += 1
        (fixed,) = sample
        assert fixed.requires_grad and torch.is_grad_enabled()
        output = torch.empty_like(function(fixed)).detach()

        class Graphed(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                fixed.data.copy_(x)
                with torch.enable_grad():
                    output.copy_(function(fixed).detach())
                return output.detach()

            @staticmethod
            def backward(ctx, gradient):
                with torch.enable_grad():
                    return torch.autograd.grad(function(fixed), fixed, gradient)[0]

        return Graphed.apply


def graphed(net, half=False):
    recorder = Recorder()
    return GraphedPasses(net, half, recorder), recorder


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_gradient_is_that_of_the_network(precision, real_network, photo):
    net, lq = copy.deepcopy(real_network).requires_grad_(False), photo[..., :16, :16]
    found = []
    for records in (False, True):
        problem = Problem(PGD(precision=precision), net, lq, torch.tensor(8 / 255))
        problem.network = net  # as on a GPU, not by a function per convolution
        problem.graphed = graphed(net, precision == 'bf16')[0] if records else None
        problem.refer_to(None)  # the clean output, which the passes of the attack must not overwrite
        found.append(problem.gradient(lq + 2 / 255))
    for plain, recorded in zip(*found):
        assert torch.equal(plain, recorded) and plain.abs().sum() > 0


def test_one_recording_per_state_of_the_network():
    net = DefendedGain(defense={'gate': 'never'}).eval()
    passes, recorder = graphed(net)
    image = torch.rand(1, 3, 8, 8)
    outputs = [passes(image), passes(image + 0.25)]
    torch.testing.assert_close(outputs, [net(image), net(image + 0.25)])
    assert recorder.recordings == 1
    passes(image.expand(2, -1, -1, -1))
    net.train()
    passes(image)
    with net.defense.forced(True):
        passes(image)
    assert recorder.recordings == 4
    with torch.no_grad():  # in place: what a recording reads
        for parameter in net.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(passes(image), net(image))
    assert recorder.recordings == 4
    for size in range(9, 9 + _MOST):
        passes(torch.rand(1, 3, size, 8))
    assert len(_RECORDED[net]) == _MOST


@pytest.mark.parametrize(
    'defense, decision',
    [
        ({}, None),
        ({'gate': 'never'}, torch.tensor([True])),
        ({'gate': 'soft'}, None),
        ({'gate': 'always', 'seed': 1}, None),
    ],
)
def test_decisions_on_images_are_refused(defense, decision):
    net = DefendedGain(defense=defense).eval()
    with pytest.raises(ValueError, match='masked: 0 or 1, elsewhere gate: always or never'):
        if decision is None:
            graphed(net)[0](torch.rand(1, 3, 8, 8))
        else:
            with net.defense.forced(decision):
                graphed(net)[0](torch.rand(1, 3, 8, 8))


def test_network_that_cannot_be_recorded_is_named():
    def record(function, sample):
        raise RuntimeError('operation not permitted when stream is capturing\nmore')

    with pytest.raises(DeviceError, match=r'but Identity cannot be recorded \(operation not permitted'):
        GraphedPasses(torch.nn.Identity(), False, record)(torch.rand(1, 3, 8, 8))


def test_recordings_go_with_their_network():
    net = DefendedGain(defense={'gate': 'never'})
    graphed(net)[0](torch.rand(1, 3, 8, 8))
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_constants_live_as_long_as_the_recording():
    net = DefendedGain(defense={'gate': 'always'})
    graphed(net)[0](torch.rand(1, 3, 8, 9))
    (recording,) = _RECORDED[net].values()
    kept = [constant for constant in recording.constants if constant.shape == (8, 9)]
    assert any(constant is radial_distance(8, 9, torch.device('cpu')) for constant in kept)


def test_output_without_gradient_is_refused():
    class Detached(torch.nn.Module):
        def forward(self, x):
            return x.detach()

    with pytest.raises(DeviceError, match='Detached cannot be recorded .its output has no gradient'):
        graphed(Detached())[0](torch.rand(1, 3, 8, 8))


def test_network_that_begins_in_place():
    net = torch.nn.Sequential(torch.nn.LeakyReLU(0.5, inplace=True), torch.nn.Conv2d(3, 3, 1)).requires_grad_(False)
    image = torch.rand(1, 3, 8, 8) - 0.5
    torch.testing.assert_close(graphed(net)[0](image), net(image.clone()))


@pytest.mark.parametrize('masked', [0, 1])
def test_training_without_choice_of_masks_can_be_recorded(masked):
    model = model_on_meta(attack={'masked': masked, 'mode': 'mixed', 'share': 0.5})
    decision = model._decision(torch.zeros(4, 3, 8, 8))
    with model.bare_net.defense.forced(decision):
        assert _gate(model.bare_net.defense) == bool(masked)


def test_cuda_graph_changes_nothing_on_a_cpu(photo):
    net = torch.nn.Conv2d(3, 3, 3, padding=1)
    attacks = [IFGSM(steps=2, seed=0, cuda_graph=records) for records in (False, True)]
    first, second = (attack(net, photo[..., :8, :8]) for attack in attacks)
    assert torch.equal(first, second)
    for wrong in ({'tile': 8}, {'memory': 1.0}):
        with pytest.raises(ValueError, match='leave tile and memory out'):
            IFGSM(cuda_graph=True, **wrong)
    with pytest.raises(ValueError, match="cuda_graph to be true or false, got 'yes'"):
        IFGSM(cuda_graph='yes')
