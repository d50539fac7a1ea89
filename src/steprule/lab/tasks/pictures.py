"""Pictures as PNG files in memory."""

from __future__ import annotations

import io

import torch
from torch.nn.functional import pad


def png(picture: torch.Tensor) -> bytes:
    """Return a picture of numbers in [0, 1], (height, width) or (height, width, 3), as a PNG of that size."""
    from PIL import Image  # imported here: most runs show nothing

    levels = (255 * picture.detach().double().clamp(0, 1)).round().to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def strip(pictures: torch.Tensor, gap: int = 1) -> torch.Tensor:
    """Return grey pictures, ink 1 on paper 0, side by side as ink on white."""
    return 1 - pad(pictures, (gap, gap, gap, gap)).transpose(0, 1).flatten(1)
