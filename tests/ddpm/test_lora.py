"""Adapters: the base stays bit-identical, only adapters are trained and saved, and merging changes no output."""

import copy
import shutil
from functools import partial

import pytest
import torch
from ddpm_parts import item, module
from safetensors import safe_open
from test_module import fit
from torch import nn
from torch.utils.data import default_collate

from common.errors import UserError
from common.files import sha256
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.write import add_parts, export_pipeline, save_adapter
from ddpm.consistency.projection_consistency import ProjectionConsistency
from ddpm.diffusion.training_spread import TrainingSpread
from ddpm.latent import DecoderResidual
from ddpm.lora import adapter_names, add_lora, merge_lora, restore_lora
from ddpm.registry import MEASURED

LORA = {"rank": 2, "alpha": 4}


class Layers(nn.Module):
    """Layers with and without support for adapters."""

    def __init__(self):
        super().__init__()
        self.plane, self.solid, self.point = nn.Conv3d(6, 8, (1, 3, 3)), nn.Conv3d(8, 8, 3), nn.Conv3d(8, 8, 1)
        self.up, self.grouped = nn.ConvTranspose3d(8, 8, 1), nn.Conv3d(8, 8, 1, groups=2)
        self.flat, self.norm, self.linear = nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.norm(self.grouped(self.up(self.point(self.solid(self.plane(x))))))
        x = self.linear(self.flat(x.mean(dim=2)).movedim(1, -1)).flatten(1, 2)
        return self.attention(x, x, x)[0]


def with_random_adapters(parts: nn.Module) -> nn.Module:
    """The same with random weights in the adapters."""
    torch.manual_seed(1)
    for name, parameter in parts.named_parameters():
        if name in adapter_names(parts):
            nn.init.normal_(parameter, std=0.3)
    return parts


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> dict:
    """A trained base, and a LoRA run from it."""
    folder = tmp_path_factory.mktemp("runs")
    quick = {"optimizer": partial(torch.optim.AdamW, lr=0.03)}
    base = module(**quick)
    fit(base, 2).save_checkpoint(folder / "base.ckpt")
    m = module(lora=LORA, **quick)
    pipeline = load_pipeline(folder / "base.ckpt")
    for name, part in m.trained.items():
        layers = {k.replace(".base_layer", ""): k for k in part.state_dict()}
        own = getattr(pipeline, name).state_dict()
        part.load_state_dict({**part.state_dict(), **{layers[k]: v for k, v in own.items()}})
    before = {k: v.clone() for k, v in m.trained.state_dict().items()}
    trainer = fit(m, 3)
    trainer.save_checkpoint(folder / "last.ckpt")
    origin = {"file": "base.ckpt", "sha256": sha256(folder / "base.ckpt")}
    save_adapter(folder / "adapter.safetensors", m.ema.by_name(), m.lora, origin, m.protocol)
    return {"folder": folder, "module": m, "before": before, "trainer": trainer}


def test_merging_gives_the_same_output_for_every_kind_of_layer():
    torch.manual_seed(0)
    plain, x = Layers(), torch.randn(2, 6, 5, 8, 8)
    adapted = copy.deepcopy(plain)
    record = add_lora(adapted, 2, 3.0)
    assert set(record["layers"]) == {"plane", "solid", "point", "flat", "linear"}
    assert torch.allclose(adapted(x), plain(x), atol=1e-6)  # an untrained adapter is zero
    outside = with_random_adapters(adapted)(x)
    merge_lora(adapted)
    assert (outside - plain(x)).abs().max() > 0.05
    assert (adapted(x) - outside).abs().max() < 1e-5
    assert adapted.state_dict().keys() == plain.state_dict().keys()


def test_layers_smaller_than_their_adapter_are_left_out_unless_named():
    parts = nn.ModuleDict({"small": nn.Linear(4, 4), "large": nn.Linear(64, 64)})
    assert add_lora(copy.deepcopy(parts), 4, 4)["layers"] == ["large"]
    assert add_lora(copy.deepcopy(parts), 4, 4, ["^small$"])["layers"] == ["small"]
    with pytest.raises(ValueError, match="'attention' matches no layer"):
        add_lora(parts, 4, 4, ["attention"])
    with pytest.raises(ValueError, match="smaller rank"):
        add_lora(parts, 64, 4)
    with pytest.raises(ValueError, match="model.lora.rank=0"):
        add_lora(parts, 0, 4)
    with pytest.raises(ValueError, match="is named gone"):
        restore_lora(parts, 2, 4, ["gone"])


def test_the_base_stays_bit_identical_and_only_adapters_move(run):
    m = run["module"]
    moved = {k for k, v in m.trained.state_dict().items() if not torch.equal(v, run["before"][k])}
    assert moved and moved <= adapter_names(m.trained)
    assert {name.split(".")[0] for name in moved} == {"denoiser", "xray_encoder", "lift"}
    assert len(moved) > 0.95 * len(adapter_names(m.trained))  # the forward of every adapted layer is called


def test_the_optimizer_and_the_average_hold_adapters_alone(run):
    m = run["module"]
    inside = [p for group in run["trainer"].optimizers[0].param_groups for p in group["params"]]
    own = {name: p for name, p in m.trained.named_parameters() if name in adapter_names(m.trained)}
    assert {id(p) for p in inside} == {id(p) for p in own.values()} and len(inside) == len(own)
    assert m.ema.by_name().keys() == own.keys()
    assert torch.load(run["folder"] / "last.ckpt", weights_only=True)["ema"].keys() == own.keys()


def test_a_frozen_encoder_gets_no_adapter():
    m = module(lora=LORA, freeze_xray_encoder=True)
    assert {name.split(".")[0] for name in adapter_names(m.trained)} == {"denoiser", "lift"}


def test_the_adapter_file_holds_adapters_alone_and_is_small(run):
    with safe_open(run["folder"] / "adapter.safetensors", framework="pt") as file:
        assert set(file.keys()) == adapter_names(run["module"].trained)
    wide = module(lora=LORA)
    sizes = {name: p.numel() for name, p in wide.trained.named_parameters()}
    share = sum(n for name, n in sizes.items() if name in adapter_names(wide.trained)) / sum(sizes.values())
    assert share < 0.4  # even here, eight channels wide


@pytest.mark.parametrize("file", ["last.ckpt", "adapter.safetensors"])
def test_generation_from_a_checkpoint_and_from_the_adapter_file(run, file):
    torch.manual_seed(3)
    batch, keep = default_collate([item(0), item(1)]), torch.ones(2)
    noisy, timestep = torch.randn(2, 4, 8, 8, 8), torch.tensor([100, 900])

    def predicted(pipeline) -> torch.Tensor:
        m = module()
        for name, part in m.trained.items():
            part.load_state_dict(getattr(pipeline, name).state_dict())
        with torch.no_grad():
            return m.eval().predict(noisy, timestep, batch, keep)

    with run["module"].ema.swapped_in(run["module"].device), torch.no_grad():
        expected = run["module"].eval().predict(noisy, timestep, batch, keep)
    assert (predicted(load_pipeline(run["folder"] / "base.ckpt")) - expected).abs().max() > 0.01
    pipeline = load_pipeline(run["folder"] / file)
    assert not adapter_names(pipeline.denoiser)
    assert (predicted(pipeline) - expected).abs().max() < 1e-5
    volume = pipeline.set_sampler("DDIMScheduler", 2)(batch["xray"]).volumes
    assert volume.shape[:2] == (2, 1) and torch.isfinite(volume).all()


def measured(scale: float) -> tuple[DecoderResidual, TrainingSpread]:
    volume = torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(0))
    residual = DecoderResidual().fit([(volume + scale, volume, None)])
    return residual, TrainingSpread.from_numbers([1, 1, 2], [100 * scale, 200 * scale], 20)


def test_adapters_bring_what_their_own_run_measured(run, tmp_path):
    """And not the consistency, which was fitted to predictions of the base."""
    base = load_pipeline(run["folder"] / "base.ckpt")
    consistency = ProjectionConsistency((4, 8, 8, 8), (1, 1, 1), pixels=8, rank=1, max_side=2)
    parts = dict(zip(MEASURED, measured(0.1), strict=True)) | {"consistency": consistency}
    path, own = export_pipeline(base, tmp_path / "base.safetensors", torch.float32), measured(0.2)
    add_parts(path, base, parts, path)
    m, origin = run["module"], {"file": path.name, "sha256": sha256(path)}
    adapters = tmp_path / "adapter.safetensors", m.ema.by_name(), m.lora, origin, m.protocol
    for kept, stored in ((own, own), ((own[0], None), own[:1]), (measured(0.1), ())):  # the last as in earlier files
        save_adapter(*adapters, dict(zip(MEASURED, stored, strict=False)))
        found = load_pipeline(adapters[0])
        for name, part in zip(MEASURED, kept, strict=True):
            same = getattr(found, name)
            assert same is part is None or torch.equal(same.deviation, part.deviation)
        assert found.residual is found.decoder_residual
        assert found.consistency is None and found.describe()["consistency"] == base.describe()["consistency"]


def test_parts_are_added_to_the_merged_model_of_adapters(run, tmp_path):
    path = run["folder"] / "adapter.safetensors"
    merged = load_pipeline(path)
    added = add_parts(path, merged, {"decoder_residual": measured(0.1)[0]}, tmp_path / "new.safetensors")
    found = load_pipeline(added)
    assert found.decoder_residual is not None
    for name, part in merged.networks.items():
        for key, value in part.state_dict().items():
            assert torch.equal(found.networks[name].state_dict()[key], value), key


def test_a_resumed_run_goes_on_from_the_same_adapters(run):
    m = module(lora=LORA)
    content = torch.load(run["folder"] / "last.ckpt", weights_only=True)
    m.on_load_checkpoint(content)
    m.load_state_dict(content["state_dict"])
    assert all(torch.equal(v, run["module"].trained.state_dict()[k]) for k, v in m.trained.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(m.ema.shadow, run["module"].ema.shadow, strict=True))


def test_an_adapter_finds_its_base_beside_it_and_no_other(run, tmp_path):
    shutil.copy(run["folder"] / "adapter.safetensors", tmp_path)
    shutil.move(run["folder"] / "base.ckpt", tmp_path / "base.ckpt")
    try:
        (tmp_path / "base.ckpt").rename(tmp_path / "renamed.ckpt")
        load_pipeline(tmp_path / "adapter.safetensors")
        (tmp_path / "renamed.ckpt").rename(tmp_path / "base.ckpt")
        load_pipeline(tmp_path / "adapter.safetensors")
        shutil.copy(run["folder"] / "last.ckpt", run["folder"] / "base.ckpt")
        with pytest.raises(UserError, match="without their base.*base.ckpt.*last.ckpt"):
            load_pipeline(run["folder"] / "adapter.safetensors")
    finally:
        shutil.move(tmp_path / "base.ckpt", run["folder"] / "base.ckpt")


def test_an_adapter_that_does_not_fit_its_base_is_refused(run, tmp_path):
    m, path = run["module"], tmp_path / "adapter.safetensors"
    shutil.copy(run["folder"] / "base.ckpt", tmp_path)
    base = {"file": "base.ckpt", "sha256": sha256(run["folder"] / "base.ckpt")}
    weights = m.ema.by_name()
    save_adapter(path, {k: v for k, v in list(weights.items())[1:]}, m.lora, base, m.protocol)
    with pytest.raises(UserError, match="do not fit their base"):
        load_pipeline(path)
    save_adapter(path, weights, {**m.lora, "layers": ["denoiser.gone"]}, base, m.protocol)
    with pytest.raises(UserError, match="denoiser.gone"):
        load_pipeline(path)
