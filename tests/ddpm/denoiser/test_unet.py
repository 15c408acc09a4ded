"""The denoiser: shapes, conditioning that can be dropped, gradients, saving."""

import pytest
import torch
from unet_parts import inputs, small

from ddpm.denoiser.blocks import Conv3d, DepthAttention, PlaneAttention, ResBlock, positions
from ddpm.denoiser.unet import UNet3D


@pytest.mark.parametrize("full_conv", [False, True])
def test_output_has_the_shape_of_the_input(full_conv):
    x = inputs(size=(8, 8, 12))
    assert small(full_conv=full_conv)(**x).shape == x["sample"].shape


@pytest.mark.parametrize("options", [{}, {"depth_attention": True, "full_conv": False, "blocks": 2}])
def test_activations_computed_again_change_no_gradient(options):
    plain, again, x = small(**options), small(**options), inputs()
    again.enable_gradient_checkpointing()
    outputs = [net(**x) for net in (plain, again)]
    for out in outputs:
        out.square().mean().backward()
    assert torch.equal(*outputs)
    for ours, theirs in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad) if ours.grad is not None else theirs.grad is None


def test_a_dropped_xray_is_the_same_as_none_and_other_than_kept():
    net, x = small(), inputs()
    none = net(x["sample"], x["timestep"])
    dropped = net(**x, keep=torch.zeros(2))
    half = net(**x, keep=torch.tensor([1.0, 0.0]))
    kept = net(**x)
    assert torch.allclose(dropped, none, atol=1e-5)
    assert torch.allclose(half[0], kept[0], atol=1e-5) and torch.allclose(half[1], none[1], atol=1e-5)
    assert not torch.allclose(kept, none, atol=1e-3)


def test_gradient_reaches_every_weight_and_the_condition():
    net, x = small(), inputs()
    x["embedding"].requires_grad_()
    x["features"].requires_grad_()
    net(**x, keep=torch.tensor([1.0, 0.0])).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert x["embedding"].grad[0].any() and not x["embedding"].grad[1].any()
    assert x["features"].grad[0].any() and not x["features"].grad[1].any()


def test_samples_of_a_batch_are_independent():
    net, x = small().eval(), inputs()
    alone = net(**{k: v[:1] for k, v in x.items()})
    assert torch.allclose(net(**x)[:1], alone, atol=1e-5)


def test_attention_mixes_along_depth_and_nothing_else():
    torch.manual_seed(0)
    for part, axis in ((DepthAttention(16, 8), 2), (PlaneAttention(16, 8), None)):
        torch.nn.init.normal_(part.out.weight)
        x = torch.randn(1, 16, 5, 4, 4)
        moved = x.clone()
        moved[0, :, 0, 1, 2] += torch.randn(16)  # a constant would vanish in the norm
        change = (part(moved, None) - part(x, None)).abs().sum(dim=1)[0] > 1e-6
        expected = torch.zeros(5, 4, 4, dtype=torch.bool)
        if axis == 2:
            expected[:, 1, 2] = True  # the column of the voxel
        else:
            expected[0] = True  # its plane
        assert torch.equal(change, expected)


def test_factorised_convolutions_stay_in_their_plane():
    block = ResBlock(16, 16, 8, full_conv=False)
    torch.nn.init.normal_(block.conv2.weight)
    block.norm1, block.norm2 = torch.nn.Identity(), torch.nn.Identity()  # a norm reaches everywhere
    x, emb = torch.randn(1, 16, 5, 6, 6), torch.zeros(1, 8)
    moved = x.clone()
    moved[0, :, 2] += 1.0
    change = (block(moved, emb) - block(x, emb)).abs().amax(dim=(0, 1, 3, 4)) > 0
    assert change.tolist() == [False, False, True, False, False]


def test_positions_are_unique():
    p = positions(torch.Size((4, 6, 5)), torch.device("cpu"))[0].flatten(1).T
    assert torch.cdist(p, p).fill_diagonal_(1).min() > 0.05


def test_saved_denoiser_is_the_same(tmp_path):
    net, x = small().eval(), inputs()
    net.save_pretrained(tmp_path)
    assert torch.equal(UNet3D.from_pretrained(tmp_path).eval()(**x), net(**x))


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="multiples of 2.*dim_mults"):
        small()(**inputs(size=(6, 7, 8)))


def test_bfloat16_gradient_two_voxels_deep_is_that_of_float32():
    """A library bug on CPUs: every third gradient came from uninitialised memory."""
    torch.manual_seed(0)
    conv, x, g = Conv3d(32, 32, 3, padding=1), torch.randn(2, 32, 2, 4, 4), torch.randn(2, 32, 2, 4, 4)
    exact = torch.autograd.grad(torch.nn.functional.conv3d(x, conv.weight, conv.bias, padding=1), conv.weight, g)[0]
    for _ in range(20):
        junk = torch.full((2 * exact.numel(),), 3e31)
        del junk
        with torch.autocast("cpu", torch.bfloat16):
            out = conv(x)
        found = torch.autograd.grad(out, conv.weight, g.to(out.dtype))[0]
        assert torch.allclose(found, exact, atol=0.05 * exact.abs().max().item())
