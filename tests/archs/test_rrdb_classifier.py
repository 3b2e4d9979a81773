"""The classifier of the paper's RRDB: arg-max, a vote of the batch, a random crop, no gradient."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from networks import Gain
from rsr_basicsr import defend
from rsr_basicsr.archs import FrequencyClassifier, RRDBFrequencyClassifier
from rsr_basicsr.archs.defense import Defense, build_classifier
from rsr_basicsr.attacks import IFGSM, DetectorAware, Square
from rsr_basicsr.ops.caching import for_any_size
from rsr_basicsr.ops.tiled import upscale

UNTRAINED = {'type': 'paper_rrdb', 'weights': 'untrained'}


def build(**defense):
    torch.manual_seed(0)
    return defend(Gain)(defense={'classifier': UNTRAINED, **defense}).eval()


def says(defense, clean):
    """Make the classifier of a defence return these P(clean), one per image."""
    clean = torch.as_tensor(clean)
    defense.classifier.raw_logits = lambda x: torch.stack([clean.log(), (1 - clean).log()], dim=1)[: len(x)]


def places(x, crops):
    """Top and left of crops from an image whose values encode positions."""
    found = set()
    for crop in crops:
        top, left = divmod(int(crop[0, 0, 0, 0]), x.shape[-1])
        assert torch.equal(crop, x[..., top : top + 48, left : left + 48])
        found.add((top, left))
    return found


def test_the_decision_is_the_arg_max():
    defense = Defense(classifier=UNTRAINED).eval()
    assert defense.threshold_in_effect == 0.5
    x = torch.rand(64, 3, 48, 48)
    with torch.no_grad():
        logits = defense.classifier(x)
        defense.classifier.body[-1].bias -= logits.mean(dim=0)  # some on either side
    by_arg_max = defense.classifier(x).argmax(dim=1) == 1
    assert torch.equal(defense.attacked(x), by_arg_max) and 0 < by_arg_max.sum() < 64


def test_files_without_a_threshold_mean_the_arg_max(tmp_path):
    state = {key: value for key, value in FrequencyClassifier().state_dict().items() if key.startswith('body.')}
    torch.save(state, tmp_path / 'plain.pth')
    net = build_classifier({'type': 'paper_rrdb', 'weights': str(tmp_path / 'plain.pth')})
    assert net.threshold == 0.5 and torch.equal(net.body[0].weight, state['body.0.weight'])


def test_crops_are_random_and_of_48():
    net, x = RRDBFrequencyClassifier(), torch.arange(50 * 60.0).view(1, 1, 50, 60).expand(2, 3, 50, 60)
    crops = [net.seen(x) for _ in range(500)]
    assert {top for top, _ in places(x, crops)} == set(range(3))
    assert {left for _, left in places(x, crops)} == set(range(13))
    for size in ((48, 48), (47, 90), (90, 20)):
        small = torch.rand(1, 3, *size)
        assert net.seen(small) is small
    with for_any_size():
        assert net.seen(x) is x


def test_logits_are_those_of_the_paper_on_the_crop():
    net, plain, x = RRDBFrequencyClassifier(), FrequencyClassifier(), torch.rand(2, 3, 64, 80)
    plain.load_state_dict(net.state_dict())
    torch.manual_seed(1)
    found = net(x)
    torch.manual_seed(1)
    torch.testing.assert_close(found, plain(net.seen(x)), rtol=0, atol=0)
    small = F.interpolate(x, size=(40, 70))
    torch.testing.assert_close(net(small), plain(small), rtol=0, atol=0)


def test_seed_determines_the_crop():
    x = torch.rand(3, 3, 64, 80)
    outputs = {}
    for seed in (0, 1, None):
        defense = build(seed=seed).defense
        outputs[seed] = [(defense.clean_probability(x), defense.logit(x)) for _ in range(4)]
        # Each image for itself is the image in its batch.
        if seed is not None:
            torch.testing.assert_close(defense.clean_probability(x[1:2]), outputs[seed][0][0][1:2], rtol=0, atol=0)
    for one, other in zip(outputs[0], outputs[0][1:]):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert not torch.equal(outputs[0][0][0], outputs[1][0][0])
    assert not all(torch.equal(outputs[None][0][0], other[0]) for other in outputs[None])
    # P(clean) and the logit are of the same crop.
    clean, odds = outputs[0][0]
    torch.testing.assert_close(odds, torch.log((1 - clean) / clean), rtol=1e-3, atol=1e-4)


def test_seeded_network_is_repeatable_whole_and_in_tiles():
    net, x = build(seed=3, gate='soft'), torch.rand(2, 3, 70, 90)
    with torch.no_grad():
        torch.testing.assert_close(net(x), net(x), rtol=0, atol=0)
        torch.testing.assert_close(upscale(net, x, tile=32, overlap=16), net(x), rtol=0, atol=1e-5)


def test_parameters_learn_but_no_gradient_reaches_the_image():
    net, x = RRDBFrequencyClassifier(), torch.rand(2, 3, 48, 48, requires_grad=True)
    net(x).square().sum().backward()
    assert x.grad is None and all(net.get_parameter(f'body.{i}.weight').grad.abs().sum() > 0 for i in (0, 2, 4))


def test_soft_gates_pass_only_the_masked_networks_gradient():
    x = torch.rand(1, 3, 48, 48, requires_grad=True)
    for gate in ('classifier', 'soft'):
        net = build(gate=gate, seed=0)
        with net.defense.straight_through():
            (found,) = torch.autograd.grad(net(x).square().sum(), x)
        with torch.no_grad():
            decision = net.defense.decide(x)
        with net.defense.forced(decision):
            (expected,) = torch.autograd.grad(net(x).square().sum(), x)
        torch.testing.assert_close(found, expected)
        assert found.abs().sum() > 0


def test_attacks_warn_of_a_detector_without_gradient():
    net, x = build(seed=0), torch.rand(1, 3, 48, 48)
    for attack in (IFGSM(eps=4, steps=2, gate='straight_through'), Square(eps=4, queries=4)):
        assert (attack(net, x) - x).abs().max() > 1 / 255
    with pytest.raises(
        ValueError,
        match='the detector of DefendedGain, a RRDBFrequencyClassifier, has no gradient; '
        'attack the network with gate: always or never, or by Square',
    ):
        DetectorAware(steps=1)(net, x)


@pytest.mark.parametrize(
    'clean, masked',
    [
        ([0.9, 0.2, 0.3], True),
        ([0.9, 0.8, 0.3], False),
        ([0.4], True),
        ([0.6], False),
        ([0.1, 0.9], False),
        ([0.1, 0.2, 0.9, 0.8], False),
        ([0.1, 0.2, 0.4, 0.9], True),
        ([0.0, 0.51, 0.52], False),  # whose mean is below the threshold
        ([float('nan'), 0.2, 0.9], True),
        ([float('nan'), 0.8, 0.9], False),
    ],
)
def test_the_majority_of_a_batch_decides(clean, masked):
    net = build(decision='majority')
    says(net.defense, clean)
    x = torch.rand(len(clean), 3, 48, 48)
    assert net.defense.decide(x).tolist() == [masked] * len(clean) == net.defense.attacked(x).tolist()
    with torch.no_grad(), net.defense.forced(False):
        plain = net(x)
    assert (net(x) != plain).flatten(1).any(1).tolist() == [masked] * len(clean)


def test_majority_is_the_counted_one():
    defense, rng = Defense(classifier=UNTRAINED, decision='majority').eval(), np.random.default_rng(0)
    for _ in range(200):
        clean = rng.random(rng.integers(1, 9)).astype(np.float32)
        says(defense, clean)
        votes = sum(not value >= 0.5 for value in clean)
        assert bool(defense.attacked(torch.rand(len(clean), 3, 4, 4))[0]) is (votes > len(clean) / 2)


def test_soft_gate_blends_by_the_majority():
    net = build(decision='majority', gate='soft')
    says(net.defense, [0.9, 0.2, 0.3])
    torch.testing.assert_close(net.defense.decide(torch.rand(3, 3, 48, 48)), torch.full((3,), 0.7))


class Vote(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.defense = Defense(classifier=UNTRAINED, decision='majority')

    def forward(self, x):
        return self.defense.clean_probability(x)


def test_graph_decides_on_whole_images():
    net, sizes = Vote().eval().requires_grad_(False), [torch.export.Dim(name, min=16, max=999) for name in 'hw']
    shapes = ({0: torch.export.Dim('batch', max=99), 2: sizes[0], 3: sizes[1]},)
    with torch.no_grad(), for_any_size():
        graph = torch.export.export(net, (torch.rand(2, 3, 36, 50),), dynamic_shapes=shapes, strict=False).module()
    whole = FrequencyClassifier()
    whole.load_state_dict(net.defense.classifier.state_dict())
    for count in (1, 2, 3, 4):
        x = torch.rand(count, 3, 60, 70) ** torch.rand(count, 1, 1, 1).mul(3).exp()
        clean = whole.clean_probability(x).sort().values
        torch.testing.assert_close(graph(x), clean[count // 2].expand(count), rtol=1e-4, atol=1e-6)
