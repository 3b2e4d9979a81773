"""CDC against its parameter counts and a written-out computation with weights filled by a formula."""

import pytest
import torch
from basicsr.archs import build_network
from cdc_files import REFERENCE, at_reference, fill_by_formula, reference_input
from torch.nn import functional as F

from rsr_basicsr.archs.cdc_arch import CDC, Hourglass


def count(module):
    return sum(p.numel() for p in module.parameters())


def residual(a, b):
    return a * b + 9 * b * b + b * b + (a * b if a != b else 0)


@pytest.fixture(scope='module')
def full():
    return CDC()


def test_parameter_counts(full):
    assert count(full) == 39_920_530
    assert count(full.stem) == 3 * 64 * 9 + 64
    hourglass = (
        residual(64, 128)
        + residual(128, 128)
        + residual(128, 256)
        + residual(256, 256)  # encoder
        + 2 * residual(256, 256)  # bottom
        + 2 * residual(256, 256)
        + 2 * residual(128, 128)  # skips
        + residual(256, 256)
        + residual(256, 128)
        + residual(128, 128)
        + residual(128, 64)  # decoder
        + residual(64, 64)
    )
    inception = 64 * 64 * (1 + (1 + 9) + (1 + 9 + 9)) + 3 * 64 * 64
    assert [count(h) for h in full.hourglasses] == [hourglass + 2 * inception] * 5 + [hourglass]
    layer = 64 * 64 * 9 + 64
    assert [count(h) for h in full.picture_heads] == [4 * layer + 64 * 3 * 9 + 3] * 3
    assert [count(h) for h in full.attention_heads] == [4 * layer + 64 * 3 + 3] * 3


@pytest.mark.parametrize('scale, layers, last', [(2, 3, 1), (3, 3, 9), (4, 4, 1)])
def test_heads_of_each_scale(scale, layers, last):
    net = CDC(num_feat=4, num_hourglass=2, scale=scale)
    assert count(net.attention_heads[0]) == layers * (4 * 4 * 9 + 4) + 4 * 3 * last + 3
    assert net(torch.rand(2, 3, 20, 33)).shape == (2, 3, 20 * scale, 33 * scale)


def fill(module):
    """0.05 sin(i) over the running index of all values, in parameter order."""
    start = 0
    with torch.no_grad():
        for parameter in module.parameters():
            index = torch.arange(start, start + parameter.numel(), dtype=torch.float64)
            parameter.copy_((0.05 * torch.sin(index)).view_as(parameter))
            start += parameter.numel()
    return module


class Formula:
    """The same values, assigned in the order in which the paper lists the layers."""

    def __init__(self):
        self.next = 0

    def __call__(self, *shape):
        count = torch.Size(shape).numel()
        index = torch.arange(self.next, self.next + count, dtype=torch.float64)
        self.next += count
        return (0.05 * torch.sin(index)).view(shape)


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x)


def residual_weights(w, a, b):
    return [w(b, a, 1, 1), w(b, b, 3, 3), w(b, b, 1, 1)] + ([w(b, a, 1, 1)] if a != b else [])


def apply_residual(x, weights):
    y = lrelu(F.conv2d(x, weights[0]))
    y = lrelu(F.conv2d(y, weights[1], padding=1))
    return F.conv2d(y, weights[2]) + (F.conv2d(x, weights[3]) if len(weights) == 4 else x)


def apply_inception(x, w, n):
    one, two, three = [w(n, n, 1, 1)], [w(n, n, 1, 1), w(n, n, 3, 3)], [w(n, n, 1, 1), w(n, n, 3, 3), w(n, n, 3, 3)]
    fuse = w(n, 3 * n, 1, 1)
    a = lrelu(F.conv2d(x, one[0]))
    b = lrelu(F.conv2d(F.conv2d(x, two[0]), two[1], padding=1))
    c = lrelu(F.conv2d(F.conv2d(x, three[0]), three[1], padding=1))
    c = lrelu(F.conv2d(c, three[2], padding=1))
    return F.conv2d(torch.cat([a, b, c], 1), fuse) + x


def test_hourglass_written_out():
    n = 2
    net, x, w = fill(Hourglass(n, with_tail=True).double()), torch.rand(1, n, 16, 32).double() * 4 - 2, Formula()
    encoder = [residual_weights(w, *ab) for ab in ((n, 2 * n), (2 * n, 2 * n), (2 * n, 4 * n), (4 * n, 4 * n))]
    bottom = [residual_weights(w, 4 * n, 4 * n) for _ in range(2)]
    skips = [residual_weights(w, c, c) for c in (4 * n, 4 * n, 2 * n, 2 * n)]
    decoder = [residual_weights(w, *ab) for ab in ((4 * n, 4 * n), (4 * n, 2 * n), (2 * n, 2 * n), (2 * n, n))]
    outermost = residual_weights(w, n, n)

    e1 = apply_residual(x, encoder[0])
    e2 = apply_residual(F.max_pool2d(e1, 2), encoder[1])
    e3 = apply_residual(F.max_pool2d(e2, 2), encoder[2])
    e4 = apply_residual(F.max_pool2d(e3, 2), encoder[3])
    y = apply_residual(apply_residual(F.max_pool2d(e4, 2), bottom[0]), bottom[1])
    for encoded, skip, block in zip((e4, e3, e2, e1), skips, decoder):
        y = y.repeat_interleave(2, -1).repeat_interleave(2, -2) + apply_residual(encoded, skip)
        y = apply_residual(y, block)
    inner = y + apply_residual(x, outermost)
    outer = apply_inception(apply_inception(inner, w, n), w, n)

    ours = net(x)
    torch.testing.assert_close(ours[0], inner)
    torch.testing.assert_close(ours[1], outer)
    assert w.next == count(net)


@pytest.mark.parametrize('case', REFERENCE['cases'], ids=lambda case: f'{case["num_hourglass"]} hourglasses')
def test_reference(case):
    """Every head against the published implementation with the same weights."""
    net = fill_by_formula(CDC(scale=case['scale'], num_hourglass=case['num_hourglass'])).eval()
    net.returns_components = True
    with torch.no_grad():
        output = net(reference_input(*case['size']))
    assert set(output._fields) == set(case['heads'])
    for name, head in case['heads'].items():
        found, expected = at_reference(getattr(output, name), head)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        figures = getattr(output, name).double()
        assert figures.mean().item() == pytest.approx(head['mean'], abs=1e-5)
        assert figures.std().item() == pytest.approx(head['std'], rel=1e-4)


def test_head_and_fusion_written_out():
    net, x = CDC(num_feat=2, num_hourglass=4).double(), torch.rand(1, 3, 16, 16).double()
    for head in (*net.picture_heads, *net.attention_heads):
        fill(head)
    stem = outer = net.stem(x)
    inners = []
    for hourglass in net.hourglasses:
        inner, outer = hourglass(outer)
        inners.append(inner)
    sources = inners[1], inners[2], 0.2 * outer + stem  # hourglass 2, hourglass n/2 + 1, the last

    def head(y, last):
        w = Formula()
        y = F.conv2d(y, w(2, 2, 3, 3), w(2), padding=1)
        for _ in range(2):
            y = F.interpolate(y, scale_factor=2, mode='nearest')
            y = lrelu(F.conv2d(y, w(2, 2, 3, 3), w(2), padding=1))
        y = lrelu(F.conv2d(y, w(2, 2, 3, 3), w(2), padding=1))
        return F.conv2d(y, w(3, 2, last, last), w(3), padding=last // 2)

    images = [head(source, 3) for source in sources]
    attention = torch.stack([head(source, 1) for source in sources]).exp()
    fused = (attention / attention.sum(0) * torch.stack(images)).sum(0)
    torch.testing.assert_close(net(x), fused)
    net.returns_components = True
    for ours, expected in zip(net(x), (*images, fused)):
        torch.testing.assert_close(ours, expected)


def test_sizes_between_multiples_of_16_keep_the_interior():
    net = CDC(num_feat=4, num_hourglass=2).double().eval()
    x = torch.rand(1, 3, 48, 48).double()
    x[..., 40:] = x[..., 39:40]  # what the padding repeats
    torch.testing.assert_close(net(x[..., :40]), net(x)[..., :160])


def test_gradcheck():
    net, x = CDC(num_feat=1, num_hourglass=2, scale=2).double(), torch.rand(1, 3, 4, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(net, (x,), eps=1e-7, atol=1e-5)


def test_defended_cdc_has_the_papers_13_masks():
    seen = []
    net = build_network({'type': 'DefendedCDC', 'num_feat': 2, 'num_hourglass': 6, 'defense': {'gate': 'always'}})
    net.defense.mask.register_forward_hook(lambda module, args, output: seen.append(tuple(args[0].shape[1:])))
    net(torch.rand(1, 3, 16, 16))
    assert seen == [(3, 16, 16)] + [(2, 16, 16)] * 12


def test_masked_hourglass_input_feeds_the_outermost_skip():
    net = build_network(
        {
            'type': 'DefendedCDC',
            'num_feat': 2,
            'num_hourglass': 2,
            'defense': {'gate': 'always', 'points': ['hourglass']},
        }
    )
    fed = {}
    first = net.hourglasses[0]
    first.encoder[0].register_forward_hook(lambda module, args, output: fed.update(encoder=args[0]))
    first.outermost_skip.register_forward_hook(lambda module, args, output: fed.update(skip=args[0]))
    x = torch.rand(1, 3, 16, 16)
    net(x)
    assert torch.equal(fed['encoder'], fed['skip']) and not torch.equal(fed['skip'], net.stem(x))


@pytest.mark.parametrize('options', [dict(num_hourglass=3), dict(num_hourglass=0), dict(scale=8)])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match='must be'):
        CDC(num_feat=2, **options)
