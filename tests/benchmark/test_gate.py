"""A gate judged by what it costs the attacker: records made by hand, and a network measured directly."""

import json

import pytest

from benchmark_runs import benchmark
from rsr_basicsr.benchmark.gate import gate_result
from rsr_basicsr.benchmark.record import Record, read_records
from rsr_basicsr.benchmark.report.verdict import verdict
from rsr_basicsr.benchmark.summary import Results, Subject

METRICS = {'stability': {'type': 'calculate_stability', 'crop_border': 0}}
SUBJECT = Subject('net', 'none')


def record(attack, image, stability=None, score=None, gate_stability=None):
    values = {} if stability is None else {'stability': [stability]}
    return Record(
        key=f'{attack} {image}',
        network='net',
        defense='none',
        attack=attack,
        eps=0.0 if attack == 'clean' else 8.0,
        dataset='set',
        image=image,
        values=values,
        score=score,
        gate_stability=gate_stability,
    )


def results(*records):
    options = {'metrics': METRICS, 'networks': {'net': {}}, 'attacks': {'a': {}, 'b': {}}, 'datasets': {'set': {}}}
    return Results(records, options)


def test_worst_of_what_stays_undetected():
    found = results(
        record('clean', 'x', score=-1.0, gate_stability=25.0),
        record('clean', 'y', score=-1.0, gate_stability=27.0),
        record('a', 'x', 20.0, score=2.0),  # the strongest is flagged
        record('b', 'x', 24.0, score=-0.5),
        record('a', 'y', 30.0, score=-2.0),
        record('b', 'y', 28.0, score=0.0),  # at the threshold it is not
        record('a', 'z', 10.0, score=3.0),  # every attack on z is flagged
    )
    gate = gate_result(found, 'set', SUBJECT, 8.0)
    assert (gate.images, gate.measured) == (2, 3)
    assert gate.undetected.mean == pytest.approx((24 + 28) / 2)
    assert gate.triggered.mean == pytest.approx(26)


def test_everything_is_detected():
    found = results(record('clean', 'x', score=-1.0), record('a', 'x', 20.0, score=2.0))
    gate = gate_result(found, 'set', SUBJECT, 8.0)
    assert gate.undetected is None and gate.triggered is None and (gate.images, gate.measured) == (0, 1)


def test_no_detector_no_gate():
    assert gate_result(results(record('a', 'x', 20.0)), 'set', SUBJECT, 8.0) is None


def test_triggered_gate_against_a_direct_computation(options, tmp_path):
    options['networks'] = {'defended': options['networks']['defended']}
    options['networks']['defended']['defense']['gate'] = 'classifier'
    out = benchmark(options, tmp_path)
    records = read_records(out)
    found = {r.image: r.gate_stability for r in records if r.attack == 'clean'}
    assert found and all(value is not None and 0 < value <= 100 for value in found.values())
    assert {r.gate_stability for r in records if r.attack != 'clean'} == {None}
    sentences = ' '.join(verdict(Results(records, json.loads((out / 'options.json').read_text()))))
    assert 'Triggering the gate of defended on clean images alone leaves' in sentences


@pytest.mark.parametrize('value', ['high', float('nan'), [1]])
def test_untrusted_gate_stability_is_refused(tmp_path, value):
    (tmp_path / 'record').mkdir()
    line = {**vars(record('clean', 'x')), 'gate_stability': value}
    (tmp_path / 'record' / '0.jsonl').write_text(json.dumps(line) + '\n')
    assert read_records(tmp_path) == []
