"""Fixtures for tests of architectures."""

import pytest
from defended_networks import BACKBONE_IDS, BACKBONES


@pytest.fixture(params=BACKBONES, ids=BACKBONE_IDS)
def backbone(request):
    return request.param
