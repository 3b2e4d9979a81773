"""Options files of the kinds that ``rsr defend`` is given."""

from pathlib import Path

FIXTURES = Path(__file__).parent / 'fixtures' / 'defend'
#: Files of the kinds that BasicSR and Real-ESRGAN publish: file, and what is replaced in it
FILES = {
    'MSRResNet': ('train_msrresnet_x4', {}),
    'EDSR': ('train_msrresnet_x4', {'type: MSRResNet': 'type: EDSR'}),
    'RCAN': ('train_msrresnet_x4', {'type: MSRResNet': 'type: RCAN\n  num_group: 1\n  squeeze_factor: 2'}),
    'RRDBNet PSNR': ('train_msrresnet_x4', {'type: MSRResNet': 'type: RRDBNet', '  upscale: 4\n': ''}),
    'ESRGAN': ('train_esrgan_x4', {}),
    'MSRGAN': ('train_esrgan_x4', {'ESRGANModel': 'SRGANModel', 'type: RRDBNet': 'type: MSRResNet'}),
    'SwinIR x2': ('train_swinir_x2', {}),
    'RealESRNet x4': ('train_realesrnet_x4plus', {}),
    'RealESRNet x2': (
        'train_realesrnet_x4plus',
        {'scale: 4': 'scale: 2', 'strict_load_g: true': 'strict_load_g: False'},
    ),
    'RealESRNet anime': (
        'train_realesrnet_x4plus',
        {
            'type: RRDBNet': 'type: SRVGGNetCompact',
            'num_block': 'num_conv',
            '  num_grow_ch: 4\n  scale: 4': '  upscale: 4',
        },
    ),
    'RealESRGAN pairs': ('finetune_realesrgan_pairdata', {}),
    'test EDSR': ('test_edsr_x4', {}),
    'test RCAN': ('test_edsr_x4', {'type: EDSR': 'type: RCAN\n  num_group: 1\n  squeeze_factor: 2'}),
    'test ESRGAN without gt': ('test_esrgan_x4_no_gt', {}),
}


def text_of(name):
    file, changes = FILES[name]
    text = (FIXTURES / f'{file}.yml').read_bytes().decode()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


def without_additions(after, before):
    """The options of a defended file with all that ``rsr defend`` may add taken out again."""
    after = {**after, 'network_g': dict(after['network_g'])}
    after['name'] = after['name'][len('defended_') :]
    after['model_type'] = after['model_type'][len('Defended') :]
    after['network_g']['type'] = after['network_g']['type'][len('Defended') :]
    del after['network_g']['defense']
    if 'train' in after:
        del after['attack']
    if 'attack' in (after.get('val') or {}):
        after['val'] = {
            key: value
            for key, value in after['val'].items()
            if key in before['val'] or key not in ('attack', 'guard', 'panel_freq')
        }
    return after
