"""Training of the VQ-GAN: gradients, learning rates, counted batches, errors."""

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from monai.networks.nets import PatchDiscriminator
from torch.utils.data import DataLoader

import vq_gan_3d.module
from evaluation.metrics.voxel_error import psnr
from vq_gan_3d import VQGAN3D
from vq_gan_3d.adversarial import Discriminator
from vq_gan_3d.module import TrainingStopped, VQGANModule
from vq_gan_3d.optimisation import Optimisation
from vq_gan_3d.perceptual import EfficientNetLiteFeatures, SlicePerceptualLoss, make_perceptual

adam = partial(torch.optim.AdamW, lr=1e-3)


def batches(n: int, value: float | None = None) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    volumes = [torch.tanh(torch.randn(1, 16, 16, 16, generator=generator)) for _ in range(n)]
    if value is not None:
        volumes = [torch.full_like(v, value) for v in volumes]
    return DataLoader([{"ct": v, "index": i, "step": i} for i, v in enumerate(volumes)], batch_size=1)


def make(n: int = 4, start: int = 0, weight: float = 0.1, **options) -> VQGANModule:
    torch.manual_seed(0)
    network = VQGAN3D(n_codes=64, embedding_dim=4, n_hiddens=8, n_res_blocks=1)
    discriminator = PatchDiscriminator(3, channels=8, in_channels=1, num_layers_d=1, norm="INSTANCE")
    options = {"adversarial": Discriminator(discriminator, adam, start, weight), **options}
    return VQGANModule(network, Optimisation(adam, n, warmup_steps=1), **options)


def fit(module: VQGANModule, loader: DataLoader, checkpoint: Path | None = None, **options) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    return trainer


def snapshot(module: torch.nn.Module) -> dict:
    return {k: v.clone() for k, v in module.state_dict().items()}


def test_discriminator_trains_from_its_first_batch():
    module = make(start=3)
    before = snapshot(module.discriminator)
    fit(module, batches(3))
    assert all(torch.equal(v, before[k]) for k, v in module.discriminator.state_dict().items())
    module = make(start=2)
    fit(module, batches(4))
    assert any(not torch.equal(v, before[k]) for k, v in module.discriminator.state_dict().items())


def test_a_run_of_an_earlier_version_goes_on_past_the_start_of_the_discriminator(tmp_path, caplog):
    """Earlier versions built no discriminator for a training that would end before its start."""
    short, path = make(2, adversarial=None), tmp_path / "last.ckpt"
    saving = pl.Callback()
    saving.on_train_batch_end = lambda trainer, *others: others[-1] != 1 or trainer.save_checkpoint(path)
    fit(short, batches(4), callbacks=[saving])
    longer = make(4, start=2)
    before = snapshot(longer.discriminator)
    fit(longer, batches(4), path)
    assert int(longer.batches_done) == 4 and "starts untrained at batch 2" in caplog.text
    assert any(not torch.equal(v, before[k]) for k, v in longer.discriminator.state_dict().items())


def test_both_learning_rates_end_at_zero_however_late_the_discriminator_starts():
    module = make(8, start=5)
    trainer = fit(module, batches(8))
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == pytest.approx([0.0, 0.0])


def test_batches_are_counted_once_with_two_optimizers():
    module = make(start=0)
    fit(module, batches(4))
    assert int(module.batches_done) == 4


def test_adversarial_term_changes_the_training_of_the_generator():
    plain, adversarial = make(weight=0.0), make(weight=1.0)
    fit(plain, batches(3))
    fit(adversarial, batches(3))
    assert not torch.equal(plain.model.decoder[-1].weight, adversarial.model.decoder[-1].weight)


def test_not_a_number_stops_with_the_cause():
    with pytest.raises(TrainingStopped, match="not finite.*model.train_lr"):
        fit(make(), batches(2, value=float("nan")))


def test_collapsed_codebook_stops_with_the_cause(monkeypatch):
    monkeypatch.setattr(vq_gan_3d.module, "COLLAPSE_PERPLEXITY", 1000.0)
    monkeypatch.setattr(vq_gan_3d.module, "COLLAPSE_PATIENCE", 3)
    module = make(n=8)
    with pytest.raises(TrainingStopped, match="collapsed.*n_codes"):
        fit(module, batches(8))
    assert int(module.batches_done) == 2


def test_a_batch_without_a_scanned_cell_does_not_count_for_the_collapse(monkeypatch):
    monkeypatch.setattr(vq_gan_3d.module, "COLLAPSE_PERPLEXITY", 1000.0)
    monkeypatch.setattr(vq_gan_3d.module, "COLLAPSE_PATIENCE", 3)
    loader = batches(8)
    for i, batch in enumerate(loader.dataset):
        batch["scanned"] = torch.full_like(batch["ct"], i % 2 == 0, dtype=torch.bool)
    module = make(n=8)
    with pytest.raises(TrainingStopped, match="collapsed"):
        fit(module, loader)
    assert int(module.batches_done) == 4  # batches 0, 2 and 4


class Edges(torch.nn.Module):
    """Two fixed feature maps."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return [self.conv(x), x]


def test_perceptual_loss_is_zero_for_equals_reaches_the_first_and_stays_frozen():
    loss = SlicePerceptualLoss(Edges())
    a = torch.rand(1, 1, 12, 12, 12, requires_grad=True)
    assert loss(a, a.detach(), torch.Generator().manual_seed(0)).item() == pytest.approx(0, abs=1e-10)
    loss(a, torch.rand(1, 1, 12, 12, 12), torch.Generator().manual_seed(0)).backward()
    assert a.grad.abs().max() > 0
    assert all(p.grad is None for p in loss.network.parameters())


def test_perceptual_network_outside_of_the_module_state():
    module = make(perceptual=SlicePerceptualLoss(Edges()))
    assert not any("conv.weight" in k and "perceptual" in k for k in module.state_dict())
    fit(module, batches(2))


def test_perceptual_choices():
    assert make_perceptual("none") is None
    with pytest.raises(ValueError, match="model.losses.perceptual.network=vgg"):
        make_perceptual("vgg")


def test_packaged_perceptual_network_has_trained_weights():
    features = EfficientNetLiteFeatures()(torch.rand(1, 3, 64, 64) * 2 - 1)
    assert [f.shape[-1] for f in features] == [32, 16, 8, 4]


def test_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite-pytorch"):
        EfficientNetLiteFeatures()


def scanned_batches(n: int, end: int) -> DataLoader:
    """Batches of which slices from `end` on were not scanned."""
    scanned = (torch.arange(16) < end)[None, :, None, None].expand(1, 16, 16, 16)
    return DataLoader([{**item, "scanned": scanned} for item in batches(n).dataset], batch_size=1)


def test_no_term_has_a_gradient_where_nothing_was_scanned():
    module, kept = make(perceptual=SlicePerceptualLoss(Edges())), []

    def keep(network, arguments, out):
        if out.volume.requires_grad:
            out.volume.retain_grad()
            kept.append(out.volume)

    module.model.register_forward_hook(keep)
    fit(module, scanned_batches(2, end=10))
    for volume in kept:
        assert not volume.grad[:, :, 10:].any() and volume.grad[:, :, :10].abs().amin(dim=(0, 1, 3, 4)).ne(0).any()
        assert volume.grad[:, :, :10].any()


def test_the_codebook_learns_from_scanned_cells_alone():
    """A cell of which any voxel was scanned counts: here 11 of 16 slices, 3 of 4 cells along the depth."""
    module, known = make(), []
    module.model.codebook.register_forward_pre_hook(lambda codebook, inputs: known.append(inputs[1]))
    fit(module, scanned_batches(2, end=11))
    for mask in known:
        assert mask.shape == (1, 4, 4, 4) and mask[:, :3].all() and not mask[:, 3:].any()


def test_a_wholly_scanned_batch_trains_as_one_without_marks():
    plain, marked = make(perceptual=SlicePerceptualLoss(Edges())), make(perceptual=SlicePerceptualLoss(Edges()))
    marked.perceptual.network.load_state_dict(plain.perceptual.network.state_dict())
    fit(plain, batches(3))
    fit(marked, scanned_batches(3, end=16))
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in marked.state_dict().items())


def test_metrics_of_validation_count_scanned_voxels_alone():
    """What was not scanned is neither right nor wrong: the same error in half of a volume has the same PSNR."""
    found = {}
    for name, loader in (("whole", batches(1)), ("half", scanned_batches(1, end=8))):
        module = make(metrics={"psnr": partial(psnr, data_range=2.0)})
        monkeypatched = torch.nn.Module()
        monkeypatched.forward = lambda volume: SimpleNamespace(volume=volume + 0.1)
        monkeypatched.pca = monkeypatched.codebook = None
        module.model = monkeypatched
        logged = {}
        module.log_dict = lambda values, logged=logged, **options: logged.update(values)
        module.log = lambda *arguments, **options: None
        module.validation_step(next(iter(loader)), 0)
        found[name] = float(logged["val/psnr"])
    assert found["half"] == pytest.approx(found["whole"], abs=0.3) and found["whole"] == pytest.approx(26.0, abs=0.5)


@pytest.mark.parametrize("quantise", [True, False])
def test_validation_measures_latents_with_and_without_codes_and_runs_no_second_pass_without_a_codebook(quantise):
    torch.manual_seed(0)
    network = VQGAN3D(8, 4, n_hiddens=8, n_res_blocks=1, quantise=quantise, block_pca=True)
    batch = next(iter(batches(1)))
    network.pca.fit([(batch["ct"][0], torch.ones_like(batch["ct"][0], dtype=torch.bool))])
    network.train()(batch["ct"])  # the first batch chooses the codes
    metric = partial(psnr, data_range=2.0)
    module = VQGANModule(network.eval(), Optimisation(adam, 1, warmup_steps=1), metrics={"psnr": metric})
    logged, passes = {}, []
    module.log_dict = lambda values, **options: logged.update(values)
    module.log = lambda *arguments, **options: None
    network.decoder.register_forward_hook(lambda *arguments: passes.append(1))
    module.validation_step(batch, 0)
    assert len(passes) == (2 if quantise else 1)
    with torch.no_grad():
        expected = {
            "val/psnr": network(batch["ct"]).volume,
            "val/psnr_pca": network.pca.decode(network.pca.encode(batch["ct"])),
        }
        if quantise:
            expected["val/psnr_unquantised"] = network.decode(network.encode(batch["ct"]), quantise=False)
    expected = {name: float(metric(volume[0, 0].clamp(-1, 1), batch["ct"][0, 0])) for name, volume in expected.items()}
    assert {name: float(value) for name, value in logged.items()} == pytest.approx(expected)
    if quantise:  # an untrained autoencoder is its components; the codes of 8 entries lose accuracy
        assert expected["val/psnr_unquantised"] == pytest.approx(expected["val/psnr_pca"])
        assert expected["val/psnr"] < expected["val/psnr_pca"] - 0.1
