"""BasicSR's trainer with every defended model class, on the CPU, from the shipped options files."""

import copy
import re
import subprocess
import sys

import pytest
import torch
import torchvision
import yaml
from attack_blocks import ATTACK_BLOCKS, set_attack
from basicsr.archs import build_network, vgg_arch
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.models.video_base_model import VideoBaseModel

from helpers import OPTIONS, SMALL_NETWORKS, paired_options, read, shrink, train, write
from rsr_basicsr.cli import main
from rsr_basicsr.models import AttackAugmentation, DefendedSRModel, defend_model
from rsr_basicsr.weights.state_dict import load_state

TRAINED = sorted(
    file
    for folder in ('train', 'finetune')
    for file in (OPTIONS / folder).glob('*.yml')
    if file.stem != 'train_frequency_classifier'
)  # which has tests of its own


def run_command(folder, *arguments):
    return subprocess.run(
        [sys.executable, '-m', *arguments], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


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


@pytest.fixture
def model(pairs, photos):
    """A DefendedSRModel with a batch of four in it."""
    opt = paired_options(pairs, photos=photos)
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    opt['path'].update(models='', training_states='')
    model = DefendedSRModel(opt)
    model.feed_data({'lq': torch.rand(4, 3, 16, 16).mul(255).round() / 255, 'gt': torch.rand(4, 3, 64, 64)})
    return model


@pytest.mark.parametrize('attack', ATTACK_BLOCKS, ids=str)
def test_every_attack_trains(attack, pairs, tmp_path, monkeypatch, photos, real_weights):
    opt = paired_options(pairs, photos=photos, iterations=2)
    set_attack(opt, real_weights, **copy.deepcopy(attack))
    models = train(opt, tmp_path, monkeypatch) / 'models'
    state = load_state(models / 'net_g_2.pth')
    assert all(value.isfinite().all() for value in state.values())
    assert not any('source' in key or 'attack' in key for key in state)


def test_paired_appends_the_attacked_images(model):
    model.attack_mode = 'paired'
    lq, gt = model.lq.clone(), model.gt.clone()
    labels, decision = next(model.attacked_batches(1))
    assert labels.tolist() == decision.tolist() == [False] * 4 + [True] * 4
    assert torch.equal(model.lq[:4], lq) and torch.equal(model.gt, torch.cat([gt, gt]))
    change = (model.lq[4:] - lq).abs().flatten(1).amax(1) * 255
    assert (change > 0.5).all() and (change <= 8 + 1e-3).all()
    torch.testing.assert_close(model.lq * 255, (model.lq * 255).round(), atol=1e-4, rtol=0)


def test_mixed_replaces_a_share(model):
    model.attack_mode, model.attack_share = 'mixed', 0.5
    lq = model.lq.clone()
    ((labels, decision),) = model.attacked_batches(1)
    assert model.lq.shape == lq.shape and labels.sum() == 2 and torch.equal(decision, labels)
    assert [not torch.equal(a, b) for a, b in zip(lq, model.lq)] == labels.tolist()


def test_alternating_attacks_after_the_clean_step(model, monkeypatch):
    model.attack_mode = 'alternating'
    lq, weights = model.lq.clone(), model.net_g.body[0].weight.detach().clone()
    seen = []

    def step(self, current_iter):
        seen.append((self.lq.clone(), self.net_g.defense.decide(self.lq)))
        return SRModel_step(self, current_iter)

    SRModel_step = SRModel.optimize_parameters
    monkeypatch.setattr(SRModel, 'optimize_parameters', step)
    attack = model.attack_images
    monkeypatch.setattr(
        model,
        'attack_images',
        lambda *args: [seen.append(not torch.equal(weights, model.net_g.body[0].weight)), attack(*args)][1],
    )
    model.optimize_parameters(1)
    (clean, first), moved, (attacked, second) = seen
    assert torch.equal(clean, lq) and not torch.equal(attacked, lq) and moved
    assert first is False and second is True
    log = model.get_current_log()
    assert {'l_pix', 'l_clean', 'l_attacked', 'l_classifier', 't_attack'} <= set(log)
    assert 0 < log['l_clean'] < 1 and 0 < log['l_attacked'] < 1 and log['attacked_share'] == 0.5


def test_classifier_learns_which_images_were_attacked(model):
    smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 4, 4), size=16, mode='bicubic').clamp(0, 1)
    lq = torch.cat([smooth, (smooth + 16 / 255 * torch.randn_like(smooth).sign()).clamp(0, 1)])
    labels = torch.arange(8) >= 4
    for _ in range(40):
        model.optimizer_classifier.zero_grad()
        with model._joint_loss(labels, 1):
            model.net_g(lq).mean().backward()
        model.optimizer_classifier.step()
    assert (model.classifier.clean_probability(lq) < 0.5).tolist() == labels.tolist()
    log = model.means.take()
    assert log['classifier_acc'] > 0.5 and log['l_classifier'] > 0


def test_joint_loss_is_the_classifiers_own_and_keeps_the_networks_gradient(model):
    lq, labels = torch.rand(4, 3, 16, 16), torch.arange(4) >= 2
    with model.net_g.defense.forced(False):
        model.net_g(lq).square().mean().backward()
        alone = {name: p.grad.clone() for name, p in model.net_g.named_parameters() if p.grad is not None}
        assert not any(name.startswith('defense.') for name in alone)
        loss = torch.nn.functional.cross_entropy(model.classifier(lq), labels.long())
        learned = [p for p in model.classifier.parameters() if p.requires_grad]
        expected = torch.autograd.grad(loss, learned)
        model.net_g.zero_grad()
        with model._joint_loss(labels, 0.5):
            model.net_g(lq).square().mean().backward()
    for name, gradient in alone.items():
        torch.testing.assert_close(dict(model.net_g.named_parameters())[name].grad, gradient)
    for parameter, gradient in zip(learned, expected):
        torch.testing.assert_close(parameter.grad, gradient / 2)


@pytest.mark.parametrize('mode', ['paired', 'mixed', 'alternating'])
def test_the_host_never_waits_for_the_device(model, mode, monkeypatch):
    # Tensors of the device meta have no values: anything that the host would wait for is an error.
    model.attack_mode = mode
    for name in ('net_g', 'net_g_ema'):
        setattr(model, name, getattr(model, name).to('meta'))
    model.optimizers.clear()
    for name in ('optim_g', 'optim_classifier'):
        model.opt['train'][name]['type'] = 'Adam'  # which BasicSR takes out when it reads it
    model.setup_optimizers()
    model.lq, model.gt = model.lq.to('meta'), model.gt.to('meta')
    # BasicSR's step reads its losses once, at its end.
    monkeypatch.setattr(model, 'reduce_loss_dict', lambda losses: losses)
    model.optimize_parameters(1)
    assert 'l_pix' in model.log_dict
    with pytest.raises((RuntimeError, NotImplementedError), match='meta'):
        model.get_current_log()


def test_classifier_learns_if_the_network_runs_twice(pairs, photos):
    class Asks(SRModel):
        def optimize_parameters(self, current_iter):
            with torch.no_grad():
                self.net_g(self.lq)
            super().optimize_parameters(current_iter)

    opt = paired_options(pairs, photos=photos)
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    model = defend_model(Asks)(opt)
    assert type(model).__name__ == 'DefendedAsks'
    learned = [p for p in model.classifier.parameters() if p.requires_grad]
    before = [p.clone() for p in learned]
    model.feed_data({'lq': torch.rand(2, 3, 16, 16), 'gt': torch.rand(2, 3, 64, 64)})
    model.optimize_parameters(1)
    assert not any(torch.equal(a, b) for a, b in zip(before, learned))


@pytest.mark.parametrize(
    'cls, reason',
    [(DefendedSRModel, 'defended already'), (VideoBaseModel, 'single images'), (BaseModel, 'single images')],
)
def test_not_every_trainer_can_be_defended(cls, reason):
    with pytest.raises(TypeError, match=reason):
        defend_model(cls)


def test_classifier_can_be_frozen(pairs, photos, tmp_path, monkeypatch, capsys):
    opt = paired_options(pairs, photos=photos, iterations=2)
    opt['train']['train_classifier'] = False
    run = run_command(tmp_path, 'rsr_basicsr.train', '-opt', str(write(opt, tmp_path / 'first.yml')))
    assert re.search(r'l_classifier: [\d.e+-]+ classifier_acc: [\d.e+-]+', run.stdout), run.stdout
    folder = tmp_path / 'experiments' / opt['name']
    opt['train']['total_iter'] = 4
    train(opt, tmp_path, monkeypatch, '--auto_resume')
    first, second = (load_state(folder / 'models' / f'net_g_{i}.pth', 'params') for i in (2, 4))
    changed = {key for key in first if not torch.equal(first[key], second[key])}
    assert changed and not any(key.startswith('defense.') for key in changed)

    opt['train'].update(train_classifier=True, total_iter=6)
    write(opt, tmp_path / 'options.yml')
    assert main(['train', '-opt', 'options.yml', '--auto_resume']) == 2
    assert 'the training state has 1 optimizers, these options make 2' in capsys.readouterr().err


def test_moving_average_starts_from_the_trained_classifier(model, pairs, photos, tmp_path):
    ema = model.net_g_ema.defense.classifier.state_dict()
    assert all(torch.equal(ema[key], value) for key, value in model.classifier.state_dict().items())

    # If the file has both, each network loads its own.
    torch.manual_seed(5)
    other = {key: torch.randn_like(value) for key, value in model.net_g.state_dict().items()}
    torch.save({'params': model.net_g.state_dict(), 'params_ema': other}, tmp_path / 'both.pth')
    opt = paired_options(pairs, photos=photos)
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    opt['path'].update(pretrain_network_g=str(tmp_path / 'both.pth'))
    ema = DefendedSRModel(opt).net_g_ema.state_dict()
    assert all(torch.equal(ema[key], value) for key, value in other.items())


def test_mixed_keeps_its_share_in_small_batches(model):
    model.attack_mode, model.attack_share = 'mixed', 0.5
    lq, gt = model.lq[:1], model.gt[:1]
    seen = []
    for _ in range(40):
        model.lq, model.gt = lq, gt
        ((labels, _),) = model.attacked_batches(1)
        seen += labels.tolist()
    assert 8 <= sum(seen) <= 32


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


def test_warmup_and_every(model):
    model.attack_warmup, model.attack_every, model.eps_range = 4, 2, (8, 8)
    model.attack.quantize, batch = 'none', (model.lq, model.gt)
    for iteration, eps in ((1, None), (2, 4), (3, None), (4, 8), (6, 8)):
        model.lq, model.gt = batch
        model.optimize_parameters(iteration)
        log = model.get_current_log()
        assert log.get('attack_eps') == eps and ('l_attacked' in log) == ('l_classifier' in log) == (eps is not None)
        if eps:
            change = (
                (model.lq[batch[0].shape[0] :] - batch[0]).abs().amax() * 255
                if model.attack_mode == 'paired'
                else (model.lq - batch[0]).abs().amax() * 255
            )
            assert eps * 0.99 < change < eps * 1.01


def test_share_of_the_attacked_images_is_masked(model):
    model.attack_mode, model.attack_masked = 'paired', 0.5
    seen = []
    decide = model.net_g.defense.decide
    model.net_g.defense.decide = lambda x: [seen.append(decide(x)), seen[-1]][1]
    labels, decision = next(model.attacked_batches(1))
    assert labels.sum() == 4 and decision.sum() == 2 and not (decision & ~labels).any()
    # The attack used the gate decision that the training step uses.
    assert seen and all(torch.equal(each, decision[4:]) for each in seen)
    model.attack_masked = 0
    model.lq, model.gt = model.lq[:4], model.gt[:4]
    labels, decision = next(model.attacked_batches(1))
    assert labels.sum() == 4 and not decision.any()


def test_warm_start(model, monkeypatch):
    model.attack_mode, model.warm_start, batch = 'paired', True, (model.lq, model.gt)
    starts = []
    perturb = model.attack.perturb
    monkeypatch.setattr(
        model.attack,
        'perturb',
        lambda *args, start, **more: [starts.append(start), perturb(*args, start=start, **more)][1],
    )
    next(model.attacked_batches(1))
    first = model.lq[4:] - batch[0]
    assert starts == [None] and torch.equal(model.perturbation, first)
    model.lq, model.gt = (torch.cat([part, part[:2]]) for part in batch)  # a batch of another size
    next(model.attacked_batches(2))
    assert torch.equal(starts[1], torch.cat([first, first[:2]]))
    model.lq, model.gt = batch[0][..., :12, :12], batch[1][..., :48, :48]
    next(model.attacked_batches(3))
    assert starts[2] is None


def test_pretrained_output_as_the_target(pairs, photos, tmp_path):
    opt = paired_options(pairs, photos=photos)
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    plain = build_network({'type': 'SRVGGNetCompact', **SMALL_NETWORKS['SRVGGNetCompact']})
    torch.save({'params': plain.state_dict()}, tmp_path / 'w.pth')
    opt['path'].update(pretrain_network_g=str(tmp_path / 'w.pth'))
    opt['train'].update(target='pretrained', start=dict(weights=str(tmp_path / 'w.pth'), key='params', strict=True))
    opt['attack']['mode'] = 'paired'
    model = DefendedSRModel(opt)
    lq = torch.rand(2, 3, 16, 16)
    for iteration in (1, 2):  # the target stays where it was when the network has moved on
        model.feed_data({'lq': lq, 'gt': torch.rand(2, 3, 64, 64)})
        model.optimize_parameters(iteration)
        with torch.no_grad():
            torch.testing.assert_close(model.gt, plain(lq).clamp(0, 1).repeat(2, 1, 1, 1))
    assert not torch.equal(model.net_g.body[0].weight, plain.body[0].weight)
    assert not any(parameter.requires_grad for parameter in model.start_net.parameters())


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


def test_moving_average_uses_the_same_gate_and_classifier(model):
    model.ema_decay = 0.5
    ema = model.net_g_ema
    assert ema.points == model.net_g.points and ema.defense.gate == model.net_g.defense.gate
    before = {name: p.clone() for name, p in ema.named_parameters()}
    trained = {name: p.detach().clone() for name, p in model.net_g.named_parameters()}
    model.attack_mode = 'mixed'
    model.optimize_parameters(1)
    model.optimize_parameters(2)
    moved = {name for name, p in ema.named_parameters() if not torch.equal(p, before[name])}
    assert {
        name for name in before if not torch.equal(trained[name], dict(model.net_g.named_parameters())[name])
    } == moved and any(name.startswith('defense.classifier') for name in moved)
    with ema.defense.forced(True), torch.no_grad():
        assert not torch.equal(ema(model.lq), ema(model.lq))  # masks are drawn


def test_attack_raises_the_loss_and_keeps_gradients(model):
    model.attack_mode = 'paired'
    ((labels, _),) = model.attacked_batches(1)
    assert all(p.grad is None for p in model.net_g.parameters())
    with torch.no_grad(), model.net_g.defense.forced(False):
        error = (model.net_g(model.lq) - model.gt).abs().flatten(1).mean(1)
    assert (error[labels] > error[~labels]).all()


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
