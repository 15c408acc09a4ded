"""The command trains translation from volume to volume as well."""

import nibabel as nib
import numpy as np
import pytest

from common.errors import UserError
from ddpm.checkpoint.load import load_pipeline
from ddpm.conditioning.lift import GridLift
from ddpm.xray_encoder import VolumeEncoder


@pytest.fixture
def pairs(tmp_path):
    """Four patients with a source volume and a target volume each."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = ["id,patient,ct,source,split"]
    random = np.random.default_rng(0)
    for i, split in enumerate(("train", "train", "train", "val")):
        for name in ("source", "target"):
            hu = random.normal(0, 300, (16, 16, 8)).astype(np.int16)
            nib.save(nib.Nifti1Image(hu, np.diag([-8.0, -8.0, 8.0, 1.0])), folder / f"{name}{i}.nii.gz")
        rows.append(f"case{i},patient{i},target{i}.nii.gz,source{i}.nii.gz,{split}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder


def test_volume_to_volume(train, vae, pairs, tmp_path):
    data = ["dataset=ct_to_ct", f"dataset.root_dir={pairs}", f"model.vae_ckpt={vae}"]
    small = ["model.xray_encoder.width=8", "model.xray_encoder.feature_channels=8"]
    folder = train(tmp_path / "runs", *data, "model/xray_encoder=volume", *small)
    pipeline = load_pipeline(folder / "last.ckpt")
    assert isinstance(pipeline.xray_encoder, VolumeEncoder) and isinstance(pipeline.lift, GridLift)
    with pytest.raises(UserError, match="use model/xray_encoder=volume"):
        train(tmp_path / "refused", *data)
    with pytest.raises(UserError, match="the sources are X-rays"):
        train(tmp_path / "refused", f"model.vae_ckpt={vae}", "model/xray_encoder=volume", *small)
