"""Moments from another memory layout continue as in their own."""

import copy

import pytest
import torch

from train.distributed.optimizer_layout import align


def network(layout: torch.memory_format) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv3d(3, 4, (2, 3, 3)).to(memory_format=layout)


def step(net: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    x = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    net(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("written", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("read", [torch.contiguous_format, torch.channels_last_3d])
def test_a_resumed_run_is_independent_of_the_memory_layout(written, read):
    first = network(written)
    optimizer = torch.optim.AdamW(first.parameters(), lr=0.1, fused=True)
    for seed in range(3):
        step(first, optimizer, seed)
    weights, moments = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second = network(read)
    second.load_state_dict(weights)
    resumed = torch.optim.AdamW(second.parameters(), lr=0.1, fused=True)
    resumed.load_state_dict(moments)
    align(resumed)
    for net, its in ((first, optimizer), (second, resumed)):
        step(net, its, 7)
    assert resumed.state[second.weight]["exp_avg"].stride() == second.weight.stride()
    torch.testing.assert_close(second.weight, first.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second.bias, first.bias, rtol=1e-4, atol=1e-5)
