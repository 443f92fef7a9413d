"""What training adds by chance: NEFTune's noise on embeddings (Jain et al. 2023, arXiv 2310.05914, Algorithm 1), and dropout."""

import torch
from torch import Tensor

from tutelage.encode.types import Segment


def noisy(embeddings: Tensor, segments: tuple[Segment, ...], alpha: float) -> Tensor:
    """[N, H] plus uniform noise in ± alpha / √(L · H), where L is the length of each token's own segment.

    Drawn in fp32 from torch's generator, which the loop seeds for each micro-batch.
    """
    lengths = torch.tensor([segment.stop - segment.start for segment in segments], device=embeddings.device)
    bounds = (
        alpha / (lengths.repeat_interleave(lengths, output_size=len(embeddings)).float() * embeddings.shape[1]).sqrt_()
    )
    drawn = torch.rand(embeddings.shape, dtype=torch.float32, device=embeddings.device)
    return embeddings + drawn.mul_(2).sub_(1).mul_(bounds[:, None]).to(embeddings.dtype)


def drop_(x: Tensor, mask: Tensor | None, share: float) -> Tensor | None:
    """Dropout of `x` in place by a mask, drawn where there is none yet: 0, or 1 / (1 - share). Returns the mask.

    Srivastava et al. 2014 (JMLR 15), §10; the same draws as torch's. None without dropout.
    """
    if not share:
        return None
    if mask is None:
        mask = drawn_(torch.empty_like(x), share)
    x.mul_(mask)
    return mask


def drawn_(mask: Tensor, share: float) -> Tensor:
    """Draw a mask in place: 0 for a share of the values, else 1 / (1 - share)."""
    return mask.bernoulli_(1 - share).div_(1 - share)
