"""Training of CDC with losses on its component images."""

from __future__ import annotations

from typing import Any

from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class CDCModel(SRModel):
    """SRModel whose pixel loss gets all four output images of CDC; for ``pixel_opt: type: ComponentLoss``."""

    output: Any  # the components within the step, else the fused image

    def optimize_parameters(self, current_iter: int) -> None:
        """As SRModel, with the components as the output of the network."""
        net = self.get_bare_model(self.net_g)
        net.returns_components = True
        try:
            super().optimize_parameters(current_iter)
        finally:
            net.returns_components = False
        self.output = self.output.fused
