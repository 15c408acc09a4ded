"""Turns X-ray files into synthetic CT volumes: NIfTI in HU and a PNG, on request a DICOM series and a GIF.

`python evaluation/generate.py xray=<file or folder> checkpoint=<path>`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("generate")
def main(cfg) -> None:
    from ddpm.light_diffusers import import_diffusers, start_of_process

    with start_of_process():
        import_diffusers()

        from common.files import check_output, result_folder
        from evaluation.generation.open_pipeline import SHIPPED, open_generator
        from evaluation.generation.public_pipeline import XrayToCTPipeline
        from evaluation.generation.view_pairs import count_line
        from evaluation.generation.write_volumes import earlier_files, find_xrays, for_views
        from evaluation.generation.xray_warnings import ASSUMED
    from evaluation.visualization.slices import SYNTHETIC

    xrays = find_xrays(cfg.xray)
    earlier = earlier_files(xrays)
    check_output(cfg.output, earlier, cfg.overwrite)
    pipeline = XrayToCTPipeline.of(
        *open_generator(cfg.checkpoint, cfg.device, cfg.sampler, shipped=SHIPPED, several=True)
    )
    pipeline.set_progress_bar_config(desc="denoising steps", disable=None)  # none where the output is no terminal
    options = {key: cfg[key] for key in ("align", "view", "batch_size", "bounds", "allow_any_picture", "lung_guide")}
    if Path(str(cfg.xray)).is_dir():
        xrays = for_views(xrays, pipeline.protocol)
        if pipeline.protocol.get("views", 1) > 1:
            print(count_line(xrays))
    print(SYNTHETIC)
    results = pipeline.stream(xrays, cfg.samples, cfg.seed, **options)  # reads and checks all X-rays
    output = result_folder(cfg.output, "generate", earlier, cfg.overwrite)
    for result in results:
        paths = result.save(output, dicom=cfg.dicom, gif=cfg.gif, with_residual=cfg.samples_with_residual)
        bars = result.settings["error_bars"]
        print(f"{result.stem}: error bars: {bars['name']} ({bars.get('reason') or bars['words']})")
        if result.reprojection is not None:
            print(f"{result.stem}: re-projection difference {result.reprojection} of a range of 1 ({ASSUMED})")
        print(*filter(None, [bars.get("preview")]), *paths, sep="\n")


if __name__ == "__main__":
    main()
