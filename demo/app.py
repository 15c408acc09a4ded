"""Serves the web demo on this machine: generates a synthetic CT from an X-ray.

`python demo/app.py checkpoint=<path> port=7860`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced so that no file here shadows a library

from common.cli import command  # noqa: E402


@command("demo")
def main(cfg) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from demo.server.launch import check_address, run_folder, sampler_choices, serve, silence_libraries

    check_address(cfg.host, cfg.port, cfg.password)
    silence_libraries()

    from ddpm.light_diffusers import import_diffusers

    import_diffusers()

    from ddpm.checkpoint.load import load_pipeline
    from demo.server.app_factory import build_app
    from demo.service.messages import Limits
    from demo.service.service import Service
    from evaluation.generation.open_pipeline import SHIPPED, find_checkpoint, resolve_device

    device = resolve_device(cfg.device)
    checkpoint = find_checkpoint(cfg.checkpoint, shipped=SHIPPED)
    print(f"device: {device}", flush=True)
    pipeline = load_pipeline(checkpoint, device=device)
    chosen = HydraConfig.get().runtime.choices["sampler"]
    samplers = sampler_choices(pipeline, chosen, OmegaConf.to_container(cfg.sampler, resolve=True))
    with run_folder() as folder:
        sizes = (int(megabytes * 2**20) for megabytes in (cfg.xray_megabytes, cfg.ct_megabytes))
        limits = Limits(cfg.max_queue, cfg.max_samples, Limits.max_steps, *sizes)
        options = {"limits": limits, "batch_size": cfg.batch_size, "preview_every": cfg.preview_every}
        options["allow_any_picture"] = cfg.allow_any_picture
        service = Service(pipeline, folder, samplers, checkpoint, cfg.keep_minutes, **options)
        try:
            app = build_app(service, cfg.password, loopback=cfg.password is None, study=cfg.study, answers=cfg.answers)
            serve(app, cfg.host, cfg.port)
        finally:
            service.close()


if __name__ == "__main__":
    main()
