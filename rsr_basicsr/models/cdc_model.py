"""Training of CDC on its component images."""

from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class CDCModel(SRModel):
    """SRModel whose pixel loss sees all four images of CDC: ``pixel_opt: type: ComponentLoss``."""

    def optimize_parameters(self, current_iter):
        net = self.get_bare_model(self.net_g)
        net.returns_components = True
        try:
            super().optimize_parameters(current_iter)
        finally:
            net.returns_components = False
        self.output = self.output.fused
