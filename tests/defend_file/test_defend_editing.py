"""``rsr defend`` edits a file in any way to write it, or names what it cannot edit."""

import re

import pytest
import yaml
from defend_files import text_of, without_additions

from rsr_basicsr.defend_file.options_file import defend_text
from rsr_basicsr.defend_file.presets import PRESETS
from rsr_basicsr.utils.errors import OptionsError

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
    after = defend_text(before, 'masks').text
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
    lines = defend_text(text_of('MSRResNet'), 'masks').text.splitlines()
    assert lines.index('# data') - lines.index('attack:') == len(PRESETS['masks'].attack) + 2
    assert lines[lines.index('attack:') - 2] == ''
    assert lines[lines.index('  upscale: 4') + 1] == '  defense:'
    place = next(number for number, line in enumerate(lines) if line.startswith('  attack:'))
    assert lines[place + 5 : place + 8] == ['', '  # what is measured', '  metrics:']
    # The steps of the file's own indentation; a comment at the end of a block stays in it.
    lines = defend_text(text_of('SwinIR x2'), 'masks').text.splitlines()
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
        defend_text(NOT_EDITABLE[sentence], 'masks')
    assert sentence in str(error.value) and '\n' not in str(error.value) and not list(tmp_path.iterdir())
