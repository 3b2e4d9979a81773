"""Defended networks under torch.compile and in ONNX, with the masks of a seed."""

import shutil
import subprocess
import sys

import pytest
import torch
from basicsr.archs import build_network

from helpers import SMALL_NETWORKS

TORCH = tuple(map(int, torch.__version__.split('.')[:2]))


def build(name, gate):
    """A network, and two images that a classifier as gate decides on in either way."""
    options = {**SMALL_NETWORKS[name], 'type': f'Defended{name}', 'defense': {'gate': gate, 'seed': 0}}
    net, images = build_network(options).eval(), [torch.rand(1, 3, 20, 24), torch.full((1, 3, 20, 24), 0.5)]
    with torch.no_grad():
        clean = [net.defense.classifier.clean_probability(image).item() for image in images]
    net.defense.threshold = sum(clean) / 2
    assert [net.defense.attacked(image).item() for image in images] in ([True, False], [False, True])
    return net, images


@pytest.mark.skipif(TORCH < (2, 7), reason='torch 2.6 compiles no graph with a context manager inside')
@pytest.mark.parametrize('gate', ['always', 'classifier'])
@pytest.mark.parametrize('name', ['RRDBNet', 'SRVGGNetCompact'])
def test_whole_graph_compiles(name, gate):
    torch._dynamo.reset()
    net, images = build(name, gate)
    graphs = []
    compiled = torch.compile(
        net, backend=lambda module, inputs: [graphs.append(module), module.forward][1], fullgraph=True, dynamic=False
    )
    with torch.no_grad():
        for image in images:
            torch.testing.assert_close(compiled(image), net(image))
        assert len(graphs) == 1
        other = torch.rand(1, 3, 16, 28)
        torch.testing.assert_close(compiled(other), net(other))
        assert len(graphs) == 2


@pytest.mark.parametrize('gate', ['always', 'classifier'])
@pytest.mark.parametrize('seed', [0, None])
def test_compiles_for_one_size_after_the_other(gate, seed):
    torch._dynamo.reset()
    net, _ = build('RRDBNet', gate)
    net.defense.seed = seed
    compiled = torch.compile(net, backend='eager', dynamic=False)
    with torch.no_grad():
        for shape in ((1, 3, 16, 16), (1, 3, 20, 24), (1, 3, 24, 32), (2, 3, 24, 32), (3, 3, 16, 16)):
            x = torch.rand(shape)
            output = compiled(x)
            assert torch.isfinite(output).all()
            if seed is not None:
                torch.testing.assert_close(output, net(x))


@pytest.mark.skipif(shutil.which('g++') is None, reason='the default compiler of torch.compile needs g++')
@pytest.mark.skipif(
    TORCH < (2, 15), reason='the default compiler of torch 2.8 to 2.14 refuses tensors that are constants'
)
def test_compiles_to_machine_code():
    torch._dynamo.reset()
    net, (x, _) = build('SRVGGNetCompact', 'always')
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, fullgraph=True, dynamic=False)(x), net(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize('name, gate', [('RRDBNet', 'always'), ('SRVGGNetCompact', 'classifier')])
def test_onnx_computes_the_same(name, gate, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    if gate == 'classifier' and TORCH < (2, 7):
        pytest.skip('torch 2.6 writes no batch normalisation; rsr export goes around it')
    net, images = build(name, gate)
    file = tmp_path / 'net.onnx'
    torch.onnx.export(net, (images[0],), str(file), dynamo=True, external_data=False)
    session = onnxruntime.InferenceSession(str(file))
    for image in images:
        (output,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        with torch.no_grad():
            expected = net(image)
        torch.testing.assert_close(torch.from_numpy(output), expected, rtol=0, atol=1e-3)


def test_export_leaves_no_trace_in_the_caches():
    # A first export in a fresh process fills the caches of masks and transforms; what it leaves there must be usable.
    pytest.importorskip('onnxscript')
    code = """
import rsr_basicsr, torch
from basicsr.archs import build_network
net = build_network(dict(type='DefendedSRVGGNetCompact', num_feat=8, num_conv=2, upscale=4,
                         defense=dict(gate='always', seed=0))).eval()
x = torch.rand(1, 3, 20, 24)
torch.onnx.export(net, (x,), dynamo=True)
x.requires_grad_()
net(x).sum().backward()
print('gradient', float(x.grad.abs().sum()) > 0)
"""
    run = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True)
    assert 'gradient True' in run.stdout, run.stderr[-2000:]
