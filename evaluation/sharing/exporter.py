"""Exports a generator as diffusers folder, MONAI bundle, safetensors file or torch programs, with a model card."""

import json
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

import torch

from common.errors import UserError
from common.files import sha256
from ddpm.checkpoint.write import export_pipeline, header_of
from ddpm.pipeline import XrayToCTPipeline
from ddpm.weights.hub import expect_hub_id
from ddpm.weights.licences import public_name
from evaluation.sharing.model_card import model_card
from evaluation.sharing.monai_bundle import write_bundle
from evaluation.sharing.torch_programs import write_programs

FORMATS = ("diffusers", "monai", "safetensors", "torch_export")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CARD = {"monai": "docs/README.md"}  # place of the model card; README.md elsewhere
# an export holds one of these files, with this text in its first bytes
OURS = {"model_index.json": b'"XrayToCTPipeline"', "configs/inference.json": b"xray2ct.bundle",
        "programs.json": b'"nominal_pose"', "model.safetensors": rb'\"stage\": \"ddpm\"'}  # fmt: skip
START = 1 << 16
# names of its other files, beside those of a part of the pipeline
KNOWN = ("README.md", *CARD.values(), *OURS, "pipeline.py", "*.pt2", "configs/metadata.json", "models/model.pt")
OF_PART = ("config.json", "scheduler_config.json", "diffusion_pytorch_model*")


def check_options(form: str, precision: str, hub_id: str | None = None) -> None:
    """Checks the options before anything is loaded; UserError with the choices."""
    if form not in FORMATS:
        raise UserError(f"format={form}: choose {', '.join(FORMATS)}")
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision}: choose {' or '.join(PRECISIONS)}")
    if hub_id:
        expect_hub_id("push", hub_id)


def read_metrics(path: str | Path | None, checkpoint: Path) -> dict | None:
    """Reads the `metrics.json` of a checkpoint; None for None.

    Raises UserError for a file that is missing, no result of `evaluation/evaluate.py`, or that of another checkpoint.
    """
    if path is None:
        return None
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
        digest = result["protocol"]["checkpoint"]["sha256"]
        result["methods"]["model"].items()
    except FileNotFoundError as error:
        raise UserError(f"metrics={path}: no such file; give the metrics.json of evaluation/evaluate.py") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"metrics={path}: not a metrics.json of evaluation/evaluate.py with a model in it") from error
    if digest != sha256(checkpoint):
        raise UserError(
            f"metrics={path}: of another checkpoint (SHA-256 {str(digest)[:16]}…) than {checkpoint}; evaluate this one"
        )
    return result


def export(
    pipeline: XrayToCTPipeline,
    output: Path,
    form: str,
    checkpoint: Path | None = None,
    metrics: dict | None = None,
    name: str = "xray2ct",
    precision: str = "float32",
    seen: bool = True,
    overwrite: bool = True,
    hub_id: str | None = None,
) -> Path:
    """Writes the folder atomically and returns its path.

    Raises UserError for a folder with other content, or one that cannot be written.

    Args:
        form: one of `FORMATS`.
        precision: of `PRECISIONS`, for `safetensors` only.
        seen: keep the hashes of the training patients (`evaluation.protocol.leakage`).
        overwrite: replace an earlier export; False raises UserError for one.
        hub_id: named by the card as the place of a diffusers folder; the caller uploads it.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        _expect_export(output, overwrite, pipeline.components)
    if not seen:
        pipeline.register_to_config(protocol={k: v for k, v in pipeline.protocol.items() if k != "seen"})
    for part in (pipeline.latent_encoder, pipeline.xray_encoder):
        if source := part.config.get("source"):
            part.register_to_config(source=public_name(source))  # without a local path
    card = model_card(header_of(pipeline), pipeline.describe(), metrics, name, form, checkpoint, hub_id)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as beside:
            made = Path(beside) / "export"
            made.mkdir()
            if form == "diffusers":
                pipeline.save_pretrained(made)
            elif form == "monai":
                write_bundle(pipeline, made, name)
            elif form == "torch_export":
                write_programs(pipeline, made)
            else:
                export_pipeline(pipeline, made / "model.safetensors", PRECISIONS[precision])
            (made / CARD.get(form, "README.md")).write_text(card, encoding="utf-8")
            if output.exists():
                shutil.rmtree(output)
            made.rename(output)
    except OSError as error:
        raise UserError(f"output={output}: cannot be written ({error}); free space or give another folder") from error
    return output


def _expect_export(folder: Path, overwrite: bool, parts: Iterable[str]) -> None:
    """Raises UserError unless all of a folder is an earlier export, and for one without `overwrite`."""
    if not _is_export(folder):
        raise UserError(f"output={folder}: holds something else; give a new folder")
    if not overwrite:
        raise UserError(f"output={folder}: holds an earlier export; give a new folder, or overwrite=true")
    known = [f"/{name}" for name in (*KNOWN, *(f"{part}/{file}" for part in parts for file in OF_PART))]
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or any(map(PurePosixPath("/", name).match, known))):
            raise UserError(f"output={folder}: holds {name}, which is no part of an export; move it or give another")


def _is_export(folder: Path) -> bool:
    found = any((folder / card).is_file() for card in ("README.md", *CARD.values()))
    for name, text in OURS.items():
        with suppress(OSError), (folder / name).open("rb") as file:
            if found and text in file.read(START):
                return True
    return False
