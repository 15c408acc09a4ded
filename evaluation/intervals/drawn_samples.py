"""The samples of all cases of an evaluation, and whether they vary as the truth does: ranks and evidence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ddpm.diffusion.sample_spread import independent
from ddpm.diffusion.training_spread import FEWEST_SAMPLES
from ddpm.latent.decoder_residual import with_residual
from evaluation.intervals.evidence import EvidenceMaps, kinds
from evaluation.metrics.regions import body_mask
from evaluation.statistics.evidence_reliability import evidence_reliability, reliability_sums
from evaluation.statistics.rank_histogram import rank_histogram, rank_shares


@dataclass(frozen=True)
class DrawnSamples:
    """Samples in HU of all cases.

    Attributes:
        pipeline: the generator that drew them.
        volumes: decoded samples.
        ids: of the cases.
        seed: of the noise.
        antithetic: as in `ddpm.diffusion.sample_spread`.
        maps: of evidence; None without.
    """

    pipeline: object
    volumes: Float[Tensor, "n s d h w"]
    ids: Sequence[str]
    seed: int
    antithetic: bool
    maps: EvidenceMaps | None = None

    def predictive(self, index: int) -> Float[Tensor, "s d h w"]:
        """Samples of a case with the decoder's residual, if the sampler includes it; one sample is a point forecast,
        without.
        """
        if self.volumes.shape[1] == 1:
            return self.volumes[index]
        return with_residual(self.pipeline, self.volumes[index][None], [self.ids[index]], self.seed)[0]

    @property
    def have_evidence(self) -> bool:
        """Whether there are samples enough for evidence maps, and the spread of training volumes."""
        return self.maps is not None and self.volumes.shape[1] >= FEWEST_SAMPLES

    def evidence(self, index: int) -> Float[Tensor, "d h w"] | None:
        """The evidence map of a case; None without."""
        if not self.have_evidence:
            return None
        return self.maps(self.predictive(index), self.antithetic)


def check_samples(drawn: DrawnSamples, cases: Iterable[dict], patients: np.ndarray) -> dict[str, dict | None]:
    """`rank_histogram` in the body, None without two independent samples, and `evidence_reliability`, None without
    evidence maps.
    """
    ranked, window = drawn.volumes.shape[1] >= (3 if drawn.antithetic else 2), drawn.pipeline.window
    shares, sums, maps = [], [], drawn.maps if drawn.have_evidence else None
    for index, case in enumerate(cases) if ranked or maps else ():
        hu, predictive = case["ct"].float(), drawn.predictive(index)
        truth, scanned = hu.clamp(window.low, window.high), case.get("scanned")
        if ranked:
            body = body_mask(hu) if scanned is None else body_mask(hu) & scanned
            shares.append(rank_shares(independent(predictive, drawn.antithetic), truth, body))
        if maps:
            found = maps(predictive, drawn.antithetic), maps.spread.variance(truth.shape).to(truth.device)
            sums.append(reliability_sums(*found, drawn.volumes[index], truth, drawn.antithetic, scanned))
    reliability = evidence_reliability(np.stack(sums), patients, seed=drawn.seed) if sums else None
    on = maps and {"training_cases": kinds(maps.spread), "calibrated_on": maps.curve and maps.curve.cases}
    return {
        "rank_histogram": rank_histogram(np.stack(shares), patients, seed=drawn.seed) if shares else None,
        "evidence_reliability": reliability and on | reliability,
    }
