"""Images that do not fit into a GPU whole are attacked in tiles."""

import copy

import pytest
import torch
from torch import nn

from rsr_basicsr.attacks import IFGSM, PGD, fitting
from rsr_basicsr.attacks.fitting import attack_that_fits


class Limited(nn.Module):
    """Runs out of memory, as a GPU does, on images of more than some pixels."""

    def __init__(self, net, pixels):
        super().__init__()
        self.net, self.pixels, self.refused = net, pixels, 0

    def forward(self, x):
        if x.shape[-1] * x.shape[-2] > self.pixels:
            self.refused += 1
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9.00 GiB')
        return self.net(x)


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


@pytest.fixture
def net(real_network):
    return copy.deepcopy(real_network)


def test_image_that_does_not_fit_is_attacked_in_tiles(net, photo, monkeypatch, caplog):
    lq, limited = photo[..., :48, :56], Limited(net, 50 * 50)
    monkeypatch.setattr(fitting, 'free_bytes', lambda device: 2**24)
    attack = PGD(steps=2, objective='ground_truth')
    target = torch.zeros(1, 3, 192, 224)
    torch.manual_seed(3)
    found = attack_that_fits(attack, limited, lq, target)
    assert limited.refused == 1
    torch.manual_seed(3)  # the attempt that failed has drawn numbers, too
    assert torch.equal(found, attack.but(memory=0.8 / 64)(net, lq, target))
    assert 'an image of 56x48 does not fit into the GPU whole' in caplog.text


@pytest.mark.parametrize('attack', [IFGSM(tile=64), IFGSM(memory=4.0)], ids=str)
def test_tiles_of_the_user_are_kept(attack, photo, monkeypatch):
    monkeypatch.setattr(fitting, 'free_bytes', lambda device: 2**24)
    with pytest.raises(torch.OutOfMemoryError):
        attack_that_fits(attack, Limited(nn.Identity(), 1), photo[..., :8, :8])


def test_other_errors_pass(photo):
    with pytest.raises(torch.OutOfMemoryError):  # on a CPU nothing says what is free
        attack_that_fits(IFGSM(), Limited(nn.Identity(), 1), photo[..., :8, :8])
    with pytest.raises(ValueError, match='no gradient'):
        attack_that_fits(IFGSM(), Detached(), photo[..., :8, :8])
