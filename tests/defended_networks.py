"""Small defended networks of every backbone, and one whose output can be written out."""

from basicsr.archs import build_network
from basicsr.archs.edsr_arch import EDSR
from basicsr.archs.rcan_arch import RCAN
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.archs.swinir_arch import SwinIR
from torch import nn

from rsr_basicsr.archs.frequency_mask_arch import repeatable_mask
from rsr_basicsr.ops.frequency import dct2, idct2

BACKBONES = {
    RRDBNet: dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1, num_grow_ch=4),
    SRVGGNetCompact: dict(num_feat=8, num_conv=2),
    MSRResNet: dict(num_feat=8, num_block=2),
    EDSR: dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1),
    RCAN: dict(num_in_ch=3, num_out_ch=3, num_feat=8, num_group=1, num_block=1, squeeze_factor=2),
    SwinIR: dict(
        img_size=12, window_size=4, depths=(1,), embed_dim=8, num_heads=(1,), upscale=4, upsampler='pixelshuffle'
    ),
}
SMALL_CDC = dict(num_feat=4, num_hourglass=2)
BACKBONE_IDS = [cls.__name__ for cls in BACKBONES]


def build(cls, **defense):
    options = BACKBONES.get(cls, SMALL_CDC)
    return build_network({'type': f'Defended{cls.__name__}', **options, 'defense': defense}).eval()


class Identity(nn.Module):
    """Identity backbone, so that the output of the defence can be written out."""

    def forward(self, x):
        return x


def masked_identity(x, place=0, seed=0):
    return idct2(dct2(x) * repeatable_mask((0.43, 0.5), seed, place, *x.shape[-2:], x.device))


def threshold_between(net, x):
    """A threshold that flags some of the images and not others."""
    return net.defense.classifier.clean_probability(x).sort().values[1:3].mean().item()
