"""What settings and warnings say of the agreement of samples with their X-ray."""

from types import SimpleNamespace

import pytest
import torch

from evaluation.generation.agreement import Agreement

PIPELINE = SimpleNamespace(
    consistency=SimpleNamespace(level=torch.tensor(1.0), limit=torch.tensor(4.0)), consistent=None
)
FILM = {"gain": [1.2], "azimuth": [0.5], "at_bound": []}


def test_an_xray_that_was_not_compared_has_no_agreement():
    result = SimpleNamespace(chi2=None, first_chi2=None, films=None)
    found = Agreement.of(result, 0)
    assert found == Agreement() and found.describe(PIPELINE) is None and found.warnings(PIPELINE) == []
    result = SimpleNamespace(
        chi2=torch.tensor([[float("nan")] * 2]), first_chi2=torch.tensor([float("nan")]), films=None
    )
    assert Agreement.of(result, 0) == Agreement()


def test_the_settings_hold_chi2_of_samples_and_of_true_volumes_and_the_film():
    result = SimpleNamespace(
        chi2=torch.tensor([[9.0, 9.0], [1.0, 1.5]]), first_chi2=torch.tensor([9.0, 3.0]), films=[None, FILM]
    )
    found = Agreement.of(result, 1)
    assert found.describe(PIPELINE) == {"chi2": 1.25, "chi2_of_true_volumes": 1.0, "film": FILM}
    assert found.first == 3.0 and found.warnings(PIPELINE) == []
    (line,) = Agreement.of(result, 0).warnings(PIPELINE)  # a known pose, above the limit of first predictions
    assert line.startswith("chi² 9.00 of the first prediction")


@pytest.mark.parametrize(
    ("samples", "bound", "said"),
    [(1.9, ["gain", "down"], ["ends at a bound of gain, down;"]), (2.1, [], ["chi² 2.10 of the samples, true"]),
     (2.1, ["gamma"], ["bound of gamma;", "chi² 2.10"])],
)  # fmt: skip
def test_a_film_that_nothing_within_bounds_fits_has_one_warning(samples, bound, said):
    (line,) = Agreement(None, samples, FILM | {"at_bound": bound}).warnings(PIPELINE)
    assert all(words in line for words in said) and "sampler.consistency=null" in line and "\n" not in line
