"""Vector quantisation with an exponential-moving-average codebook, in chunks of bounded memory.

"Neural Discrete Representation Learning" (arXiv:1711.00937), appendix A.1 for the EMA update; Dhariwal et
al., "Jukebox" (2020) for the restart of dead codes.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

SCORES_PER_CHUNK = 4_194_304  # 16 MB of float32; larger chunks leave the cache and are slower


class Quantised(NamedTuple):
    """Output of `Codebook`."""

    latents: Float[Tensor, "b c d h w"]  # codes in place of vectors, with a straight-through gradient
    indices: Int[Tensor, "b d h w"]
    commitment: Float[Tensor, ""]  # mean squared distance of the known vectors to their codes


class Codebook(nn.Module):
    """`n_codes` vectors of `embedding_dim` numbers with moving averages of `decay`, all in buffers.

    A vector of the batch replaces a code whose average count is less than `restart_below`; `epsilon` is the Laplace
    smoothing of the counts.
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

    def forward(self, latents: Float[Tensor, "b c d h w"], known: Bool[Tensor, "b d h w"] | None = None) -> Quantised:
        """Replaces every vector by its nearest code (Euclidean); in training mode updates the codes.

        Vectors that are not `known` have no part in the commitment and the codes; None: all are known.
        """
        rows = slice(None) if known is None else known.flatten()
        with torch.autocast(latents.device.type, enabled=False):
            flat = latents.float().movedim(1, -1).reshape(-1, self.embedding_dim)
            learned = flat.detach()[rows]
            learning = self.training and sum(_counts(learned)) > 0
            if learning and self.updates == 0:  # random codes would be far from any data
                self.codes.copy_(self._draw(learned))
                self.average_sum.copy_(self.codes)
                self.average_count.fill_(1.0)
            indices = self.nearest(flat.detach())
            quantised = F.embedding(indices, self.codes)  # before the update changes the codes
            if learning:
                self._update(learned, indices[rows])
            commitment = F.mse_loss(flat[rows], quantised[rows]) if len(learned) else flat.new_zeros(())
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
        # one buffer for all chunks: new ones can fragment the heap up to the size of the whole matrix
        scores = flat.new_empty(min(rows, len(flat)), self.n_codes)
        indices = torch.empty(len(flat), dtype=torch.long, device=flat.device)
        for chunk, found in zip(flat.split(rows), indices.split(rows), strict=True):
            part = scores[: len(chunk)]
            torch.addmm(half_norm, chunk, table, out=part)
            torch.argmax(part, dim=1, out=found)
        return indices

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
        dead, drawn = self.average_count < self.restart_below, self._draw(flat)
        for table in (self.codes, self.average_sum):
            table.copy_(torch.where(dead.unsqueeze(1), drawn, table))
        self.average_count.masked_fill_(dead, 1.0)
        self.updates += 1

    def _draw(self, flat: Tensor) -> Float[Tensor, "n c"]:
        """`n_codes` vectors of the batch of all processes, with jitter that separates copies.

        The choice depends only on the update count and is the same for one process or several, which hold the rows in
        the order of their ranks.
        """
        rank, world = _rank_and_world()
        counts, generator = _counts(flat), torch.Generator().manual_seed(int(self.updates))
        choice = torch.randint(sum(counts), (self.n_codes,), generator=generator).to(flat.device)
        jitter = torch.randn((self.n_codes, flat.shape[1]), generator=generator).to(flat) * 0.01 * _std(flat)
        if world == 1:
            return flat[choice] + jitter
        choice = choice - sum(counts[:rank])
        own, drawn = (choice >= 0) & (choice < len(flat)), torch.zeros_like(jitter)
        drawn[own] = flat[choice[own]]
        dist.all_reduce(drawn)  # each row comes from one process, the others add zeros
        return drawn + jitter


def perplexity(indices: Int[Tensor, "*n"], n_codes: int) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """`exp` of the entropy of the codes used (1 = collapsed, `n_codes` = uniform), and the share of codes used, over
    all processes.
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


def _counts(flat: Tensor) -> list[int]:
    """Number of rows of each process."""
    rank, world = _rank_and_world()
    if world == 1:
        return [len(flat)]
    counts = torch.zeros(world, dtype=torch.long, device=flat.device)
    counts[rank] = len(flat)
    dist.all_reduce(counts)
    return counts.tolist()


def _std(flat: Tensor) -> Float[Tensor, ""]:
    """Standard deviation of all numbers of all processes."""
    if _rank_and_world()[1] == 1:
        return flat.std()
    numbers = flat.double()
    sums = torch.stack([numbers.new_tensor(flat.numel()), numbers.sum(), numbers.square().sum()])
    dist.all_reduce(sums)
    count, total, squares = sums
    return ((squares - total.square() / count) / (count - 1)).clamp_min(0.0).sqrt().to(flat.dtype)
