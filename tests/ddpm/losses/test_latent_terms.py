"""Terms on the predicted clean latents: their values, their gradients, and frozen networks."""

import pytest
import torch
from ddpm_parts import VOLUME, item, latent_encoder, module
from torch import nn
from torch.utils.data import default_collate
from vae_files import tiny

from ddpm.classifiers.ct import CTClassifier
from ddpm.diffusion.objective import NoiseObjective
from ddpm.latent import SliceVAELatents
from ddpm.losses.classification import ClassificationTerm
from ddpm.losses.latent_terms import GeneratorLosses, excerpt
from ddpm.losses.perceptual import PerceptualTerm
from ddpm.losses.vgg import VGG16Features
from ddpm.module import Losses

WIDTHS = (4, 4, "pool", 4, 4)


class Features(nn.Module):
    """Two small feature maps."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2)])

    def forward(self, x):
        a = self.layers[0](x).relu()
        return [a, self.layers[1](a)]


def classifier(dimensions=3) -> CTClassifier:
    torch.manual_seed(2)
    network = CTClassifier(dimensions, init_features=4, growth_rate=2, block_config=(1, 1))
    network.network.class_layers.out.weight.data *= 10.0  # differences above the precision of float32
    return network


def slice_encoder() -> SliceVAELatents:
    encoder = SliceVAELatents.from_vae(tiny(), "test")
    encoder.measure(encoder.encode_raw(torch.tanh(torch.randn(2, 1, 8, 32, 32))))
    return encoder


TERMS = {
    "perceptual": lambda: PerceptualTerm(Features()),
    "classification": lambda: ClassificationTerm(classifier()),
    "classification by slices": lambda: ClassificationTerm(classifier(2), slices=2),
}
ENCODERS = {"volumes": latent_encoder, "slices": slice_encoder}


@pytest.fixture(params=ENCODERS)
def parts(request):
    torch.manual_seed(0)
    encoder = ENCODERS[request.param]()
    shape = (2, 4, 8, 8, 8)
    return encoder, torch.randn(shape, requires_grad=True), torch.randn(shape)


def generator(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TERMS)
def test_one_number_a_sample_zero_where_prediction_is_truth(name, parts):
    encoder, predicted, clean = parts
    term = TERMS[name]()
    mixed = torch.cat([20 * predicted[:1].detach(), clean[1:]])  # a difference that the small networks detect
    loss = term(mixed, clean, encoder, generator())
    assert loss.shape == (2,) and loss[0] > 1e-9
    assert loss[1] == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("name", TERMS)
def test_gradient_reaches_the_prediction_and_nothing_else(name, parts):
    encoder, predicted, clean = parts
    term = TERMS[name]()
    term(predicted, clean, encoder, generator()).sum().backward()
    assert torch.isfinite(predicted.grad).all() and predicted.grad.abs().amax(dim=(1, 2, 3, 4)).min() > 0
    network = getattr(term, "network", None) or term.classifier
    assert all(p.grad is None for m in (network, encoder) for p in m.parameters())
    assert not any(m.training for m in network.modules())


def test_descending_the_perceptual_term_reduces_the_distance():
    torch.manual_seed(0)
    encoder, term = slice_encoder(), PerceptualTerm(Features(), slices=8)
    clean = torch.randn(1, 4, 8, 8, 8)
    predicted = (clean + 0.5 * torch.randn_like(clean)).requires_grad_()
    optimizer = torch.optim.Adam([predicted], lr=0.05)
    wanted = encoder.decode(clean, clip=False)
    before = torch.dist(encoder.decode(predicted, clip=False), wanted).item()
    for _ in range(40):
        optimizer.zero_grad()
        term(predicted, clean, encoder, generator()).sum().backward()
        optimizer.step()
    assert torch.dist(encoder.decode(predicted, clip=False), wanted).item() < 0.9 * before


def test_excerpts_are_the_same_part_of_both_and_depend_on_the_generator():
    x = torch.arange(2 * 20 * 6 * 6.0).view(1, 2, 20, 6, 6)
    a, b = excerpt([x, x], True, generator(), slices=3, side=4)
    assert torch.equal(a, b) and a.shape == (1, 2, 3, 6, 6)
    a, b = excerpt([x, x], False, generator(), slices=3, side=4)
    assert torch.equal(a, b) and a.shape == (1, 2, 4, 4, 4)
    parts = {excerpt([x], False, generator(i), 3, 4)[0].flatten()[0].item() for i in range(8)}
    assert len(parts) > 2
    assert excerpt([x], True, generator(), slices=99, side=4)[0].shape == x.shape


def test_samples_count_by_their_signal():
    class Term:
        def __call__(self, predicted, clean, encoder, generator):
            return torch.tensor([1.0, 10.0])

    losses = GeneratorLosses({"a": Term(), "b": Term()}, {"a": 2.0, "b": 0.5})
    share = torch.tensor([0.0, 1.0])
    x = torch.zeros(2, 4, 2, 2, 2)
    total, values = losses(x, x, share, latent_encoder(), generator())
    assert total == pytest.approx(0.5 * 10 * 2.5) and values["a"] == pytest.approx(5.0)


def step(m, batch) -> torch.Tensor:
    """One training step outside a Trainer; the gradient of the denoiser."""
    m.log = m.log_dict = lambda *args, **options: None
    m.training_step(batch, 0).backward()
    return torch.cat([p.grad.flatten() for p in m.trained["denoiser"].parameters() if p.grad is not None])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["perceptual", "classification"])
def test_the_gradient_of_each_term_reaches_the_denoiser(name, prediction):
    batch = default_collate([item(0, step=3), item(1, step=3)])
    objective = NoiseObjective(prediction=prediction, zero_terminal_snr=False)
    plain, other = module(objective=objective), module(objective=objective)
    other.generator_losses = GeneratorLosses({name: TERMS[name]()}, {name: 5.0})
    frozen = {k: v.clone() for k, v in other.latent_encoder.state_dict().items()}
    for m in (plain, other):  # the last layer starts at zero: without this only it has a gradient
        nn.init.normal_(m.trained["denoiser"].out.weight, std=0.1)
    other.load_state_dict(plain.state_dict())
    a, b = step(plain, batch), step(other, batch)
    assert torch.isfinite(b).all() and (a - b).abs().max() > 1e-8
    stem = (p.grad for p in other.trained["denoiser"].stem.parameters())
    assert all(g.abs().max() > 0 for g in stem)
    assert all(torch.equal(v, frozen[k]) for k, v in other.latent_encoder.state_dict().items())


def test_without_terms_nothing_is_decoded_and_the_loss_is_the_pointwise_one(monkeypatch):
    m = module()
    monkeypatch.setattr(type(m.latent_encoder), "decode_raw", lambda *a: pytest.fail("decoded"))
    batch = default_collate([item(0, step=3)])
    m.log = m.log_dict = lambda *args, **options: None
    expected = m.losses(batch, *m._draw(batch))[0].mean()
    assert torch.equal(m.training_step(batch, 0), expected)


def test_no_network_of_a_term_is_in_the_module_or_its_checkpoint():
    terms = {name: TERMS[name]() for name in ("perceptual", "classification")}
    m = module(losses=Losses("l2", GeneratorLosses(terms, dict.fromkeys(terms, 1.0))))
    plain = module()
    assert [n for n, _ in m.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert m.state_dict().keys() == plain.state_dict().keys()


def test_predicted_clean_latents_are_the_truth_where_the_prediction_is(monkeypatch):
    for prediction in ("epsilon", "v_prediction", "sample"):
        m = module(objective=NoiseObjective(prediction=prediction, zero_terminal_snr=False))
        batch = default_collate([item(0, step=3), item(1, step=3)])
        eps, timestep, keep = m._draw(batch)
        target = m.schedule.target(batch["latent"], eps, timestep)
        monkeypatch.setattr(m, "predict", lambda *a, target=target: target)
        loss, predicted = m.losses(batch, eps, timestep, keep)
        assert torch.allclose(predicted, batch["latent"], atol=1e-3) and loss.max() < 1e-9


def test_vgg_reads_torchvisions_file_and_refuses_others(tmp_path):
    torch.manual_seed(0)
    network = VGG16Features(WIDTHS)
    torch.save({**network.state_dict(), "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg.pth")
    again = VGG16Features.from_file(tmp_path / "vgg.pth", WIDTHS)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    features = again(x)
    assert [f.shape[-1] for f in features] == [16, 8]
    assert all(torch.equal(a, b) for a, b in zip(features, network(x), strict=True))
    with pytest.raises(ValueError, match="none.pth: no such file"):
        VGG16Features.from_file(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="vgg.pth: not torchvision's"):
        VGG16Features.from_file(tmp_path / "vgg.pth")  # of the real widths
    (tmp_path / "cut.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cut.pth"):
        VGG16Features.from_file(tmp_path / "cut.pth")


def test_the_classifier_in_2d_averages_over_slices():
    volume = torch.rand(1, 1, 6, 16, 16) * 2 - 1
    network = classifier(2).eval()
    each = torch.stack([network(volume[:, :, [i]]) for i in range(6)])
    assert torch.allclose(network(volume), each.mean(dim=0), atol=1e-5)
    assert classifier(3).eval()(torch.zeros(2, 1, *VOLUME)).shape == (2,)
    with pytest.raises(ValueError, match="dimensions=4"):
        CTClassifier(4)
