"""NEFTune: uniform noise on the embeddings that training reads (Jain et al. 2023, arXiv 2310.05914, Algorithm 1)."""

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
