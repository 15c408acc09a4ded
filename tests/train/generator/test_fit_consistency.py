"""The projection consistency of a small model, fitted to phantoms whose X-rays it was not trained on."""

import pytest
import torch
from ddpm_parts import module

from common.errors import UserError
from dataset.sources.phantom import PhantomSource, Population
from dataset.sources.settings import Geometry, Xrays
from train.generator.fit_consistency import fit_consistency, why_no_consistency
from train.generator.fit_missing import missing_parts


class Cases:
    """Phantoms at 32³, as a data set gives them."""

    def __init__(self, count: int, pipeline):
        source = PhantomSource(
            Population(train=count, val=1, test=1), Geometry(volume_size=(32, 32, 32)), Xrays((64, 64))
        )
        self.rows, self.items = source.rows.head(count), []
        for row in source.rows.head(count).to_dict("records"):
            case = source.build(row)
            item = {"ct": pipeline.window.normalise(case["ct"].float())[None], "xray": case["xray"].float()[:, None]}
            self.items.append(item | {"pose": case["pose"], "spacing": case["spacing"], "id": row["id"]})

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    condition = __getitem__


@pytest.fixture(scope="module")
def pipeline():
    made = module().pipeline()
    protocol = {**made.protocol, "dataset": "phantom", "xrays": "rendered", "views": 1}
    made.register_to_config(protocol=protocol)
    return made


def test_true_latents_have_a_smaller_chi2_than_predictions_of_an_untrained_network(pipeline):
    cases = Cases(12, pipeline)
    part = fit_consistency(pipeline, cases, torch.device("cpu"))
    assert part.config.factors == (4, 4, 4) and 0.3 < float(part.level) < float(part.limit)
    item = cases[0]
    measurement = part.measurement(item["xray"], item["pose"], 32.0 * item["spacing"])
    true = pipeline.latent_encoder.encode(item["ct"][None])
    assert measurement.chi2(true) < measurement.chi2(torch.zeros_like(true))
    cases.rows = cases.rows.assign(patient="one")
    with pytest.raises(
        UserError, match="12 training cases of 1 patients: with a patient left out .* there are 0; add patients"
    ):
        fit_consistency(pipeline, cases, torch.device("cpu"))


def test_a_model_without_forward_model_gets_none(pipeline):
    assert why_no_consistency(pipeline) is None and "consistency" in missing_parts(pipeline, None)
    films = module().pipeline()
    assert "do not state how their X-rays came about" in why_no_consistency(films)
    assert missing_parts(films, None) == ["decoder_residual", "training_spread"]
    with pytest.raises(UserError, match=r"parts=\[consistency\]: not for this model"):
        fit_consistency(films, [], torch.device("cpu"))


def test_too_few_cases_are_refused(pipeline):
    with pytest.raises(
        UserError, match="3 training cases of 3 patients: .* needs 8 of known pose, there are 2; add patients"
    ):
        fit_consistency(pipeline, Cases(3, pipeline), torch.device("cpu"))
