"""The model card of an export: data, protocol, metrics, inherited licences and limitations."""

import json
from pathlib import Path

from common.files import sha256
from ddpm.conditioning.views import serves_fewer_views
from evaluation.metrics.catalogue import catalogue
from evaluation.statistics.patient_bootstrap import without_few
from evaluation.visualization.text import markdown_table

SHOWN = (
    "window",
    "volume_size",
    "extent",
    "xray_size",
    "views",
    "view_drop",
    "resampling",
    "align",
    "xray_sources",
    "split",
)
INHERITED = ("part", "from", "licence")
SEEN = "It holds short hashes of the ids of its training patients, which do not anonymise a known id."
LIMITS = """\
- Every volume is synthetic and not for diagnosis. It is one of many volumes that fit the X-ray, and does not show what
  an X-ray does not show, such as iodine in vessels, a small nodule or a small embolus.
- The spacing of a volume from a radiograph is nominal, because a radiograph does not show how large its patient is.
- X-rays unlike those of training (children, laterals, devices, other scanners) give volumes that look plausible and
  are wrong. Where several samples differ the volume is uncertain; where they agree they may still be wrong.
- One sample and the mean of several are different estimators, which must not be compared with each other.
- It was not tested as a medical device."""
HERE = "<this folder>"
TWO_VIEWS = """\
It takes a frontal X-ray alone, or a frontal and a lateral: `xray='"pa.png;lateral.png"'` as a command,
`("pa.png", "lateral.png")` in Python. A tensor of both views has NaN in place of a missing one."""
BOTH_VIEWS = """\
It takes a frontal X-ray and a lateral, always both: `xray='"pa.png;lateral.png"'` as a command, `("pa.png",
"lateral.png")` in Python."""
LIBRARIES = {"monai": "monai", "torch_export": "pytorch"}  # diffusers otherwise
USE = {
    "diffusers": """\
After `pip install <clone of xray2ct>`, from any folder:
```python
import xray2ct

pipe = xray2ct.from_pretrained("<this folder>")
result = pipe("film.png", num_samples=4, seed=0)  # reads, checks and aligns the X-ray
result.volumes  # HU, (4, D, H, W)
result.save("film_ct")
```
The same by diffusers, which runs the two imports of `pipeline.py`: `DiffusionPipeline.from_pretrained("<this folder>",
custom_pipeline="<this folder>", trust_remote_code=True)`. Another sampler: `pipe.set_sampler(
"DPMSolverMultistepScheduler", 20)`. As a command: `xray2ct-generate xray=film.png
checkpoint=<this folder>`.""",
    "monai": """\
After `pip install <clone of xray2ct>` and `pip install fire`, from any folder (a bundle's config is executed: run one
only if you trust its source):
```
python -m monai.bundle run --config_file <this folder>/configs/inference.json --bundle_root <this folder> \\
  --xray film.png --output_dir out
```
As a network in Python:
```python
import monai.bundle

network = monai.bundle.load("<name of this folder>", bundle_dir="<folder above it>", workflow_type="inference")
volume = network(xray)  # (b, 1, h, w) in [0, 1] to HU (b, 1, D, H, W)
```""",
    "torch_export": """\
With torch and diffusers alone, on a CPU, from this folder:
```python
import json
import torch
from diffusers import {sampler}

torch.set_grad_enabled(False)
names = ("xray_encoder", "denoiser", "decoder")
encode, denoise, decode = (torch.export.load(f"{name}.pt2").module() for name in names)
about, n = json.load(open("programs.json")), 4  # samples
pose, extent = torch.tensor([about["nominal_pose"]]), torch.tensor([about["extent_mm"]])
condition = encode(xray=xray, pose=pose, extent=extent)  # xray (1, views, 1, *xray_size) in [0, 1], NaN = unknown
condition = {name: part.expand(n, *part.shape[1:]) for name, part in condition.items()}
scheduler = {sampler}.from_pretrained("scheduler")
scheduler.set_timesteps(about["steps"])
latents = torch.randn(n, *about["latent_shape"])
for t in scheduler.timesteps:
    timestep = (t + about["timestep_offset"]).expand(n)
    latents = scheduler.step(denoise(sample=latents, timestep=timestep, **condition), t, latents).prev_sample
volumes = torch.cat([decode(latents=one[None]) for one in latents])  # HU, (n, 1, D, H, W)
```
The programs do not check or align an X-ray; its lungs must lie as those of training. `programs.json` holds the largest
difference of each program to its network. `torch.export.passes.move_to_device_pass` moves a program to a GPU.""",
    "safetensors": """\
```
python evaluation/generate.py xray=film.png checkpoint=<this folder>/model.safetensors
```""",
}


def model_card(
    header: dict,
    described: dict,
    metrics: dict | None,
    name: str,
    form: str,
    checkpoint: Path | None = None,
    hub_id: str | None = None,
) -> str:
    """The card as Markdown.

    Args:
        header: of `ddpm.checkpoint.write.header_of`.
        described: of `XrayToCTPipeline.describe`.
        metrics: content of `metrics.json`; None if not evaluated.
        form: of the export.
        hub_id: where a diffusers folder is on the hub.
    """
    protocol = header["protocol"]
    data = {key: protocol[key] for key in SHOWN if key in protocol}
    settings = ", ".join(f"{key} {value}" for key, value in described.items() if key != "parameters")
    size = sum(described["parameters"].values())
    lines = [
        "---",
        "license: other",
        f"library_name: {LIBRARIES.get(form, 'diffusers')}",
        "tags: [chest-x-ray, ct, latent-diffusion, synthetic, not-for-diagnosis]",
        "---",
        f"# {name}",
        "",
        "Chest X-ray to CT volume in Hounsfield units, by xray2ct. **Synthetic, not for diagnosis.**",
        "",
        "## Use",
        _usage(form, hub_id, described.get("sampler", "")),
        *([] if protocol.get("views") != 2 else ["", TWO_VIEWS if serves_fewer_views(protocol) else BOTH_VIEWS]),
        "",
        "## Model",
        f"{size:,} parameters ({', '.join(f'{part} {count:,}' for part, count in described['parameters'].items())}).",
        f"{settings}.",
        *([f"Made of {Path(checkpoint).name}, SHA-256 {sha256(checkpoint)}."] if checkpoint else []),
        f"Format version {header['format']}.",
        "",
        "## Data and protocol",
        f"Trained on `{protocol.get('dataset', 'unknown')}`.",
        "",
        *markdown_table(("key", "value"), ((key, f"`{json.dumps(value)}`") for key, value in data.items())),
        "",
        SEEN if protocol.get("seen", {}).get("train") else "It does not hold the ids of its training patients.",
        "",
        "## Metrics",
        *_metrics(metrics),
        "",
        "## Inherited licences",
        "The weights are subject to the licences of the data and weights that they were trained on:",
        "",
        *markdown_table(INHERITED, ([entry[key] for key in INHERITED] for entry in header["inherits"])),
        "",
        "## Limits",
        LIMITS,
    ]
    return "\n".join(lines) + "\n"


def _usage(form: str, hub_id: str | None, sampler: str) -> str:
    """How the export is used; `sampler` is the class of diffusers that its programs are sampled with."""
    text = USE[form].replace("{sampler}", sampler)
    return text.replace(HERE, hub_id) if hub_id and form == "diffusers" else text


def _metrics(result: dict | None) -> list[str]:
    if result is None:
        return ["Not evaluated; `xray2ct-evaluate checkpoint=<path>` evaluates it."]
    protocol, known, rows = result["protocol"], catalogue(), []
    method = protocol["bootstrap"].get("method", "bootstrap over patients")
    for metric, estimate in without_few(result["methods"]["model"], protocol["patients"]).items():
        label, cells = known[metric].label if metric in known else metric, ("not measured", "")
        if estimate is not None:
            patients = estimate.get("patients", protocol["patients"])
            none = f"no interval: {'one patient' if patients == 1 else f'{patients} patients'}"
            ends = none if estimate["low"] is None else f"{estimate['low']:.4g} to {estimate['high']:.4g}"
            cells = f"{estimate['mean']:.4g}", ends
        rows.append((label, *cells))
    return [
        f"{protocol['cases']} {protocol['split']} cases, {protocol['patients']} patients, of `{protocol['dataset']}`; "
        f"{protocol['estimator']}, window {protocol['window']} HU (data range {protocol['data_range_hu']:g} HU), "
        f"registration {protocol['registration']}; mean and 95 % interval ({method}; "
        f"{protocol['bootstrap']['draws']:,} draws).",
        "",
        *markdown_table(("metric", "mean", "interval"), rows),
    ]
