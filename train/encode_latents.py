"""Encodes latents before training: `python train/encode_latents.py dataset=default … model.vae_ckpt=…`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced: a file in train/ must not shadow a library

from common.cli import command  # noqa: E402


@command("encode_latents")
def main(cfg) -> None:
    """Encodes the missing cases; prints their number and the error of the encoder."""
    from train.distributed.devices import choose_devices, own_device

    model = cfg.model
    devices = choose_devices(model.gpus, cfg.trainer.accelerator, cfg.trainer.devices)

    from hydra.utils import instantiate
    from pytorch_lightning.utilities import rank_zero_only

    from common.errors import UserError
    from dataset.datamodule import prepared_data
    from dataset.manifest.table import SPLITS
    from train.generator.encode import describe, encode_missing, measure_reconstruction
    from train.generator.latent_data import check_latent_size, load_latent_encoder
    from train.run.memory import peak_memory

    if not cfg.splits or not set(cfg.splits) <= set(SPLITS):
        raise UserError(f"splits={list(cfg.splits)}: choose some of {', '.join(SPLITS)}")
    source = instantiate(cfg.dataset.source)
    encoder = load_latent_encoder(source, model.latent)
    shape = check_latent_size(encoder, tuple(cfg.dataset.volume_size), model)
    cases = prepared_data(source, cfg.dataset, num_workers=model.num_workers)
    splits, folder = [getattr(cases, name) for name in cfg.splits], Path(cases.manifest_path).parent
    files, encoded = encode_missing(encoder, splits, folder, devices, model.num_workers, cfg.trainer.num_nodes)
    quality = measure_reconstruction(encoder, splits[-1], files[-1][0], own_device(devices))
    if rank_zero_only.rank:  # the first process prints for all
        return
    different = {file for names in files for file in names}
    size = sum(file.stat().st_size for file in different) / 1e6
    print(f"latents {list(shape)} of {len(different)} cases, {encoded} of them encoded now, {size:.0f} MB on disk")
    print(f"{describe(quality)}; peak memory {peak_memory()}")
    print(files[0][0].parent)


if __name__ == "__main__":
    main()
