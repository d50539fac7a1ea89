"""Pictures as PNG files in memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def png(picture: torch.Tensor) -> bytes:
    """Return a picture of numbers in [0, 1], (height, width) or (height, width, 3), as a PNG of that size."""
    # Imported here: matplotlib is slow to load, and most runs show nothing.
    from matplotlib import image

    buffer = io.BytesIO()
    bounded = picture.detach().double().clamp(0, 1).numpy()
    whole = np.repeat(bounded[..., None], 3, axis=2) if bounded.ndim == 2 else bounded
    image.imsave(buffer, whole, format="png")
    return buffer.getvalue()


def strip(pictures: torch.Tensor, gap: int = 1) -> torch.Tensor:
    """Return grey pictures, ink 1 on paper 0, side by side as ink on white."""
    from torch.nn.functional import pad

    return 1 - pad(pictures, (gap, gap, gap, gap)).transpose(0, 1).flatten(1)
