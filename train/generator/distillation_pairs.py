"""What a student is distilled from: conditions of X-rays, noise, and the states of the teacher that belong to them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

import torch
from jaxtyping import Float
from torch import Tensor

from common.seeding import generator, normal
from dataset.cases.case_dataset import CaseDataset
from ddpm.conditioning.condition import Condition
from ddpm.conditioning.views import complete_views, draw_views, serves_fewer_views, without_views
from ddpm.pipeline import XrayToCTPipeline
from train.generator.distillation import States, follow

DRAWS = 2  # trajectories from independent noise of one X-ray, whose difference shows the spread of samples
CHECKED = 32  # trajectories on which the finished student is measured
EVERY_SECONDS = 60.0  # between two lines
STORED = torch.float16  # of conditions and states


@dataclass(frozen=True)
class Pairs:
    """Trajectories of the teacher; `DRAWS` neighbours have the same X-ray."""

    condition: Condition
    wanted: States
    seed: int  # of the noise
    first: int = 0  # position of the first one, which determines its noise

    def part(self, start: int, stop: int) -> "Pairs":
        """The trajectories at positions `start` to `stop`."""
        condition = Condition(*(field if field is None else field[start:stop] for field in self.condition))
        wanted = {t: states[start:stop] for t, states in self.wanted.items()}
        return Pairs(condition, wanted, self.seed, self.first + start)

    def __len__(self) -> int:
        return len(self.condition.embedding)

    def rows(self, index: Sequence[int], device: torch.device) -> tuple[Float[Tensor, "b c d h w"], Condition, States]:
        """Noise, condition and states at these positions, in float32."""
        rows = torch.as_tensor(index)
        wanted = {t: states[rows].to(device).float() for t, states in self.wanted.items()}
        shape = next(iter(wanted.values())).shape[1:]
        condition = Condition(*(part if part is None else part[rows].to(device) for part in self.condition))
        return draw_noise(shape, self.seed, (rows + self.first).tolist()).to(device), condition.float(), wanted


def draw_noise(shape: Sequence[int], seed: int, positions: Sequence[int]) -> Float[Tensor, "b c d h w"]:
    """The noise of the trajectories at these positions."""
    return torch.stack([normal(shape, (seed, position)) for position in positions])


def record_all(
    teacher: XrayToCTPipeline, timesteps: Sequence[int], cases: CaseDataset, count: int, seed: int, batch_size: int
) -> tuple[Pairs, Pairs]:
    """`count` trajectories to learn from, and `CHECKED` others; prints the progress, at most a line a minute."""
    total, parts, done, shown = count + CHECKED, [], 0, monotonic()
    for part in record_pairs(teacher, cases, timesteps, total, seed, batch_size):
        parts.append(part)
        done += len(part)
        if monotonic() - shown > EVERY_SECONDS or done >= total:
            shown = monotonic()
            print(f"trajectories of the teacher: {done} of {total}", flush=True)
    found, left = join_pairs(parts), -(-CHECKED // DRAWS) * DRAWS
    return found.part(0, len(found) - left), found.part(len(found) - left, len(found))


@torch.no_grad()
def record_pairs(
    teacher: XrayToCTPipeline, cases: CaseDataset, timesteps: Sequence[int], count: int, seed: int, batch_size: int
) -> Iterator[Pairs]:
    """Yields `count` trajectories, rounded up to `DRAWS` per X-ray, in parts; `join_pairs` makes one of them.

    X-rays are those of random cases, augmented as in training and with views dropped as in it. Only the states at
    `timesteps` are kept.
    """
    shape = teacher.latent_encoder.latent_shape(teacher.volume_size)
    xrays, device = -(-count // DRAWS), teacher.denoiser.device
    order = torch.randint(len(cases), (xrays,), generator=generator((seed, xrays))).tolist()
    together = max(1, batch_size // DRAWS)
    for first in range(0, xrays, together):
        numbers = range(first, min(first + together, xrays))
        read = [cases.condition(order[number], step=number) for number in numbers]
        xray, pose = complete_views(
            torch.stack([one["xray"].float() for one in read]),
            torch.stack([one["pose"] for one in read]),
            teacher.protocol,
        )
        if serves_fewer_views(teacher.protocol):  # the student, too, must know each choice of views
            share, views = teacher.protocol["view_drop"], xray.shape[1]
            xray = without_views(xray, torch.cat([draw_views(share, views, seed, [number], 0) for number in numbers]))
        extent = torch.stack([one["spacing"] for one in read]) * torch.tensor(teacher.volume_size)
        condition = teacher.condition(xray.to(device), pose, extent.float(), tuple(shape[1:]))
        condition = condition.rows(torch.arange(len(read), device=device).repeat_interleave(DRAWS))
        noise = draw_noise(shape, seed, range(first * DRAWS, numbers.stop * DRAWS)).to(device)
        states = follow(teacher, noise, condition)
        kept = {t: states[t].to("cpu", STORED) for t in timesteps}
        yield Pairs(Condition(*(part if part is None else part.to("cpu", STORED) for part in condition)), kept, seed)


def join_pairs(parts: Sequence[Pairs]) -> Pairs:
    """One set of the parts of `record_pairs`, in their order."""
    fields = zip(*(part.condition for part in parts), strict=True)
    condition = Condition(*(None if field[0] is None else torch.cat(field) for field in fields))
    return Pairs(condition, {t: torch.cat([part.wanted[t] for part in parts]) for t in parts[0].wanted}, parts[0].seed)
