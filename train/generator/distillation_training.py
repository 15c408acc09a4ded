"""Trains a student on the trajectories of its teacher, and goes on where a training stopped."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import Tensor

from common.errors import UserError
from common.seeding import generator
from ddpm.checkpoint.write import complete
from ddpm.pipeline import XrayToCTPipeline
from train.generator.distillation import END, follow, trajectory_loss
from train.generator.distillation_pairs import DRAWS, Pairs
from train.run.checkpoint_io import LAST, AtomicCheckpointIO

STAGE = "distill"  # of a checkpoint of a distillation
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


class Checkpoints:
    """Checkpoints of a distillation, `last.ckpt` and `previous.ckpt` in a folder, and the one that it resumes.

    Args:
        folder: of the checkpoints.
        every: batches from one to the next.
        teacher: SHA-256 of the teacher's file or folder.
        distilled: entry of the student's protocol, for messages.
        resumed: checkpoint to continue from; None begins with the first batch.

    Raises UserError if `resumed` belongs to another teacher.
    """

    def __init__(self, folder: Path, every: int, teacher: str, distilled: dict, resumed: Path | None = None):
        self.path, self.every, self.resumed = folder / LAST, every, resumed
        about = {"teacher": teacher, "distilled": json.loads(json.dumps(distilled))}
        self.header = complete({"stage": STAGE, "components": {}, "protocol": {}, **about})
        self.content = AtomicCheckpointIO().load_checkpoint(resumed) if resumed else None
        if self.content and self.content["header"]["teacher"] != teacher:
            name = self.content["header"]["distilled"]["teacher"]["file"]
            raise UserError(
                f"checkpoint: another teacher than that of model.resume={resumed}, which was {name}; give that one, "
                "or model.resume=null for a new distillation"
            )

    def restore(self, **parts) -> int:
        """Loads the states of the parts from the resumed checkpoint; returns the number of batches done."""
        if self.content is None:
            return 0
        for name, part in parts.items():
            part.load_state_dict(self.content[name])
        return self.content["batch"]

    def save(self, batch: int, **parts) -> None:
        """Writes the states of the parts after a batch; `state_dict` is the denoiser."""
        states = {name: part.state_dict() for name, part in parts.items()}
        AtomicCheckpointIO().save_checkpoint({"header": self.header, "batch": batch, **states}, self.path)


def learn(
    student: XrayToCTPipeline,
    pairs: Pairs,
    schedule: Schedule,
    report: Callable[[int, float], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Trains the student's denoiser; `report` gets the number of each batch, from 1, and its loss.

    With `checkpoints` it continues from the resumed one and writes others; the weights are those of a training without
    interruption. Raises UserError for a loss that is not finite, and for a checkpoint that cannot be written.
    """
    denoiser = student.denoiser.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(denoiser.parameters(), schedule.lr, betas=(0.9, 0.99), weight_decay=0.0)
    rates = get_cosine_schedule_with_warmup(optimizer, schedule.warmup, schedule.batches)
    parts = {"state_dict": denoiser, "optimizer": optimizer, "rates": rates}
    done = checkpoints.restore(**parts) if checkpoints is not None else 0
    for number, rows in enumerate(_order(len(pairs), schedule)[done:], start=done + 1):
        noise, condition, wanted = pairs.rows(rows, denoiser.device)
        loss = trajectory_loss(follow(student, noise, condition), wanted)
        if not torch.isfinite(loss):
            raise UserError(f"batch {number}: the loss is {loss:g}; lower lr={schedule.lr:g}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), GRADIENT_CLIP)
        optimizer.step()
        rates.step()
        if checkpoints is not None and (number % checkpoints.every == 0 or number == schedule.batches):
            checkpoints.save(number, **parts)
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
