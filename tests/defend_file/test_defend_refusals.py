"""``rsr defend`` says in one sentence what cannot be defended, and what is left to do."""

import re

import pytest
from basicsr.models.base_model import BaseModel
from basicsr.models.video_base_model import VideoBaseModel
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
from defend_files import text_of

from helpers import OPTIONS
from rsr_basicsr import defend_model
from rsr_basicsr.cli import main
from rsr_basicsr.defend_file.options_file import defend_text


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
    "model_type: ESRModel is none of BasicSR's;": changed(model='ESRModel'),  # of PLKSR: no misspelling
    'no file of BasicSR; of a trainer such as traiNNer-redux': 'name: a\nscale: 4\nnetwork_g:\n  type: esrgan\n',
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
    assert main(['defend', 'in.yml', '--import', 'my_defended_arch', '--preset', 'masks']) == 0
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


def test_trainers_that_are_not_derived_from_srmodel():
    # As NAFNet's ImageRestorationModel and PLKSR's ESRModel are.
    class ImageRestorationModel(BaseModel):
        pass

    with pytest.raises(TypeError, match="is not derived from BasicSR's SRModel; .* call attack_batch"):
        defend_model(ImageRestorationModel)
    with pytest.raises(TypeError, match='VideoBaseModel works on video'):
        defend_model(VideoBaseModel)
