"""Blocks ``attack:`` of every kind, for options files of tests."""


def set_attack(opt, real_weights, **attack):
    opt['attack'] = {'eps': 4, **attack}
    source = {'type': 'SRVGGNetCompact', 'num_conv': 16, 'weights': str(real_weights)}
    for block in (opt['attack'], *opt['attack'].get('attacks', ())):
        if block.get('type') == 'Transfer':
            block['source'] = {**source, **block.get('source', {})}


ATTACK_BLOCKS = [
    dict(type='FGSM'),
    dict(type='MIFGSM', steps='2', decay='0.9'),
    dict(type='APGD', steps=2, norm='L2'),
    dict(type='BandLimited', steps=2, band=['0', '0.43']),
    dict(type='Universal', steps=2, size=16),
    dict(type='Square', queries=3),
    dict(type='RandomNoise'),
    dict(type='DetectorAware', steps=2, weights=[0, '1']),
    dict(type='PGD', steps=2, gate='straight_through', eot_samples=2, objective='stability'),
    dict(type='Transfer', steps=2),
    dict(type='Transfer', attack={'type': 'MIFGSM', 'steps': 2}),
    dict(type='WorstOf', steps=2, attacks=[{'type': 'PGD', 'steps': 1}, {'type': 'Transfer'}]),
]
