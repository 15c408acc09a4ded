"""Several trainings as one generator: their samples together also show how far trainings differ."""

from collections.abc import Sequence
from pathlib import Path

import torch

from common.errors import UserError
from common.files import sha256
from ddpm.pipeline import GeneratedCT, XrayToCTPipeline

DIFFER = ("latent_reconstruction",)  # keys of a protocol in which members may differ


class Ensemble:
    """Pipelines of the same data and latent size, called as one; everything else is that of the first.

    Samples are divided in turn: with antithetic noise a pair of samples comes from one member. Members have
    independent noise, which depends on seed, id, member and number of the sample alone.

    Args:
        members: pipelines on one device.
        paths: their files.

    Raises UserError for other data, latents or a file given twice.
    """

    def __init__(self, members: Sequence[XrayToCTPipeline], paths: Sequence[Path]):
        self.members, self.paths = list(members), list(paths)
        self._hashes = [sha256(path) if path.is_file() else str(path) for path in paths]
        for path, member, digest in zip(self.paths[1:], self.members[1:], self._hashes[1:], strict=True):
            if self._hashes.count(digest) > 1:
                raise UserError(f"checkpoint={path}: the same training twice; give trainings of different seeds")
            self._check(path, member)

    def __getattr__(self, name: str):
        if name == "members":  # not yet made, as while it is unpickled
            raise AttributeError(name)
        return getattr(self.members[0], name)

    def _check(self, path: Path, member: XrayToCTPipeline) -> None:
        first, other = self.members[0].protocol, member.protocol
        names = sorted((first.keys() | other.keys()) - set(DIFFER))
        if different := [name for name in names if first.get(name) != other.get(name)]:
            raise UserError(
                f"checkpoint={path}: trained on other data than {self.paths[0]}: {different[0]} is "
                f"{str(other.get(different[0]))[:80]}, there {str(first.get(different[0]))[:80]}; give trainings that "
                "differ in their seed alone"
            )
        sizes = [part.latent_encoder.latent_shape(part.volume_size) for part in (self.members[0], member)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"checkpoint={path}: latents of {list(sizes[1])}, those of {self.paths[0]} {list(sizes[0])}"
            )

    def set_sampler(self, **options) -> "Ensemble":
        """Sets the sampler of every member."""
        for member in self.members:
            member.set_sampler(**options)
        return self

    def describe(self) -> dict:
        """That of the first member, with the files of all as `ensemble`."""
        files = [{"file": str(p), "sha256": h} for p, h in zip(self.paths, self._hashes, strict=True)]
        return {**self.members[0].describe(), "ensemble": files}

    def member_of(self, number: int) -> tuple[int, int]:
        """Member of sample `number`, and the number of the sample among those of this member."""
        together = 2 if self.antithetic else 1
        turn, rest = divmod(number, together)
        return turn % len(self.members), turn // len(self.members) * together + rest

    def residual_of(self, number: int):
        """The decoder's residual of the member that draws sample `number`."""
        return self.members[self.member_of(number)[0]].residual

    def __call__(self, xray, pose=None, num_samples: int = 1, ids=None, progress=None, **options) -> GeneratedCT:
        """As `XrayToCTPipeline.__call__`; raises UserError for fewer samples than give each member one.

        `consistency` is that of the first member, so chi² of the first predictions and the grey scales of films are
        its own, and chi² of the samples of others is in units of its level.
        """
        places = [self.member_of(number) for number in range(num_samples)]
        counts = [sum(member == k for member, _ in places) for k in range(len(self.members))]
        if not all(counts):
            needed = (len(self.members) - 1) * (2 if self.antithetic else 1) + 1
            raise UserError(f"samples={num_samples}: {len(self.members)} trainings need at least {needed} samples")
        ids = [str(i) for i in range(len(xray))] if ids is None else ids
        drawn = []
        for k, (member, count) in enumerate(zip(self.members, counts, strict=True)):
            names = [f"{name} of training {k + 1}" if k else name for name in ids]
            advance = None if progress is None else _share(progress, k, len(counts))
            drawn.append(member(xray, pose, num_samples=count, ids=names, progress=advance, **options))

        def in_turn(parts):
            return torch.stack([parts[k][:, j] for k, j in places], dim=1)

        chi2, models = None, [member.consistency for member in self.members]
        if all(part.chi2 is not None for part in drawn) and None not in models:  # a guide alone compares nothing
            levels = [model.level for model in models]
            chi2 = in_turn([part.chi2 * float(levels[0] / level) for part, level in zip(drawn, levels, strict=True)])
        return GeneratedCT(
            in_turn([part.volumes for part in drawn]),
            chi2,
            drawn[0].first_chi2,
            drawn[0].films,
        )


def _share(progress, k: int, members: int):
    """The progress of member k as a part of that of all."""
    return lambda done, total: progress(k * total + done, members * total)
