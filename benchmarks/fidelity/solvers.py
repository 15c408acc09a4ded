"""Quality of a sampler: error of one sample and of the mean, spread, spectra, seconds.

Samplers are compared on the same cases and on independent samples. A mean of n samples still carries 1/n of their
variance, which favours a sampler whose spread is too small; so the error of the mean is also given without that part,
as for the mean of infinitely many samples.
"""

from dataclasses import replace
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ddpm.diffusion.sample_spread import sample_variance
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.sample import Sampling, sample_volumes
from evaluation.metrics.regions import body_mask
from evaluation.metrics.spectra import gradient_magnitude as gradients
from evaluation.metrics.spectra import gradient_spectrum, noise_power_distance, noise_power_spectrum
from evaluation.metrics.voxel_error import psnr
from evaluation.statistics.patient_bootstrap import bootstrap_mean

RATIOS = ("spread", "gradient")
DISTANCES = ("gradient_spectrum", "noise_power_spectrum")
ERRORS = ("psnr_one", "psnr_mean", "psnr_mean_of_all")


def case_facts(samples: Float[Tensor, "s d h w"], case: dict, window) -> dict:
    """Numbers of one case: `ERRORS` in dB, `RATIOS` in HU and HU/mm inside the body, `DISTANCES`, the spectrum."""
    truth = case["ct"].float().clamp(window.low, window.high)
    spacing = tuple(float(s) for s in case["spacing"])
    body, width = body_mask(case["ct"].float()), window.width
    # `samplers.ways` draws independent samples
    variance = sample_variance(samples, antithetic=False) if len(samples) > 1 else torch.zeros_like(truth)
    error = (samples.mean(dim=0) - truth).square().mean() - variance.mean() / len(samples)
    spectrum = torch.stack([noise_power_spectrum(v, spacing, body)[1] for v in samples]).mean(dim=0)
    distance = torch.stack([noise_power_distance(v, truth, spacing, body) for v in samples])
    return {
        "psnr_one": float(psnr(samples, truth, width).mean()),
        "psnr_mean": float(psnr(samples.mean(dim=0), truth, width)),
        "psnr_mean_of_all": float(10.0 * torch.log10(width**2 / error.clamp_min(1.0))),
        "spread": float(variance[body].mean().sqrt()),
        "gradient": float(gradients(samples, spacing)[:, body].mean()),
        "gradient_spectrum": float(gradient_spectrum(samples, truth, spacing, body).mean()),
        "noise_power_spectrum": float(distance.mean()),
        "amplitude": spectrum.sqrt().tolist(),
    }


def measure(pipeline, cases, count: int, samples: int, batch_size: int, seed: int = 0) -> dict:
    """`{"cases": {id: case_facts}, "seconds": of a volume, **pipeline.describe()}` with the sampler that is set."""
    read = [cases.case(i) for i in range(count)]
    ids = [str(cases.rows.iloc[i]["id"]) for i in range(count)]
    nominal = torch.tensor(pipeline.extent).expand(count, 3)
    inputs = replace(ModelInputs.of_cases(read, pipeline), extents=nominal)
    sampling = Sampling(samples, seed, batch_size)
    found, spent, start = {}, 0.0, perf_counter()
    for part, volumes in sample_volumes(pipeline, inputs, ids, sampling):
        spent += perf_counter() - start
        for index, drawn in zip(part, volumes, strict=True):
            found[ids[index]] = case_facts(drawn, read[index], pipeline.window)
        start = perf_counter()
    kept = ("sampler", "step_spacing", "solver_options", "steps", "evaluations", "guidance_scale", "antithetic")
    described = {key: value for key, value in pipeline.describe().items() if key in kept}
    return {**described, "samples": samples, "seconds": round(spent / (count * samples), 4), "cases": found}


def summarise(way: dict) -> dict:
    """Means over cases with intervals over cases (`bootstrap_mean`), each of another patient."""
    ids = sorted(way["cases"])
    summary = {key: value for key, value in way.items() if key != "cases"}
    for name in (*ERRORS, *RATIOS, *DISTANCES):
        summary[name] = bootstrap_mean(np.array([way["cases"][i][name] for i in ids]), np.array(ids)).as_dict()
    return summary


def against(way: dict, reference: dict) -> dict:
    """One sampler against another on their common cases: differences in dB, ratios, amplitudes by frequency."""
    ids = sorted(set(way["cases"]) & set(reference["cases"]))

    def pairs(name: str) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.array([facts["cases"][i][name] for i in ids]) for facts in (way, reference))

    found: dict = {"cases": len(ids)}
    for name in ERRORS:
        found[name] = bootstrap_mean(np.subtract(*pairs(name)), np.array(ids)).as_dict()
    for name in RATIOS:
        estimate = bootstrap_mean(np.log(np.divide(*pairs(name))), np.array(ids)).as_dict()
        found[name] = {k: None if v is None else round(float(np.exp(v)), 6) for k, v in estimate.items()}
    ours, theirs = (amplitudes.mean(axis=0) for amplitudes in pairs("amplitude"))
    ratio = ours / theirs
    found["amplitude"] = {
        "mean": round(float(ratio.mean()), 4),
        "worst": round(float(ratio[np.abs(np.log(ratio)).argmax()]), 4),
        "by_frequency": [round(float(r), 4) for r in ratio],
    }
    return found
