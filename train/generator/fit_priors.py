"""Fits the pose regressor and the linear prior in closed form before training."""

import logging
from functools import partial
from pathlib import Path

import pytorch_lightning as pl

from common.errors import user_errors
from dataset.cases.perturbed_drrs import posed_drrs
from dataset.cases.store import stored
from dataset.datamodule import CTDataModule
from dataset.imaging.drr_options import DrrSettings
from dataset.xray.pose_perturbation import DEGREES, DISTANCE_SHARE, SHIFT_MM
from ddpm.conditioning.pose_regressor import MIN_PATIENTS, OVERSAMPLING, PoseRegressor
from ddpm.module import DDPMModule
from train.distributed.processes import print_once
from train.generator.latent_data import LatentData, align_batch

# largest perturbations, in the order of `ddpm.conditioning.pose_regressor.FIELDS`
LIMITS = (DISTANCE_SHARE, DEGREES, DEGREES, SHIFT_MM, SHIFT_MM, SHIFT_MM)
PRIOR_START = 0.4  # default start with a pose regressor, as a share of the training; earlier it stalls learning

log = logging.getLogger(__name__)


@user_errors()
def fit_priors(
    module: DDPMModule, cases: CTDataModule, data: LatentData, pixels: int, with_poses: bool | None
) -> None:
    """Fits the pose regressor and adds it to the module if needed, then fits the linear prior of latents.

    Args:
        pixels: side of the X-rays that both read.
        with_poses: whether to fit a pose regressor; None fits one if training X-rays have no pose and are not aligned
            by their lungs.

    Raises UserError for too few patients, or a pose regressor of volumes.
    """
    patients = cases.train.rows["patient"].tolist()
    if with_poses and module.trained["xray_encoder"].volumetric:
        raise ValueError("model.pose_regressor=true: the sources are volumes, which have no pose; leave it out")
    if with_poses or with_poses is None and _needs_pose(cases, data, module):
        drr = getattr(cases.source, "drr", DrrSettings())
        home = Path(cases.manifest_path).parent
        drrs = posed_drrs(cases.train, drr, home, OVERSAMPLING * pixels, cases.prepare_workers)
        regressor = PoseRegressor(drrs.nominal[..., 2].mode(dim=0).values.tolist(), pixels, LIMITS)
        found = regressor.fit(drrs.xray, drrs.nominal, drrs.drawn, [patients[i] for i in drrs.cases], patients)
        module.trained["pose_regressor"] = regressor
        shares = ", ".join(f"{name} {' and '.join(f'{100 * view:.0f}' for view in v)} %" for name, v in found.items())
        print_once(f"pose regressor: R² on DRRs of held-out patients: {shares}")
    if "prior" in module.trained:
        prior = module.trained["prior"]
        align = partial(align_batch, module, training=True) if "pose_regressor" in module.trained else None
        # a prior of unchanged X-rays would be worse for changed ones than the mean of the training latents
        step = 0 if data.train.augments else -1
        prior.fit(data.train.xrays(pixels, step, align), data.train.latents, patients, data.train.scanned())


class PriorStart(pl.Callback):
    """Hides the linear prior in the first part of a training, also in its pictures and checkpoints.

    The network then learns itself what is linear in the X-ray, and with it to use the X-ray. With perturbed poses, a
    prior from the first batch on leaves no equally simple signal to start with. The averaged weights follow some
    hundred batches after the start: until then, pictures and checkpoints are worse than before and after.

    Args:
        share: of the training without prior; None = `PRIOR_START` with a pose regressor, else 0.
    """

    def __init__(self, share: float | None, module: DDPMModule):
        regressed = {"prior", "pose_regressor"} <= set(module.trained.keys())
        self.share = (PRIOR_START if regressed else 0.0) if share is None else float(share)
        if self.share:
            print_once(f"the training uses the linear prior after {100 * self.share:.0f} % of its batches")

    def on_train_batch_start(self, trainer: pl.Trainer, module: DDPMModule, batch: dict, batch_idx: int) -> None:
        if "prior" in module.trained:
            hidden = int(batch["step"][0]) < self.share * module.optimisation.num_batches
            if hidden != module.trained["prior"].config.hidden:
                module.trained["prior"].hide(hidden)

    def on_load_checkpoint(self, trainer: pl.Trainer, module: DDPMModule, checkpoint: dict) -> None:
        """Restores the state of the checkpoint; a prior in use stays in use if the resumed training is longer."""
        entry = checkpoint["header"]["components"].get("prior")
        if entry is not None:
            hidden = entry["config"].get("hidden", False)
            module.trained["prior"].hide(hidden)
            self.share = self.share if hidden else 0.0


def _needs_pose(cases: CTDataModule, data: LatentData, module: DDPMModule) -> bool:
    train = cases.train
    if module.trained["xray_encoder"].volumetric or train.xray_options.align != "none":
        return False
    poses = data.train.conditions["pose"] if data.train.in_memory else (stored(path, "pose") for path in train.paths)
    if not any(pose.isnan().any() for pose in poses):
        return False
    if (count := train.rows["patient"].nunique()) >= MIN_PATIENTS:
        return True
    log.warning("%d training patients are too few for a pose regressor: unknown poses count as nominal", count)
    return False
