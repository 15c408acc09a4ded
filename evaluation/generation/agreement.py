"""How well the samples of an X-ray agree with it, for settings and warnings (`ddpm.consistency`)."""

import math
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ddpm.pipeline import GeneratedCT
from evaluation.generation.xray_warnings import contradiction

MAX_CHI2 = 2.0  # of samples that were updated towards a film, in units of that of true volumes


class Agreement(NamedTuple):
    """Chi² per pixel against one X-ray; None where nothing was compared.

    Attributes:
        first: of the mean of the network's first predictions, which no update has changed.
        samples: mean over the samples, after their updates.
        film: grey scale and displacement by which an X-ray of unknown pose was compared (`XrayCorrection.films`).
    """

    first: float | None = None
    samples: float | None = None
    film: dict | None = None

    @classmethod
    def of(cls, result: GeneratedCT, row: int) -> "Agreement":
        """That of the X-ray at position `row` of a call of the pipeline."""
        samples = None if result.chi2 is None else _known(result.chi2[row].mean())
        first = None if result.first_chi2 is None else _known(result.first_chi2[row])
        return cls(first, samples, None if result.films is None else result.films[row])

    def describe(self, pipeline) -> dict | None:
        """For the settings of a volume; None where its samples were not updated towards the X-ray."""
        if self.samples is None:
            return None
        chi2 = {"chi2": round(self.samples, 3), "chi2_of_true_volumes": round(float(pipeline.consistency.level), 3)}
        return chi2 | ({} if self.film is None else {"film": self.film})

    def warnings(self, pipeline) -> list[str]:
        """Of an X-ray that contradicts the network, and of a film that no grey scale and pose within bounds fits."""
        line, found = contradiction(self.first, pipeline), []
        if self.film is not None and self.film["at_bound"]:
            found.append(
                f"the search for its grey scale and pose ends at a bound of {', '.join(self.film['at_bound'])}"
            )
        if self.film is not None and self.samples is not None:
            level = float(pipeline.consistency.level)
            if self.samples > MAX_CHI2 * level:
                found.append(f"chi² {self.samples:.2f} of the samples, true volumes have {level:.2f}")
        if found:
            remedy = "the volume may follow what is no anatomy; set sampler.consistency=null, which leaves films alone"
            return [*([] if line is None else [line]), f"the X-ray does not fit: {'; '.join(found)}; {remedy}"]
        return [] if line is None else [line]


def _known(value: Float[Tensor, ""]) -> float | None:
    """The value, None for NaN."""
    return None if math.isnan(float(value)) else float(value)
