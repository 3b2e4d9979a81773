"""The classifier trained beside the network, and the moving average of both."""

import re

import torch
from basicsr.models.sr_model import SRModel

from helpers import paired_options, run_command, train, write
from rsr_basicsr.cli import main
from rsr_basicsr.models import DefendedSRModel, defend_model
from rsr_basicsr.weights.state_dict import load_state


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


def test_moving_average_uses_the_same_gate_and_classifier(model):
    model.ema_decay = 0.5
    ema = model.net_g_ema
    assert ema.mask_points == model.net_g.mask_points and ema.defense.gate == model.net_g.defense.gate
    before = {name: p.clone() for name, p in ema.named_parameters()}
    trained = {name: p.detach().clone() for name, p in model.net_g.named_parameters()}
    model.schedule.mode = 'mixed'
    model.optimize_parameters(1)
    model.optimize_parameters(2)
    moved = {name for name, p in ema.named_parameters() if not torch.equal(p, before[name])}
    assert {
        name for name in before if not torch.equal(trained[name], dict(model.net_g.named_parameters())[name])
    } == moved and any(name.startswith('defense.classifier') for name in moved)
    with ema.defense.forced(True), torch.no_grad():
        assert not torch.equal(ema(model.lq), ema(model.lq))  # masks are drawn
