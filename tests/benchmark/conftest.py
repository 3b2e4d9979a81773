"""Fixtures of the benchmark tests: a small benchmark, records with known numbers, and their page."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs.srvgg_arch import SRVGGNetCompact

from benchmark_records import WORDS, Page, make_records, results_of
from benchmark_runs import SMALL
from rsr_basicsr.benchmark.report import charts
from rsr_basicsr.benchmark.report.page import write_report


@pytest.fixture(scope='session')
def weights(tmp_path_factory):
    """Weights of a small network whose output is close to nearest-neighbour interpolation."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'small.pth'
    torch.save({'params': SRVGGNetCompact(**SMALL).state_dict()}, path)
    return path


@pytest.fixture
def options(weights, pairs):
    """Options of 60 cells that take two seconds."""
    return {
        'name': 'small',
        'num_gpu': 0,
        'gallery': 1,
        'mask_seeds': [0, 1],
        'networks': {
            'nearest': {'type': 'Interpolation', 'mode': 'nearest', 'defenses': ['none']},
            'plain': {'type': 'SRVGGNetCompact', **SMALL, 'weights': str(weights)},
            'defended': {
                'type': 'DefendedSRVGGNetCompact',
                **SMALL,
                'weights': str(weights),
                'defenses': ['none'],
                'defense': {'points': ['input'], 'gate': 'always'},
            },
        },
        'defenses': {'bits': {'type': 'BitDepth', 'bits': 4}},
        'attacks': {'pgd': {'type': 'PGD', 'steps': 4}},
        'eps': [2, 8],
        'datasets': {
            'photos': {
                'type': 'PairedImageDataset',
                'dataroot_gt': str(pairs / 'gt'),
                'dataroot_lq': str(pairs / 'lq'),
                'num_images': 3,
            }
        },
    }


@pytest.fixture
def records(tmp_path):
    return make_records(tmp_path)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a page; without charts by default, which take most of the time."""

    def written(records, drawn=False, **words):
        with monkeypatch.context() as patch:
            if not drawn:
                patch.setattr(charts, 'available', lambda: False)
            return Page(write_report(tmp_path / 'page.html', results_of(records), tmp_path, **{**WORDS, **words}))

    return written


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('run')


@pytest.fixture(scope='session')
def page(folder):
    """A page with all parts; tests must not change its folder."""
    protocol = {'Attack': 'I-FGSM', 'Command': 'rsr --x "y"'}
    return Page(
        write_report(
            folder / 'not' / 'there' / 'page.html',
            results_of(make_records(folder)),
            folder,
            **{**WORDS, 'protocol': protocol},
        )
    )
