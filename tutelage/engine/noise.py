"""What training adds by chance: NEFTune's noise on embeddings (Jain et al. 2023, arXiv 2310.05914, Algorithm 1), and dropout."""

import torch
from torch import Tensor

from tutelage.encode.types import Segment

STEPS = 1 << 16


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

    Srivastava et al. 2014 (JMLR 15), §10. None without dropout.
    """
    if not share:
        return None
    if mask is None:
        mask = drawn_(torch.empty_like(x), share)
    x.mul_(mask)
    return mask


def dropped(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` with dropout by a mask, where there is one."""
    return x if mask is None else x * mask


def drawn_(mask: Tensor, share: float) -> Tensor:
    """Draw a mask in place: 0 for a share of the values, in steps of 2^-16, else 1 / (1 - share)."""
    steps = round(share * STEPS)
    return mask.copy_(stays(mask.numel(), steps, mask.device).view(mask.shape)).div_(1 - steps / STEPS)


def stays(count: int, steps: int, device: torch.device) -> Tensor:
    """[count] bool, drawn: True but for a share of `steps` / 2^16 of them.

    Four of each number of torch's generator; its `bernoulli_` takes one for each, and seven times as long.
    """
    numbers = torch.empty(-(-count // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    return numbers.view(torch.int16)[:count] >= steps - STEPS // 2
