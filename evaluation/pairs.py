"""Evaluates a generator on pairs of a real X-ray and a CT of one patient: registration, and agreement of measures.

`python evaluation/pairs.py pairs=<set with manifest.csv>`, or on pseudo-pairs
`python evaluation/pairs.py pairs=phantoms pseudo=1`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("pairs")
def main(cfg) -> None:
    import shutil
    from tempfile import TemporaryDirectory

    from common.environment import machine, save_config
    from common.files import check_output, result_folder, sha256
    from ddpm.conditioning.views import serves_fewer_views
    from evaluation.generation.open_pipeline import SHIPPED, open_generator
    from evaluation.generation.sample import Sampling
    from evaluation.protocol.leakage import check_patient_leakage
    from evaluation.real_pairs.find_pairs import find_pairs, pair_rows
    from evaluation.real_pairs.groups import BY_GROUP
    from evaluation.real_pairs.pseudo_pairs import FOLDER, NOTE, scans_of, write_pseudo_pairs
    from evaluation.real_pairs.read_pairs import read_pair_cases
    from evaluation.real_pairs.score_pairs import RESULTS, PairScorer, PairSettings
    from evaluation.reporting.html_report import write_report

    check_output(cfg.output, RESULTS, cfg.overwrite)
    sampling = Sampling(cfg.samples, cfg.seed, cfg.batch_size)
    settings = PairSettings(cfg.metrics, tuple(_names(cfg.findings) or ()), tuple(cfg.ages), cfg.masks, cfg.nifti)
    pseudo, name = cfg.pseudo or 0, Path(cfg.pairs or "").name
    # refuses a wrong folder before the checkpoint is read
    found = scans_of(cfg.pairs, cfg.cases, _names(cfg.patients), cfg.seed, cfg.split) if pseudo else None
    rows = None if pseudo else pair_rows(cfg.pairs, cfg.split, cfg.cases, _names(cfg.patients))
    pipeline, checkpoint = open_generator(cfg.checkpoint, cfg.device, cfg.sampler, shipped=SHIPPED)
    with TemporaryDirectory(prefix="pairs_") as scratch:
        folder = Path(scratch) / FOLDER if pseudo else Path(cfg.pairs).expanduser()
        if pseudo:
            write_pseudo_pairs(found, folder, pseudo, cfg.seed)
            rows = pair_rows(folder)
        seen = check_patient_leakage(
            rows, pipeline.protocol, {}, f"checkpoint={checkpoint}", "give other patients", cfg.allow_seen_patients
        )
        views = pipeline.protocol.get("views", 1)
        pairs = find_pairs(rows, folder, views, 1 if serves_fewer_views(pipeline.protocol) else views)
        cases, left_out = read_pair_cases(pairs, pipeline, cfg.align, cfg.allow_any_picture, cfg.lung_guide)
        output = result_folder(cfg.output, "pairs", RESULTS, cfg.overwrite)
        if pseudo:
            shutil.copytree(folder, output / FOLDER)
    described = {
        "data": {"dataset": f"{name}, {'pseudo-' * bool(pseudo)}pairs", "version": None},
        "split": cfg.split or "all",
        "pairs": NOTE if pseudo else "radiographs and CTs of the same patients",
        "left_out": left_out,
        "checkpoint": {"file": str(checkpoint), "sha256": sha256(checkpoint)} if checkpoint.is_file() else None,
        **pipeline.describe(),
        "seed": cfg.seed,
        "seen_patients": seen,
        "machine": machine(),
    }
    rows = rows[~rows["id"].isin(left_out)].reset_index(drop=True)
    save_config(cfg, output)
    PairScorer(pipeline, cases, rows, sampling, settings).run(output, described)
    write_report(output)
    print((output / "pairs.md").read_text(encoding="utf-8").partition(BY_GROUP)[0])
    print(output / "report.html")


def _names(value) -> list[str] | None:
    """A text or a list of the config as a list of texts; None for null."""
    if value is None:
        return None
    return [str(value)] if isinstance(value, str | int | float) else [str(item) for item in value]


if __name__ == "__main__":
    main()
