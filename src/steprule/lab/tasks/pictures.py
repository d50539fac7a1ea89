"""Pictures as PNG files in memory."""

from __future__ import annotations

import io

import torch


def png(picture: torch.Tensor) -> bytes:
    """Return a picture of numbers in [0, 1], (height, width) or (height, width, 3), as a PNG of that size."""
    from PIL import Image  # imported here: most runs show nothing

    levels = (255 * picture.detach().double().clamp(0, 1)).round().to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def row(pictures: torch.Tensor, gap: int = 1) -> torch.Tensor:
    """Return pictures, grey or coloured, side by side on white."""
    count, height, width, *colours = pictures.shape
    wide = torch.ones(height + 2 * gap, count, width + 2 * gap, *colours)
    wide[gap:-gap, :, gap:-gap] = pictures.transpose(0, 1)
    return wide.flatten(1, 2)
