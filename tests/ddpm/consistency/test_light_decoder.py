"""The light decoder finds a planted one; its Jacobian is that of the decoder, with an exact transpose."""

import pytest
import torch

from ddpm.consistency.light_decoder import LightDecoder

FACTORS = (2, 1, 2)


def planted(seed: int = 0) -> LightDecoder:
    generator = torch.Generator().manual_seed(seed)
    decoder = LightDecoder(3, FACTORS)
    for name, part in decoder.named_buffers():
        part.copy_(torch.randn(part.shape, generator=generator) * (0.1 if name == "quadratic" else 0.3))
    return decoder


def latents(seed: int, size=(6, 5, 4)) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def test_the_fit_finds_a_planted_decoder():
    decoder = planted()
    pairs = [(z[None], decoder(z[None])) for seed in range(8) for z in latents(seed, (8, 8, 8))]
    found = LightDecoder(3, FACTORS).fit(pairs)
    new = latents(99)
    assert (found(new) - decoder(new)).square().mean() < 1e-3 * decoder(new).var()


def test_a_linear_fit_would_not():
    decoder = planted()
    linear = planted()
    linear.quadratic.zero_()
    new = latents(99)
    assert (linear(new) - decoder(new)).square().mean() > 1e-2 * decoder(new).var()


def test_the_jacobian_is_the_central_difference_which_is_exact_for_a_quadratic():
    decoder, z, change = planted(), latents(1).double(), latents(2).double()
    decoder.double()
    difference = (decoder(z + change) - decoder(z - change)) / 2.0
    torch.testing.assert_close(decoder.linearised(z).apply(change), difference)


@pytest.mark.parametrize("size", [(6, 5, 4), (2, 2, 2)])
def test_the_transpose_is_exact(size):
    decoder, z, change = planted().double(), latents(1, size).double(), latents(2, size).double()
    jacobian = decoder.linearised(z)
    image = jacobian.apply(change)
    other = torch.randn(image.shape, generator=torch.Generator().manual_seed(3)).double()
    torch.testing.assert_close((image * other).sum(), (change * jacobian.transpose(other)).sum())
