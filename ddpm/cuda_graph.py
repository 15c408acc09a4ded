"""One call of the denoiser as a CUDA graph: a small network on a large GPU waits for launches, not for arithmetic.

A graph repeats the launches of one recorded call on the same memory (NVIDIA, CUDA programming guide, "CUDA graphs";
torch.cuda.CUDAGraph). Weights may change in place between calls, shapes may not: they are recorded anew.
"""

import torch
from torch import Tensor, nn

from common.autocast import inference_autocast
from common.errors import UserError

KEPT = 4  # recordings: with and without the X-ray, of a whole batch and of the last one
WARM_UP = 3  # calls before the recording, in which libraries choose their kernels and take their memory


class GraphedDenoiser:
    """Calls a denoiser on a GPU by replaying a graph; its output is float32.

    Args:
        denoiser: on a GPU, without host synchronisation in its forward pass.

    Raises:
        UserError: for a denoiser that is on no GPU.
    """

    def __init__(self, denoiser: nn.Module):
        device = next(denoiser.parameters()).device
        if device.type != "cuda":
            raise UserError(f"sampler.cuda_graph=true: the network is on {device.type}; set it to false")
        self.denoiser, self.device = denoiser, device
        self._recordings: dict[tuple, tuple[dict[str, Tensor], torch.cuda.CUDAGraph, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, **inputs: Tensor | None) -> Tensor:
        """What `denoiser(**inputs)` gives."""
        given = {name: value for name, value in inputs.items() if value is not None}
        shapes = tuple((name, tuple(value.shape), value.dtype) for name, value in given.items())
        if shapes not in self._recordings:
            if len(self._recordings) == KEPT:
                del self._recordings[next(iter(self._recordings))]
            self._recordings[shapes] = self._record({name: value.clone() for name, value in given.items()})
        held, graph, output = self._recordings[shapes]
        for name, value in given.items():
            held[name].copy_(value)
        graph.replay()
        return output.clone()

    def _record(self, held: dict[str, Tensor]) -> tuple[dict[str, Tensor], torch.cuda.CUDAGraph, Tensor]:
        aside = torch.cuda.Stream(self.device)
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._run(held)
        torch.cuda.current_stream(self.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self._run(held)
        return held, graph, output

    def _run(self, held: dict[str, Tensor]) -> Tensor:
        with inference_autocast(self.device, cache=False):  # casts of weights must be part of the graph
            return self.denoiser(**held).float()
