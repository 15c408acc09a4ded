"""Serves the web demo on this machine: generates a synthetic CT from an X-ray.

`python demo/app.py checkpoint=<path> port=7860`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced so that no file here shadows a library

from common.cli import command  # noqa: E402


@command("demo")
def main(cfg) -> None:
    from contextlib import ExitStack, suppress

    from demo.server.launch import check_address, end_by_signals, run_folder, silence_libraries, url_of
    from demo.server.startup import Startup, serving

    check_address(cfg.host, cfg.port, cfg.password)
    silence_libraries()
    end_by_signals()
    with suppress(KeyboardInterrupt), run_folder() as folder, ExitStack() as last:
        startup = Startup(folder, cfg.password, loopback=cfg.password is None)
        with serving(startup, cfg.host, cfg.port) as server:  # before the imports and weights, which take seconds
            print(f"{url_of(cfg.host, cfg.port)} (loading)", flush=True)
            service = open_service(cfg, folder)
            last.callback(service.close)  # after the server has ended
            startup.open(application(cfg, service))
            print("ready", flush=True)
            server.join()


def open_service(cfg, folder: Path):
    """The service of the model that `cfg` names; UserError if it cannot be loaded."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from ddpm.light_diffusers import import_diffusers, start_of_process

    with start_of_process():
        import_diffusers()

        from ddpm.checkpoint.load import load_pipeline
        from demo.server.launch import sampler_choices
        from demo.service.messages import Limits
        from demo.service.service import Service
        from evaluation.generation.open_pipeline import SHIPPED, find_checkpoint, resolve_device

    device = resolve_device(cfg.device)
    checkpoint = find_checkpoint(cfg.checkpoint, shipped=SHIPPED)
    print(f"device: {device}", flush=True)
    pipeline = load_pipeline(checkpoint, device=device)
    chosen = HydraConfig.get().runtime.choices["sampler"]
    samplers = sampler_choices(pipeline, chosen, OmegaConf.to_container(cfg.sampler, resolve=True))
    sizes = (int(megabytes * 2**20) for megabytes in (cfg.xray_megabytes, cfg.ct_megabytes))
    limits = Limits(cfg.max_queue, cfg.max_samples, Limits.max_steps, *sizes)
    options = {"limits": limits, "batch_size": cfg.batch_size, "preview_every": cfg.preview_every}
    options["allow_any_picture"] = cfg.allow_any_picture
    return Service(pipeline, folder, samplers, checkpoint, cfg.keep_minutes, **options)


def application(cfg, service):
    """The application of a service, with the reader study that `cfg` names."""
    from demo.server.app_factory import build_app

    return build_app(service, cfg.password, loopback=cfg.password is None, study=cfg.study, answers=cfg.answers)


if __name__ == "__main__":
    main()
