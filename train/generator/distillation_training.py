"""Trains a student on the trajectories of its teacher."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import Tensor

from common.errors import UserError
from common.seeding import generator
from ddpm.pipeline import XrayToCTPipeline
from train.generator.distillation import END, follow, trajectory_loss
from train.generator.distillation_pairs import DRAWS, Pairs

ORDER = 1 << 40  # seeds the order of the pairs; above any position of their noise
GRADIENT_CLIP = 1.0


@dataclass(frozen=True)
class Schedule:
    """Length, batch size and learning rate (AdamW: linear warm-up, then a cosine to zero) of a distillation."""

    batches: int
    batch_size: int = 4
    lr: float = 1.5e-4
    warmup: int = 50
    seed: int = 0


def learn(
    student: XrayToCTPipeline, pairs: Pairs, schedule: Schedule, report: Callable[[int, float], None] | None = None
) -> None:
    """Trains the student's denoiser; `report` gets the number of each batch, from 1, and its loss.

    Raises UserError for a loss that is not finite.
    """
    denoiser = student.denoiser.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(denoiser.parameters(), schedule.lr, betas=(0.9, 0.99), weight_decay=0.0)
    rates = get_cosine_schedule_with_warmup(optimizer, schedule.warmup, schedule.batches)
    for number, rows in enumerate(_order(len(pairs), schedule), start=1):
        noise, condition, wanted = pairs.rows(rows, denoiser.device)
        loss = trajectory_loss(follow(student, noise, condition), wanted)
        if not torch.isfinite(loss):
            raise UserError(f"batch {number}: the loss is {loss:g}; lower lr={schedule.lr:g}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), GRADIENT_CLIP)
        optimizer.step()
        rates.step()
        if report is not None:
            report(number, float(loss.detach()))
    denoiser.requires_grad_(False).eval()


def print_progress(schedule: Schedule) -> Callable[[int, float], None]:
    """A `report` that prints the mean loss since the last line, 20 lines in all."""
    losses: list[float] = []

    def report(number: int, loss: float) -> None:
        losses.append(loss)
        if number % max(1, schedule.batches // 20) == 0:
            print(f"batch {number} of {schedule.batches}: loss {sum(losses) / len(losses):.4f}", flush=True)
            losses.clear()

    return report


def _order(count: int, schedule: Schedule) -> list[list[int]]:
    """Rows of every batch: one random pass over all pairs after another."""
    rng, size, rows = generator((schedule.seed, ORDER)), schedule.batch_size, []
    while len(rows) < schedule.batches * size:
        rows += torch.randperm(count, generator=rng).tolist()
    return [rows[i * size : (i + 1) * size] for i in range(schedule.batches)]


@torch.no_grad()
def distance_to_teacher(student: XrayToCTPipeline, pairs: Pairs, batch_size: int) -> dict[str, float]:
    """How near the student's samples are to those of its teacher from the same noise.

    Returns `error`, their mean squared difference as a share of the variance of the teacher's samples of one X-ray,
    and `spread`, the student's standard deviation of samples of one X-ray over that of the teacher.
    """
    found, wanted = [], []
    size = max(1, batch_size // DRAWS) * DRAWS
    for first in range(0, len(pairs), size):
        noise, condition, states = pairs.rows(range(first, min(first + size, len(pairs))), student.denoiser.device)
        found.append(follow(student, noise, condition)[END])
        wanted.append(states[END])
    ours, theirs = torch.cat(found), torch.cat(wanted)
    variance = _variance(theirs)
    return {
        "error": float((ours - theirs).square().mean() / variance),
        "spread": float((_variance(ours) / variance).sqrt()),
    }


def _variance(samples: Tensor) -> Tensor:
    """Variance of samples of one X-ray, of which each has `DRAWS` = 2 neighbours with independent noise."""
    return (samples[0::DRAWS] - samples[1::DRAWS]).square().mean() / 2.0
