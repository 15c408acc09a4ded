"""The model card of an export: data, protocol, metrics, inherited licences and limitations."""

import json
from pathlib import Path

from common.files import sha256
from evaluation.metrics.catalogue import catalogue
from evaluation.visualization.text import markdown_table

SHOWN = ("window", "volume_size", "extent", "xray_size", "views", "resampling", "align", "xray_sources", "split")
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
USE = {
    "diffusers": """\
From the root of xray2ct:
```python
from dataset.io.xray import read_xray
from ddpm.pipeline import XrayToCTPipeline

pipeline = XrayToCTPipeline.from_pretrained("<this folder>")
xray = read_xray("film.png", tuple(pipeline.protocol["xray_size"]))
volumes = pipeline(xray[None, None, None], num_samples=4, seed=0).volumes  # HU, (1, 4, D, H, W)
```
`pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)` changes the sampler. From files, with
alignment by the lungs: `python evaluation/generate.py xray=film.png checkpoint=<this folder>`.""",
    "monai": """\
From the root of xray2ct (a bundle's config is executed: run one only if you trust its source):
```python
import monai.bundle

root = "<this folder>"
monai.bundle.run(config_file=f"{root}/configs/inference.json", bundle_root=root, xray="film.png", output_dir="out")
network = monai.bundle.load("<name of this folder>", bundle_dir="<folder above it>", workflow_type="inference")
volume = network(xray)  # (b, 1, h, w) in [0, 1] to HU (b, 1, D, H, W)
```""",
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
        f"library_name: {'monai' if form == 'monai' else 'diffusers'}",
        "tags: [chest-x-ray, ct, latent-diffusion, synthetic, not-for-diagnosis]",
        "---",
        f"# {name}",
        "",
        "Chest X-ray to CT volume in Hounsfield units, by xray2ct. **Synthetic, not for diagnosis.**",
        "",
        "## Use",
        USE[form].replace(HERE, hub_id) if hub_id and form == "diffusers" else USE[form],
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


def _metrics(result: dict | None) -> list[str]:
    if result is None:
        return ["Not evaluated; `python evaluation/evaluate.py` evaluates it."]
    protocol, known, rows = result["protocol"], catalogue(), []
    for metric, estimate in result["methods"]["model"].items():
        label, cells = known[metric].label if metric in known else metric, ("not measured", "")
        if estimate is not None:
            cells = f"{estimate['mean']:.4g}", f"{estimate['low']:.4g} to {estimate['high']:.4g}"
        rows.append((label, *cells))
    return [
        f"{protocol['cases']} {protocol['split']} cases, {protocol['patients']} patients, of `{protocol['dataset']}`; "
        f"{protocol['estimator']}, window {protocol['window']} HU (data range {protocol['data_range_hu']:g} HU), "
        f"registration {protocol['registration']}; mean and 95 % interval of "
        f"{protocol['bootstrap']['draws']:,} bootstrap draws over patients.",
        "",
        *markdown_table(("metric", "mean", "interval"), rows),
    ]
