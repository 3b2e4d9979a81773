"""Which precisions a device computes in."""

from __future__ import annotations

import torch


def emulates_bf16(device: torch.device) -> bool:
    """Whether a GPU has no arithmetic in bf16: torch then emulates it, at a multiple of the cost of float32."""
    if device.type != 'cuda':
        return False
    with torch.cuda.device(device):
        return not torch.cuda.is_bf16_supported(including_emulation=False)
