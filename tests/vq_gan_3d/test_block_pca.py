"""Laws of the principal components of blocks, and of an autoencoder that starts from them."""

import pytest
import torch
from einops import rearrange
from sklearn.decomposition import PCA

from vq_gan_3d.autoencoder import VQGAN3D
from vq_gan_3d.block_pca import BlockPCA


def volumes(count: int = 3, size: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    smooth = [torch.randn(1, 1, 4, 4, 4, generator=generator) for _ in range(count)]
    found = [torch.nn.functional.interpolate(v, size=(size,) * 3, mode="trilinear")[0] for v in smooth]
    return [
        (v + 0.05 * torch.randn(v.shape, generator=generator), torch.ones_like(v, dtype=torch.bool)) for v in found
    ]


def blocks(volume: torch.Tensor, side: int = 4) -> torch.Tensor:
    return rearrange(volume, "1 (d p) (h q) (w r) -> (d h w) (p q r)", p=side, q=side, r=side)


@pytest.fixture(scope="module")
def fitted() -> BlockPCA:
    pca = BlockPCA(6, 4)
    pca.fit(volumes())
    return pca


def test_the_projection_is_that_of_an_independent_pca(fitted):
    data = torch.cat([blocks(v) for v, _ in volumes()])
    other = PCA(6).fit(data.numpy())
    volume = volumes()[1][0]
    expected = other.inverse_transform(other.transform(blocks(volume).numpy()))
    found = fitted.decode(fitted.encode(volume[None]))[0]
    torch.testing.assert_close(blocks(found), torch.from_numpy(expected).float(), atol=1e-4, rtol=0)


def test_latents_decode_to_themselves_and_are_uncorrelated_in_falling_order(fitted):
    latents = torch.randn(2, 6, 4, 4, 4)
    torch.testing.assert_close(fitted.encode(fitted.decode(latents)), latents, atol=1e-4, rtol=1e-4)
    own = torch.cat([fitted.encode(v[None]) for v, _ in volumes()])
    covariance = torch.cov(own.movedim(1, 0).flatten(1))
    variances = covariance.diagonal()
    assert float(variances.mean()) == pytest.approx(1.0, abs=0.02)
    assert (variances.diff() <= 0).all()
    assert (covariance - torch.diag(variances)).abs().max() < 1e-3 * variances.max()
    assert own.mean(dim=(0, 2, 3, 4)).abs().max() < 0.01


def test_an_error_of_latents_is_one_of_voxels(fitted):
    first, second = torch.randn(2, 1, 6, 4, 4, 4)
    voxels = (fitted.decode(first) - fitted.decode(second)).square().sum()
    torch.testing.assert_close(voxels, (first - second).square().sum() * fitted.scale.square(), rtol=1e-4, atol=0)


def test_blocks_that_were_not_scanned_do_not_matter(fitted):
    spoiled = []
    for volume, scanned in volumes():
        volume, scanned = torch.cat([volume, volume + 50.0], dim=1), torch.cat([scanned, scanned], dim=1)
        scanned[:, 17::4] = False  # one plane of each block
        spoiled.append((volume, scanned))
    again = BlockPCA(6, 4)
    again.fit(spoiled)
    torch.testing.assert_close(again.mean, fitted.mean)
    with pytest.raises(ValueError, match="no block"):
        again.fit([(volume, torch.zeros_like(scanned)) for volume, scanned in volumes()])


@pytest.mark.parametrize("quantise", [True, False])
def test_an_autoencoder_starts_at_its_components_and_all_weights_learn(quantise):
    torch.manual_seed(0)
    network = VQGAN3D(32, 6, n_hiddens=8, n_res_blocks=1, quantise=quantise, block_pca=True)
    network.pca.fit(volumes())
    volume = volumes()[0][0][None]
    plain = network.pca.decode(network.pca.encode(volume))
    torch.testing.assert_close(network.decode(network.encode(volume), quantise=False), plain)
    if not quantise:
        assert network.codebook is None and network(volume).indices is None
        torch.testing.assert_close(network(volume).volume, plain)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    for _ in range(4):  # zeros at the end of a network and of its blocks open one after the other
        optimizer.zero_grad()
        (network.train()(volume).volume - volume).square().mean().backward()
        optimizer.step()
    assert [n for n, p in network.named_parameters() if not p.grad.abs().max() > 0] == []


def test_saved_components_are_loaded(tmp_path):
    network = VQGAN3D(embedding_dim=6, n_hiddens=8, n_res_blocks=1, quantise=False, block_pca=True).eval()
    network.pca.fit(volumes())
    network.save_pretrained(tmp_path)
    volume = volumes()[2][0][None]
    assert torch.equal(VQGAN3D.from_pretrained(tmp_path).eval()(volume).volume, network(volume).volume)


def test_more_channels_than_voxels_are_refused():
    with pytest.raises(ValueError, match="embedding_dim=9"):
        BlockPCA(9, 2)
