"""BasicSR's trainer with every defended model class, on the CPU, from the shipped options files."""

import copy
import re

import pytest
import torch
import torchvision
import yaml
from attack_blocks import ATTACK_BLOCKS, set_attack
from basicsr.archs import build_network, vgg_arch
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.models.base_model import BaseModel
from basicsr.models.video_base_model import VideoBaseModel

from helpers import OPTIONS, SMALL_NETWORKS, paired_options, read, run_command, shrink, train, write
from rsr_basicsr.cli import main
from rsr_basicsr.models import AttackAugmentation, DefendedSRModel, defend_model
from rsr_basicsr.weights.state_dict import load_state

TRAINED = sorted(
    file
    for folder in ('train', 'finetune')
    for file in (OPTIONS / folder).glob('*.yml')
    if file.stem != 'train_frequency_classifier'
)  # which has tests of its own


@pytest.mark.parametrize('file', TRAINED, ids=lambda file: file.stem)
def test_every_options_file_trains_and_resumes(file, photos, tmp_path, monkeypatch):
    real = read(file.relative_to(OPTIONS))
    guard, pretrained = real.get('val', {}).get('guard'), real['path'].get('pretrain_network_g')
    opt = shrink(real, photos, iterations=2)
    if pretrained:
        kind = opt['network_g']['type'].replace('Defended', '')
        torch.save({'params': build_network({'type': kind, **SMALL_NETWORKS[kind]}).state_dict()}, tmp_path / 'w.pth')
        opt['path']['pretrain_network_g'] = str(tmp_path / 'w.pth')
        opt['val']['guard'] = guard
    models = train(opt, tmp_path, monkeypatch) / 'models'
    first = load_state(models / 'net_g_2.pth')
    assert 'defense.classifier.body.0.weight' in first

    log = next(models.parent.glob('*.log')).read_text()
    assert 'Validation ' in log and ('attack' not in opt['val'] or '# stability: ' in log)
    if pretrained:  # before the training, at its second iteration and at its end
        assert len(re.findall(r'Validation Set14\n', log)) == len(re.findall(r'Validation Set14_attacked\n', log)) == 3
        assert len(re.findall('# stability: ', log)) == 3 and 'as iteration 0' in log

    opt['train']['total_iter'] = 4
    resumed = []
    resume = BaseModel.resume_training
    monkeypatch.setattr(
        BaseModel, 'resume_training', lambda self, state: [resumed.append(state['iter']), resume(self, state)]
    )
    train(opt, tmp_path, monkeypatch, '--auto_resume')
    assert resumed == [2] and not list(tmp_path.rglob('*_archived_*'))
    state = torch.load(models.parent / 'training_states' / '4.state', weights_only=True)
    assert state['iter'] == 4 and len(state['optimizers']) == (3 if 'network_d' in opt else 2)
    second = load_state(models / 'net_g_4.pth')
    moved = {key for key in first if not torch.equal(first[key], second[key])}
    assert moved >= {key for key in first if key.endswith('weight')}


def test_valid_options_cause_no_warning(photos, tmp_path, monkeypatch):
    opt = shrink(read('finetune/finetune_defended_general_x4v3.yml'), photos, iterations=1)
    opt['network_g']['defense'].pop('classifier')
    for key in ('optim_classifier', 'classifier_opt', 'train_classifier'):
        opt['train'].pop(key, None)
    plain = build_network({'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']}).state_dict()
    torch.save({'params': plain}, tmp_path / 'w.pth')
    opt['path']['pretrain_network_g'] = str(tmp_path / 'w.pth')
    log = next(train(opt, tmp_path, monkeypatch).glob('train_*.log')).read_text()
    assert 'The classifier (builtin) is not trained.' in log and 'plain backbone weights' in log
    assert 'defense.' not in ''.join(line for line in log.splitlines() if 'WARNING' in line)

    plain['body.0.bias_of_mine'] = plain.pop('body.0.bias')  # what is missing beside the defence is still listed
    torch.save({'params': plain}, tmp_path / 'w.pth')
    opt['path']['strict_load_g'] = False
    opt['name'] = 'renamed'
    log = next(train(opt, tmp_path, monkeypatch).glob('train_*.log')).read_text()
    warnings = [line.split('WARNING: ')[1].strip() for line in log.splitlines() if 'WARNING: ' in line]
    first = warnings.index('Current net - loaded net:')
    assert warnings[first : first + 4] == [
        'Current net - loaded net:',
        'body.0.bias',
        'Loaded net - current net:',
        'body.0.bias_of_mine',
    ]


def test_log_and_optimizers(photos, tmp_path):
    opt = shrink(read('train/train_defended_realesrnet_x4plus.yml'), photos, iterations=2)
    opt['logger']['use_tb_logger'] = True
    file = write(opt, tmp_path / 'options.yml')
    run = run_command(tmp_path, 'rsr_basicsr.train', '-opt', str(file))
    assert run.returncode == 0, run.stdout
    for entry in ('l_pix', 'l_classifier', 'classifier_acc', 'l_clean', 'l_attacked', 't_attack'):
        assert re.search(rf'iter: +2,.* {entry}: [\d.e+-]+ ', run.stdout), entry
    assert list((tmp_path / 'tb_logger' / opt['name']).glob('events.out.tfevents.*'))

    state = torch.load(tmp_path / 'experiments' / opt['name'] / 'training_states' / '2.state', weights_only=True)
    net = build_network(opt['network_g'])
    sizes = [sum(v['exp_avg'].numel() for v in optimizer['state'].values()) for optimizer in state['optimizers']]
    backbone = sum(p.numel() for name, p in net.named_parameters() if not name.startswith('defense.'))
    assert sizes == [backbone, 263_426]


def test_without_attack_and_masks_it_is_basicsrs_own_training(pairs, photos, tmp_path, monkeypatch):
    # An attack of eps 0 with masks that keep everything doubles the batch and changes nothing else.
    opt = paired_options(pairs, photos=photos)
    opt['attack'].update(eps=0, mode='paired', random_start=0, quantize='none')
    opt['network_g']['defense'] = {'mask': {'keep_radius': [1, 1]}}
    opt['train']['ema_decay'] = 0
    ours = load_state(train(opt, tmp_path, monkeypatch) / 'models' / 'net_g_4.pth')

    plain = paired_options(pairs, 'SRModel', 'SRVGGNetCompact', photos=photos)
    plain['name'] = 'plain'
    del plain['attack'], plain['network_g']['defense'], plain['train']['classifier_opt']
    plain['train']['ema_decay'] = 0
    theirs = load_state(train(plain, tmp_path, monkeypatch) / 'models' / 'net_g_4.pth')
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, atol=2e-6, rtol=0)


@pytest.mark.parametrize('attack', ATTACK_BLOCKS, ids=str)
def test_every_attack_trains(attack, pairs, tmp_path, monkeypatch, photos, real_weights):
    opt = paired_options(pairs, photos=photos, iterations=2)
    set_attack(opt, real_weights, **copy.deepcopy(attack))
    models = train(opt, tmp_path, monkeypatch) / 'models'
    state = load_state(models / 'net_g_2.pth')
    assert all(value.isfinite().all() for value in state.values())
    assert not any('source' in key or 'attack' in key for key in state)


@pytest.mark.parametrize(
    'cls, reason',
    [(DefendedSRModel, 'defended already'), (VideoBaseModel, 'single images'), (BaseModel, 'single images')],
)
def test_not_every_trainer_can_be_defended(cls, reason):
    with pytest.raises(TypeError, match=reason):
        defend_model(cls)


def test_third_party_architecture_trains(pairs, photos, tmp_path, monkeypatch, capsys):
    (tmp_path / 'mynet_arch.py').write_text(
        'from basicsr.archs.srvgg_arch import SRVGGNetCompact\nfrom rsr_basicsr import register_defended\n'
        '@register_defended()\nclass MyNet(SRVGGNetCompact):\n    pass\n'
    )
    opt = paired_options(pairs, network='DefendedMyNet', photos=photos, iterations=2)
    opt['network_g']['defense'] = {}
    train(opt, tmp_path, monkeypatch, '--import', 'mynet_arch')
    assert (tmp_path / 'experiments' / 'paired' / 'models' / 'net_g_2.pth').is_file()
    assert main(['train', '-opt', 'options.yml', '--import', 'nowhere']) == 2
    assert "--import nowhere: No module named 'nowhere'" in capsys.readouterr().err


def test_real_esrgans_gan_step_with_a_local_vgg_file(photos, tmp_path, monkeypatch):
    def vgg19(pretrained=False):
        net = torchvision.models.VGG(torchvision.models.vgg19().features, num_classes=1)
        net.classifier = torch.nn.Identity()
        return net

    # Only the layers that the loss reads are real; the ImageNet classifier would take 500 MB more.
    features = torchvision.models.vgg19().features
    monkeypatch.setattr(torchvision.models, 'vgg19', lambda: type('Net', (), {'features': features}))
    monkeypatch.setattr(vgg_arch.vgg, 'vgg19', vgg19)
    (tmp_path / 'experiments/pretrained_models').mkdir(parents=True)
    torch.save(vgg19().state_dict(), tmp_path / vgg_arch.VGG_PRETRAIN_PATH)
    real = read('finetune/finetune_defended_realesrgan_x4plus.yml')
    perceptual = real['train']['perceptual_opt']
    opt = shrink(real, photos, iterations=2)
    opt['train']['perceptual_opt'] = perceptual
    opt.update(queue_size=2, l1_gt_usm=False)
    del opt['val']
    seen = []
    attack = AttackAugmentation.attack_images

    def watched(self, *args):
        # Attacks pass neither the discriminator nor its spectral norm, and leave no gradient anywhere.
        before = {key: value.clone() for key, value in self.net_d.state_dict().items()}
        gradients = [p.grad for p in self.net_d.parameters()]
        result = attack(self, *args)
        assert all(torch.equal(value, before[key]) for key, value in self.net_d.state_dict().items())
        assert all(p.grad is g for p, g in zip(self.net_d.parameters(), gradients))
        seen.append(any('weight_u' in key for key in before))
        return result

    monkeypatch.setattr(AttackAugmentation, 'attack_images', watched)
    folder = train(opt, tmp_path, monkeypatch)
    log = next(folder.glob('*.log')).read_text()
    for name in ('l_g_pix', 'l_g_percep', 'l_g_gan', 'l_d_real', 'l_d_fake', 'l_attacked'):
        assert re.search(rf'iter: +2,.* {name}: [\d.e+-]+ ', log), name
    assert seen == [True, True]


def test_validates_in_tiles(pairs, photos, tmp_path, monkeypatch):
    opt = paired_options(pairs, photos=photos, iterations=2)
    opt['val'] = {
        'val_freq': 2,
        'save_img': False,
        'tile': 8,
        'tile_overlap': 4,
        'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}},
    }
    opt['datasets']['val'] = dict(
        name='pairs',
        type='PairedImageDataset',
        dataroot_gt=str(pairs / 'gt'),
        dataroot_lq=str(pairs / 'lq'),
        io_backend={'type': 'disk'},
    )
    passes = []
    forward = SRVGGNetCompact.forward
    monkeypatch.setattr(
        SRVGGNetCompact, 'forward', lambda net, x: [passes.append((x.shape[-1], net.training, net)), forward(net, x)][1]
    )
    made = []
    optimize = DefendedSRModel.optimize_parameters
    monkeypatch.setattr(
        DefendedSRModel,
        'optimize_parameters',
        lambda model, current_iter: [made.append(model), optimize(model, current_iter)][1],
    )
    opt['train']['total_iter'] = 4  # so that training goes on behind a validation
    train(opt, tmp_path, monkeypatch)
    model = made[0]
    tiles = [(training, net) for size, training, net in passes if size == 12 and net in (model.net_g, model.net_g_ema)]
    assert tiles and all(net is model.net_g_ema and not training for training, net in tiles)
    patches = [training for size, training, net in passes if size == 16 and net is model.net_g]
    assert patches and all(patches)


def test_plain_network_is_refused_by_name(pairs, photos):
    opt = paired_options(pairs, network='SRVGGNetCompact', photos=photos)
    del opt['network_g']['defense']
    opt.update(is_train=True, dist=False)
    with pytest.raises(Exception, match='write type: DefendedSRVGGNetCompact'):
        DefendedSRModel(opt)


def test_tester_measures_a_defended_network(pairs, photos, tmp_path, monkeypatch):
    folder = train(paired_options(pairs, photos=photos, iterations=2), tmp_path, monkeypatch)
    opt = read('test/test_defended_realesrgan_x4plus.yml')
    opt.update(name='tested', num_gpu=0, network_g=yaml.safe_load((folder / 'options.yml').read_text())['network_g'])
    opt['datasets']['test_1'].update(dataroot_gt=str(pairs / 'gt'), dataroot_lq=str(pairs / 'lq'))
    opt['path']['pretrain_network_g'] = str(folder / 'models' / 'net_g_2.pth')
    run = run_command(tmp_path, 'rsr_basicsr.test', '-opt', str(write(opt, tmp_path / 'test.yml')))
    assert run.returncode == 0, run.stdout
    assert float(re.search(r'# psnr: ([\d.]+)', run.stdout)[1]) > 5
    assert float(re.search(r'# stability: ([\d.]+)', run.stdout)[1]) > 5
    found = list((tmp_path / 'results' / 'tested' / 'visualization').rglob('*.png'))
    assert len(found) == 2 * len(list((pairs / 'gt').iterdir()))  # clean and attacked
