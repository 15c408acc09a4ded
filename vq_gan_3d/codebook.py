"""Vector quantisation with an exponential-moving-average codebook whose memory does not grow with codes × voxels.

Van den Oord et al., "Neural Discrete Representation Learning" (2017), appendix A.1 for the EMA update; dead codes are
restarted from the batch as in Dhariwal et al., "Jukebox" (2020).
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

SCORES_PER_CHUNK = 4_194_304  # 16 MB of float32: stays near the cache; more is slower and buys nothing


class Quantised(NamedTuple):
    """What the codebook returns."""

    latents: Float[Tensor, "b c d h w"]  # codes in place of vectors; the gradient passes straight through
    indices: Int[Tensor, "b d h w"]
    commitment: Float[Tensor, ""]  # mean squared distance of the vectors to their codes


class Codebook(nn.Module):
    """`n_codes` vectors of `embedding_dim` numbers; every state is a buffer, so a resumed run goes on where it stood.

    Args:
        decay: of the moving averages.
        restart_below: a code whose average count falls below this is put on a vector of the batch.
        epsilon: Laplace smoothing of the counts.
    """

    def __init__(
        self,
        n_codes: int,
        embedding_dim: int,
        decay: float = 0.99,
        restart_below: float = 0.05,
        epsilon: float = 1e-5,
    ):
        super().__init__()
        self.n_codes, self.embedding_dim = n_codes, embedding_dim
        self.decay, self.restart_below, self.epsilon = decay, restart_below, epsilon
        self.register_buffer("codes", torch.randn(n_codes, embedding_dim))
        self.register_buffer("average_count", torch.ones(n_codes))
        self.register_buffer("average_sum", self.codes.clone())
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))  # 0: not yet initialised from data

    def forward(self, latents: Float[Tensor, "b c d h w"]) -> Quantised:
        """Replaces every vector by its nearest code (Euclidean); in training mode the codebook follows the vectors."""
        with torch.autocast(latents.device.type, enabled=False):
            flat = latents.float().movedim(1, -1).reshape(-1, self.embedding_dim)
            if self.training and self.updates == 0:
                self._initialise(flat.detach())
            indices = self.nearest(flat.detach())
            # the codes as they were when the vectors were assigned: the update below moves them
            quantised = F.embedding(indices, self.codes)
            if self.training:
                self._update(flat.detach(), indices)
            commitment = F.mse_loss(flat, quantised)
            straight_through = flat + (quantised - flat).detach()
        shape = latents.shape[0], *latents.shape[2:]
        return Quantised(
            straight_through.reshape(*shape, -1).movedim(-1, 1).to(latents.dtype), indices.reshape(shape), commitment
        )

    @torch.no_grad()
    def nearest(self, flat: Float[Tensor, "n c"]) -> Int[Tensor, " n"]:
        """Index of the nearest code of each vector, in chunks: |x - e|² is least where x·e - |e|²/2 is greatest."""
        half_norm = self.codes.square().sum(dim=1).mul_(-0.5)
        rows = max(1, SCORES_PER_CHUNK // self.n_codes)
        table = self.codes.t().contiguous()
        # one buffer for all chunks: fresh ones can fragment the heap up to the size of the whole matrix
        scores = flat.new_empty(min(rows, len(flat)), self.n_codes)
        indices = torch.empty(len(flat), dtype=torch.long, device=flat.device)
        for chunk, found in zip(flat.split(rows), indices.split(rows), strict=True):
            part = scores[: len(chunk)]
            torch.addmm(half_norm, chunk, table, out=part)
            torch.argmax(part, dim=1, out=found)
        return indices

    def lookup(self, indices: Int[Tensor, "b d h w"]) -> Float[Tensor, "b c d h w"]:
        """The codes of `indices`."""
        return F.embedding(indices, self.codes).movedim(-1, 1)

    @torch.no_grad()
    def _initialise(self, flat: Tensor) -> None:
        """Codes start on vectors of the first batch: a random start leaves most of them far from any data."""
        self.codes.copy_(self._draw(flat, self.n_codes))
        self.average_sum.copy_(self.codes)
        self.average_count.fill_(1.0)

    @torch.no_grad()
    def _update(self, flat: Tensor, indices: Tensor) -> None:
        count = torch.bincount(indices, minlength=self.n_codes).to(flat.dtype)
        total = torch.zeros_like(self.average_sum).index_add_(0, indices, flat)
        if _rank_and_world()[1] > 1:
            dist.all_reduce(count)
            dist.all_reduce(total)
        self.average_count.lerp_(count, 1.0 - self.decay)
        self.average_sum.lerp_(total, 1.0 - self.decay)
        n = self.average_count.sum()
        smoothed = (self.average_count + self.epsilon) * (n / (n + self.n_codes * self.epsilon))
        self.codes.copy_(self.average_sum / smoothed.unsqueeze(1))
        self._restart_dead(flat)
        self.updates += 1

    def _restart_dead(self, flat: Tensor) -> None:
        dead = self.average_count < self.restart_below
        fresh = self._draw(flat, self.n_codes)
        self.codes.copy_(torch.where(dead.unsqueeze(1), fresh, self.codes))
        self.average_sum.copy_(torch.where(dead.unsqueeze(1), fresh, self.average_sum))
        self.average_count.copy_(torch.where(dead, torch.ones_like(self.average_count), self.average_count))

    def _draw(self, flat: Tensor, n: int) -> Float[Tensor, "n c"]:
        """Vectors of the batch of all processes, jittered so that copies part.

        The choice depends on the update count alone: a resumed run draws the same, and so do several processes, which
        hold the rows of one process in the order of their ranks, equally many each.
        """
        rank, world = _rank_and_world()
        generator = torch.Generator().manual_seed(int(self.updates))
        choice = torch.randint(world * len(flat), (n,), generator=generator).to(flat.device)
        jitter = torch.randn((n, flat.shape[1]), generator=generator).to(flat) * 0.01 * _std(flat)
        if world == 1:
            return flat[choice] + jitter
        own = choice // len(flat) == rank
        fresh = torch.where(own.unsqueeze(1), flat[choice % len(flat)], 0.0)
        dist.all_reduce(fresh)  # each row comes from one process, the others add zeros
        return fresh + jitter


def perplexity(indices: Int[Tensor, "*n"], n_codes: int) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """`exp` of the entropy of the codes used (1 = collapsed, `n_codes` = all alike), and the share of codes used.

    Of the indices of all processes, so that all draw the same conclusion.
    """
    share = torch.bincount(indices.flatten(), minlength=n_codes).float()
    if _rank_and_world()[1] > 1:
        dist.all_reduce(share)
    share = share / share.sum()
    return torch.exp(-torch.xlogy(share, share).sum()), (share > 0).float().mean()


def _rank_and_world() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _std(flat: Tensor) -> Float[Tensor, ""]:
    """Deviation of all numbers of all processes."""
    if _rank_and_world()[1] == 1:
        return flat.std()
    numbers = flat.double()
    sums = torch.stack([numbers.new_tensor(flat.numel()), numbers.sum(), numbers.square().sum()])
    dist.all_reduce(sums)
    count, total, squares = sums
    return ((squares - total.square() / count) / (count - 1)).clamp_min(0.0).sqrt().to(flat.dtype)
