"""``rsr defend``: only additions, files that BasicSR and our checks take, and one sentence where it cannot be done."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.utils.options import parse_options
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

from helpers import OPTIONS, read, train
from rsr_basicsr.check import check_options
from rsr_basicsr.cli import main
from rsr_basicsr.data import write_evaluation_pairs
from rsr_basicsr.defend_file.options_file import defend_text
from rsr_basicsr.defend_file.presets import DEFAULT_PRESET, PRESETS
from rsr_basicsr.utils.errors import OptionsError

FIXTURES = Path(__file__).parents[1] / 'fixtures' / 'defend'
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


def assert_added_only(before, after):
    """Every character of the original is still there, in its order, and so is all that it means."""
    rest = iter(after)
    assert all(character in rest for character in before)
    assert without_additions(yaml.safe_load(after), yaml.safe_load(before)) == yaml.safe_load(before)


@pytest.mark.parametrize('name', FILES)
def test_all_lines_but_three_stay_as_they_are(name):
    before = text_of(name)
    after = defend_text(before, DEFAULT_PRESET).text
    assert_added_only(before, after)
    opt = yaml.safe_load(before)
    changed = re.sub(r'^(name: [\'"]?)', r'\1defended_', before, count=1, flags=re.MULTILINE)
    changed = re.sub(r'^(model_type: [\'"]?)', r'\1Defended', changed, count=1, flags=re.MULTILINE)
    changed = re.sub(
        rf'^( +type: ){opt["network_g"]["type"]}$',
        r'\1Defended' + opt['network_g']['type'],
        changed,
        flags=re.MULTILINE,
    )
    lines = iter(after.splitlines())
    # A block in braces is added to within its line.
    assert all(line in lines for line in changed.splitlines() if not line.startswith('val: {'))


@pytest.fixture
def project(tmp_path, monkeypatch, photos):
    """A folder to train in, with all that the files name: data sets, lists and weights."""

    def make(opt):
        pairs = tmp_path / 'datasets' / 'pairs'
        names = write_evaluation_pairs(pairs / 'gt', pairs / 'lq', gt_size=64, scale=opt['scale'])
        (pairs / 'meta_info.txt').write_text(''.join(f'gt/{name}.png, lq/{name}.png\n' for name in names))
        for name, folder in {'first': pairs, 'second': pairs, 'photos': photos}.items():
            (pairs.parent / name).symlink_to(folder)
        weights = build_network(dict(opt['network_g'])).state_dict()
        (tmp_path / 'weights').mkdir()
        torch.save({'params': weights, 'params_ema': weights}, tmp_path / 'weights' / 'generator.pth')
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


@pytest.mark.parametrize('name', FILES)
def test_basicsr_and_our_checks_take_what_is_written(name, project, monkeypatch, capsys):
    text = text_of(name)
    # Its classifier comes out of a training, which a test of plain weights has not had.
    presets = [preset for preset in PRESETS if preset != 'paper' or 'test' not in name]
    folder = project(yaml.safe_load(text))
    (folder / 'in.yml').write_text(text)
    assert main(['defend', 'in.yml', '-o', 'out.yml', '--preset', presets[len(name) % len(presets)]]) == 0
    is_train = 'train' in yaml.safe_load(text)
    assert 'will not take it' not in capsys.readouterr().err
    monkeypatch.setattr(sys, 'argv', ['rsr', '-opt', 'out.yml', '--force_yml', 'num_gpu=0'])
    opt, _ = parse_options(str(folder), is_train=is_train)
    check_options(opt)
    # A short training must meet the whole of eps too.
    assert opt.get('attack', {}).get('warmup', 0) <= opt.get('train', {}).get('total_iter', 0) / 10


def test_a_defended_file_trains_and_validates(project, monkeypatch):
    text = text_of('MSRResNet')
    folder = project(yaml.safe_load(text))
    for image in list(folder.glob('datasets/pairs/*/c*.png')):
        image.unlink()
    opt = yaml.safe_load(defend_text(text, DEFAULT_PRESET).text)
    experiment = train(
        opt,
        folder,
        monkeypatch,
        '--force_yml',
        'num_gpu=0',
        'train:total_iter=2',
        'logger:use_tb_logger=false',
        'logger:print_freq=1',
    )
    assert experiment.name == 'defended_11_msrresnet_x4'
    state = torch.load(experiment / 'models' / 'net_g_latest.pth', weights_only=True)['params']
    assert any(key.startswith('defense.') for key in state)
    log = next(experiment.glob('train_*.log')).read_text()
    assert 'l_attacked' in log and 'Validation first_attacked' in log and 'stability' in log


def test_presets_are_those_of_the_options_files():
    for file in OPTIONS.glob('finetune/*realesrgan*.yml'):
        opt = read(f'finetune/{file.name}')
        ours = yaml.safe_load(defend_text(text_of('RealESRGAN pairs'), DEFAULT_PRESET).text)
        assert ours['attack'] == opt['attack'] and ours['network_g']['defense'] == opt['network_g']['defense']
        assert ours['val']['attack'] == opt['val']['attack'] and ours['val']['guard'] == opt['val']['guard']
        assert ours['val']['panel_freq'] == ours['val']['val_freq']
    small = yaml.safe_load(defend_text(text_of('RealESRNet anime'), DEFAULT_PRESET).text)
    assert small['network_g']['defense'] == read('finetune/finetune_defended_general_x4v3.yml')['network_g']['defense']
    paper, cdc = PRESETS['paper'], read('train/train_cdc_realsr_x4_paper.yml')
    assert dict(paper.attack) == cdc['attack']
    assert {'mask': paper.mask, 'classifier': paper.classifier} == {
        key: cdc['network_g']['defense'][key] for key in ('mask', 'classifier')
    }


def test_guard_only_where_there_is_something_to_compare_with():
    guarded = text_of('ESRGAN')
    assert yaml.safe_load(defend_text(guarded, 'light').text)['val']['guard'] == 0.5
    for old, new in {
        'weights/generator.pth': '~',
        'strict_load_g: true': 'strict_load_g: false',
        'calculate_psnr': 'calculate_ssim',
    }.items():
        assert 'guard' not in yaml.safe_load(defend_text(guarded.replace(old, new), 'light').text)['val']


HEAD = 'name: a\nmodel_type: SRModel\nscale: 4\n'
NET = 'network_g:\n  type: MSRResNet\n  upscale: 4\n'
#: Ways to write a file
WRITTEN = {
    'windows': (HEAD + NET).replace('\n', '\r\n'),
    'old mac': (HEAD + NET).replace('\n', '\r'),
    'byte order mark': '\ufeff' + 'datasets: {}\n' + HEAD + NET + 'train: {}\n',
    'no last line break': (HEAD + NET).rstrip(),
    'in braces': HEAD + 'network_g: {type: MSRResNet, upscale: 4, }  # x\n',
    'in braces over lines': HEAD + 'network_g: {type: MSRResNet # x\n  , upscale: 4 # y\n  }\n',
    'json': '{"name": "a", "model_type": "SRModel", "network_g": {"type": "MSRResNet"},\n "train": {}}',
    'quotes': '# é\nname: "a: \\u00e9"\nmodel_type: \'SRModel\'  # x\nnetwork_g:\n  type: "MSRResNet"\n',
    'tags and anchors': 'name: !!str &n a\nmodel_type: &m !!str "SRModel"\n'
    'network_g: &g !!map\n    type: &t MSRResNet\n',
    'merge key': 'base: &b {type: MSRResNet, upscale: 4}\n' + HEAD + 'network_g:\n  <<: *b\n  num_feat: 8\n',
    'merge key at the top': 'base: &b\n  name: "a: b"\n  model_type: SRModel\n<<: *b\n' + NET,
    'alias at the end': 'feat: &f 8\n' + HEAD + NET + '  num_feat: *f  # x\n',
    'list at the end': HEAD + NET + '  num_feat:\n  - 1\n  - 2  # x\nscale: 4\n',
    'text at the end': HEAD + NET + '  num_feat: |\n    # no comment\n    text\n\n# x\n',
    'nothing at the end': HEAD + NET + '  num_feat:\nscale: 4\n',
    'comment at the end': HEAD + NET + '  # num_feat: 8\n# path\npath: {}\n',
    'document marks': '%YAML 1.1\n---\n' + HEAD + NET + '...\n',
    'numbers of a kind': HEAD + NET + 'x: [~, .nan, -.inf, 0x1F, 1_000, !!float 1e-4, 2001-01-01, yes]\n',
    'endless': HEAD + NET + 'x: &x [*x]\n',
}


@pytest.mark.parametrize('way', WRITTEN)
def test_any_way_to_write_a_file(way):
    before = WRITTEN[way]
    after = defend_text(before, 'light').text
    if way == 'endless':  # which == does not come to the end of
        before, after = (re.sub('x: .*', '', text) for text in (before, after))
    rest = iter(after)
    assert all(character in rest for character in before)
    found, meant = yaml.safe_load(after), yaml.safe_load(before)
    assert found['model_type'] == 'DefendedSRModel' and found['network_g']['defense']['gate'] == 'classifier'
    assert repr(without_additions(found, meant)) == repr({key: meant[key] for key in without_additions(found, meant)})
    breaks = set(re.findall('\r\n|\r|\n', before))
    assert set(re.findall('\r\n|\r|\n', after)) == (breaks or {'\n'}) and len(breaks) < 2
    assert after.startswith('\ufeff') == before.startswith('\ufeff') and after.count('\ufeff') == before.count('\ufeff')
    assert after.endswith(('\r', '\n')) == before.endswith(('\r', '\n'))


def test_blocks_stand_where_a_reader_looks_for_them():
    lines = defend_text(text_of('MSRResNet'), 'light').text.splitlines()
    assert lines.index('# data') - lines.index('attack:') == len(PRESETS['light'].attack) + 2
    assert lines[lines.index('attack:') - 2] == ''
    assert lines[lines.index('  upscale: 4') + 1] == '  defense:'
    place = next(number for number, line in enumerate(lines) if line.startswith('  attack:'))
    assert lines[place + 5 : place + 8] == ['', '  # what is measured', '  metrics:']
    # The steps of the file's own indentation; a comment at the end of a block stays in it.
    lines = defend_text(text_of('SwinIR x2'), 'light').text.splitlines()
    assert lines[lines.index("    # resi_connection: '3conv'") + 1 :][:2] == ['    defense:', '        mask:']


NOT_EDITABLE = {
    'network_g, line 5: it is an alias (*)': 'base: &b {type: MSRResNet}\n' + HEAD + 'network_g: *b\n',
    'model_type, line 3: it is an alias (*)': 'm: &m SRModel\nname: a\nmodel_type: *m\n' + NET,
    'other.type: an anchor (&)': HEAD + 'network_g: &n\n  type: MSRResNet\nother: *n\n',
    'x.0: an anchor (&)': HEAD.replace('a\n', '&a a\n') + NET + 'x: [*a]\n',
    'network_g: it comes out of a merge key (<<)': 'base: &b\n  network_g:\n    type: MSRResNet\n<<: *b\n' + HEAD,
    'network_g.type: it is repeated, in lines 5 and 6': HEAD + 'network_g:\n  type: EDSR\n  type: MSRResNet\n',
    'network_g: it is repeated, in lines 4 and 7': HEAD + NET + NET,
    'name, line 1: a text over several lines (|)': (HEAD + NET).replace('name: a', 'name: |\n  a'),
    'it holds several documents (---)': HEAD + NET + '---\n' + HEAD,
    "found character '\\t' that cannot start any token, line 2": (HEAD + NET).replace('SRModel', 'SRModel\t# x'),
    'only plain YAML values are read': HEAD + NET + 'x: !!python/object/apply:os.mkdir [made]\n',
    'it is not a YAML file: could not convert': HEAD + NET + 'x: !!float much\n',
    'its blocks are nested too deeply': HEAD + NET + 'x: ' + '[' * 500 + ']' * 500,
    'it holds no options': '- a\n',
}


@pytest.mark.parametrize('sentence', NOT_EDITABLE)
def test_what_cannot_be_edited_is_named(sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionsError) as error:
        defend_text(NOT_EDITABLE[sentence], 'light')
    assert sentence in str(error.value) and '\n' not in str(error.value) and not list(tmp_path.iterdir())


def changed(**replaced):
    text = text_of('MSRResNet')
    for key, value in replaced.items():
        pattern = r'(?<=^model_type: ).*' if key == 'model' else r'(?<=^network_g:\n  type: ).*'
        text = re.sub(pattern, value, text, flags=re.MULTILINE)
    return text


#: What has no defended form, and why
REFUSED = {
    'model_type: EDVRModel works on video': changed(model='EDVRModel', net='EDVR'),
    'model_type: VideoRecurrentModel works on video': changed(model='VideoRecurrentModel', net='BasicVSR'),
    'model_type: VideoRecurrentGANModel works on video': changed(model='VideoRecurrentGANModel', net='BasicVSR'),
    'model_type: StyleGAN2Model is not derived from SRModel': changed(model='StyleGAN2Model', net='StyleGAN2Generator'),
    'model_type: HiFaceGANModel has no defended version': changed(model='HiFaceGANModel', net='HiFaceGAN'),
    "model_type: GFPGANModel is none of BasicSR's;": changed(model='GFPGANModel', net='GFPGANv1'),
    "model_type: RealESRGANMdel is none of BasicSR's (did you mean RealESRGANModel?)": changed(model='RealESRGANMdel'),
    'network_g.type: DFDNet has no defended version; there is one of CDC, EDSR, ': changed(net='DFDNet'),
    'network_g.type: ECBSR has no defended version': changed(net='ECBSR'),
    'network_g.type: SwinIRR has no defended version (did you mean SwinIR?)': changed(net='SwinIRR'),
    'network_g.num_in_ch: 1, but the defence is for colour images': changed().replace('num_in_ch: 3', 'num_in_ch: 1'),
    'model_type: DefendedSRModel is defended already': changed(model='DefendedSRModel'),
    'network_g.type: DefendedMSRResNet is defended already': changed(net='DefendedMSRResNet'),
    'attack: this block is there already': changed() + '\nattack: {type: FGSM, eps: 8}\n',
    'network_g.defense: this block is there already': changed(net='MSRResNet\n  defense: {gate: always}'),
    'this is not an options file of a training or a test': (OPTIONS / 'benchmark' / 'quick.yml').read_text(),
}


@pytest.mark.parametrize('sentence', REFUSED)
def test_what_cannot_be_defended_is_refused(sentence, tmp_path, capsys):
    before, after = tmp_path / 'in.yml', tmp_path / 'out.yml'
    before.write_text(REFUSED[sentence], encoding='utf-8')
    assert main(['defend', str(before), '-o', str(after)]) == 2
    out, err = capsys.readouterr()
    assert sentence in err and err.count('\n') == 1 and str(before) in err and 'Traceback' not in err
    assert not out and list(tmp_path.iterdir()) == [before]


def test_every_twin_is_reached():
    for registry, text in ((MODEL_REGISTRY, 'model'), (ARCH_REGISTRY, 'net')):
        for name in [key[len('Defended') :] for key in registry.keys() if key.startswith('Defended')]:
            assert 'basicsr' in name or f'Defended{name}\n' in defend_text(changed(**{text: name}), 'light').text


def test_the_network_of_a_module_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my_defended_arch.py').write_text(
        'from basicsr.archs.srresnet_arch import MSRResNet\nfrom basicsr.utils.registry import ARCH_REGISTRY\n'
        'from rsr_basicsr import MaskPoint, register_defended\n\n\n'
        "@register_defended({'last': MaskPoint('conv_last')})\n@ARCH_REGISTRY.register()\n"
        'class MyOwnNet(MSRResNet):\n    pass\n'
    )
    (tmp_path / 'in.yml').write_text(changed(net='MyOwnNet'))
    assert main(['defend', 'in.yml']) == 2
    assert 'register_defended' in capsys.readouterr().err
    assert main(['defend', 'in.yml', '--import', 'my_defended_arch']) == 0
    assert 'points: [input, last]' in capsys.readouterr().out


def notes(text):
    return ' '.join(defend_text(text, 'light').notes)


def test_what_is_left_to_do_is_said():
    assert notes(changed()) == ''
    said = notes(text_of('RealESRNet x4'))
    assert 'torchrun --nproc_per_node=4 -m rsr_basicsr.train' in said and 'nothing will be measured' in said
    said = notes(text_of('test EDSR'))
    assert 'weights/generator.pth stays; put the weights of your defended training there' in said
    assert 'is a state of the undefended training' in notes(changed().replace('state: ~', 'state: a.state'))
    said = notes(changed().replace('pretrain_network_g: ~', 'pretrain_model_g: a.pth'))
    assert 'path.pretrain_model_g is an old name that this BasicSR does not read; write pretrain_network_g' in said
    for old, new, problem in [
        ('type: Adam', 'type: SGD', 'train.optim_g.type: expected one of Adam'),
        ('use_hflip', 'use_flip', "'use_hflip' is missing"),
        ('upscale: 4', 'upscale: 2', 'it upscales by 2, but scale is 4'),
    ]:
        said = notes(changed().replace(old, new))
        assert 'rsr train refuses it as it is: ' in said and problem in said


def test_only_shown_without_an_output(tmp_path, capsys):
    file = tmp_path / 'in.yml'
    for text in (text_of('ESRGAN'), text_of('ESRGAN').rstrip(), text_of('ESRGAN').replace('\n', '\r\n')):
        file.write_bytes(text.encode())
        assert main(['defend', str(file)]) == 0
        assert file.read_bytes() == text.encode() and list(tmp_path.iterdir()) == [file]
        shown = capsys.readouterr().out
        removed = [line for line in shown.splitlines() if line.startswith('-') and not line.startswith('---')]
        assert [line.split(':')[0].strip('- ') for line in removed] == ['name', 'model_type', 'type']
        if shutil.which('patch'):
            made = subprocess.run(
                ['patch', '--binary', '-s', '-o', '-', str(file)], input=shown.encode(), capture_output=True, check=True
            ).stdout
            assert made.decode() == defend_text(text, 'light').text


def test_nothing_is_overwritten_unasked(tmp_path, capsys):
    before, after = tmp_path / 'in.yml', tmp_path / 'out.yml'
    before.write_text(text_of('ESRGAN'))
    after.write_text('mine')
    for output in (after, before):
        assert main(['defend', str(before), '-o', str(output)]) == 2
        assert f'-o {output}: it is there already; give --overwrite to replace it' in capsys.readouterr().err
    assert after.read_text() == 'mine' and before.read_text() == text_of('ESRGAN')
    assert main(['defend', str(before), '-o', str(after), '--overwrite', '--preset', 'strong']) == 0
    assert after.read_text() == defend_text(text_of('ESRGAN'), 'strong').text
    assert 'next: rsr check' in capsys.readouterr().err
    assert main(['defend', str(before), '-o', str(before), '--overwrite']) == 0
    assert before.read_text() == defend_text(text_of('ESRGAN'), 'light').text
    assert sorted(tmp_path.iterdir()) == [before, after]


def test_files_that_cannot_be_read_or_written(tmp_path, capsys):
    file = tmp_path / 'in.yml'
    file.write_bytes(text_of('ESRGAN').encode('utf-16'))
    (tmp_path / 'good.yml').write_text(text_of('ESRGAN'))
    good = str(tmp_path / 'good.yml')
    for arguments, sentence in [
        ([str(file)], 'it is not in UTF-8'),
        ([str(tmp_path / 'x')], 'No such file'),
        ([str(tmp_path)], 'Is a directory'),
        ([good, '--overwrite'], 'give -o OUT.yml'),
        ([good, '-o', str(tmp_path), '--overwrite'], 'Is a directory'),
        ([good, '-o', str(tmp_path / 'x' / 'y.yml')], 'No such file or directory'),
    ]:
        assert main(['defend', *arguments]) == 2
        err = capsys.readouterr().err
        assert sentence in err and err.count('\n') == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['good.yml', 'in.yml']
