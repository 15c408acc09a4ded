"""Laws of the quantiser: nearest codes, gradients, moving averages, memory."""

import copy
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from forked_command import in_a_process
from torch import distributed

from train.run.process_memory import peak_bytes
from vq_gan_3d.codebook import Codebook, perplexity


@pytest.fixture
def codebook():
    torch.manual_seed(0)
    return Codebook(n_codes=50, embedding_dim=4)


def test_every_vector_gets_its_nearest_code(codebook):
    vectors = torch.randn(2, 4, 3, 5, 7)
    out = codebook.eval()(vectors)
    flat = vectors.movedim(1, -1).reshape(-1, 4)
    expected = torch.cdist(flat, codebook.codes).argmin(dim=1)
    assert torch.equal(out.indices.flatten(), expected)
    assert torch.allclose(out.latents, codebook.codes[out.indices].movedim(-1, 1), atol=1e-6)


def test_chunks_do_not_change_the_assignment(codebook, monkeypatch):
    vectors = torch.randn(500, 4)
    whole = codebook.nearest(vectors)
    monkeypatch.setattr("vq_gan_3d.codebook.SCORES_PER_CHUNK", 50 * 7)
    assert torch.equal(codebook.nearest(vectors), whole)


def test_gradient_passes_straight_through_and_commitment_pulls(codebook):
    vectors = torch.randn(1, 4, 2, 2, 2, requires_grad=True)
    out = codebook.eval()(vectors)
    weight = torch.randn_like(out.latents)
    (out.latents * weight).sum().backward(retain_graph=True)
    assert torch.allclose(vectors.grad, weight)
    vectors.grad = None
    out.commitment.backward()
    assert torch.allclose(
        vectors.grad, 2 * (vectors - codebook.codes[out.indices].movedim(-1, 1)) / vectors.numel(), atol=1e-6
    )


def test_moving_averages_converge_to_cluster_means():
    torch.manual_seed(0)
    centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])
    codebook = Codebook(n_codes=3, embedding_dim=2, decay=0.8).train()
    for _ in range(200):
        points = centres.repeat(40, 1) + 0.1 * torch.randn(120, 2)
        codebook(points.T.reshape(1, 2, 120, 1, 1))
    assert torch.cdist(codebook.codes, centres).min(dim=0).values.max() < 0.1


def test_one_update_is_that_of_one_hot_rows():
    """Relative error of float32 sums against a plain float64 computation of the appendix's formulas."""
    torch.manual_seed(0)
    n, decay, epsilon = 40, 0.9, 1e-3
    codebook = Codebook(n, 4, decay=decay, restart_below=0.0, epsilon=epsilon).train()
    codebook(torch.randn(2, 4, 5, 6, 7))  # counts and sums are no longer those of the start
    count, total = codebook.average_count.double(), codebook.average_sum.double()
    flat = torch.randn(300, 4)
    indices = codebook.nearest(flat)
    codebook._update(flat, indices)
    one_hot = torch.nn.functional.one_hot(indices, n).double()
    count = decay * count + (1 - decay) * one_hot.sum(dim=0)
    total = decay * total + (1 - decay) * one_hot.T @ flat.double()
    smoothed = (count + epsilon) / (count.sum() + n * epsilon) * count.sum()
    exact = {"average_count": count, "average_sum": total, "codes": total / smoothed[:, None]}
    for name, value in exact.items():
        assert (getattr(codebook, name).double() - value).norm() < 1e-6 * value.norm(), name
    assert (one_hot.sum(dim=0) == 0).any() and int(codebook.updates) == 2  # a code without a vector is among them


def test_dead_codes_restart_on_the_data():
    codebook = Codebook(n_codes=64, embedding_dim=2, decay=0.5, restart_below=0.05).train()
    data = torch.randn(1, 2, 8, 8, 8)
    codebook(data)
    with torch.no_grad():
        codebook.codes[1:] = 100.0  # far from anything
        codebook.average_sum[1:] = 100.0
    for _ in range(40):
        out = codebook(data)
    assert codebook.codes.abs().max() < 10
    assert perplexity(out.indices, 64)[0] > 20


def test_cells_that_were_not_scanned_do_not_count(codebook):
    """Commitment, gradient and codes are those of the others alone; every cell gets a code."""
    vectors, known = torch.randn(1, 4, 4, 3, 3), torch.zeros(1, 4, 3, 3, dtype=torch.bool)
    known[:, :2] = True
    other = copy.deepcopy(codebook)
    marked = torch.where(known[:, None], vectors, 100.0).requires_grad_()
    for _ in range(3):
        found, expected = codebook.train()(marked, known), other.train()(vectors[:, :, :2])
        torch.testing.assert_close(found.commitment, expected.commitment)
        assert torch.equal(found.indices[:, :2], expected.indices) and found.indices.shape == (1, 4, 3, 3)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in codebook.state_dict().items())
    found.commitment.backward()
    assert marked.grad[:, :, :2].any() and not marked.grad[:, :, 2:].any()


def test_a_batch_of_which_nothing_was_scanned_changes_no_code(codebook):
    for _ in range(2):  # before and after the first codes
        before = {k: v.clone() for k, v in codebook.state_dict().items()}
        out = codebook.train()(torch.randn(1, 4, 2, 2, 2), torch.zeros(1, 2, 2, 2, dtype=torch.bool))
        assert float(out.commitment) == 0.0 and out.latents.shape == (1, 4, 2, 2, 2)
        assert all(torch.equal(before[k], v) for k, v in codebook.state_dict().items())
        codebook(torch.randn(1, 4, 2, 2, 2))


SCANNED = ((3, 8), (0, 5), (8, 8))  # slices of each volume that were scanned, by step


def _learn(codebook: Codebook, volumes: slice) -> dict:
    generator = torch.Generator().manual_seed(1)
    for ends in SCANNED:
        vectors = torch.randn(2, 4, 8, 3, 3, generator=generator)
        known = torch.stack([torch.arange(8)[:, None, None].expand(8, 3, 3) < end for end in ends])
        codebook(vectors[volumes], known[volumes])
    return codebook.state_dict()


def _process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(rank)
    torch.save(_learn(Codebook(20, 4, decay=0.5).train(), slice(rank, rank + 1)), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.nightly
def test_processes_with_unequally_many_scanned_cells_learn_as_one(tmp_path):
    mp.spawn(_process, (tmp_path,), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = _learn(Codebook(20, 4, decay=0.5).train(), slice(None))
    for name, value in alone.items():
        assert torch.equal(one[name], other[name]), name
        torch.testing.assert_close(one[name], value, atol=1e-5, rtol=1e-5)


def test_evaluation_does_not_change_the_codebook(codebook):
    before = {k: v.clone() for k, v in codebook.state_dict().items()}
    codebook.eval()(torch.randn(1, 4, 4, 4, 4))
    assert all(torch.equal(before[k], v) for k, v in codebook.state_dict().items())


def test_reloaded_codebook_is_not_initialised_again(codebook):
    data = torch.randn(1, 4, 4, 4, 4)
    codebook.train()(data)
    other = Codebook(n_codes=50, embedding_dim=4).train()
    other.load_state_dict(codebook.state_dict())
    codebook(data)
    other(data)
    assert torch.equal(codebook.codes, other.codes)


def test_perplexity_of_known_distributions():
    assert perplexity(torch.zeros(100, dtype=torch.long), 8)[0].item() == pytest.approx(1.0)
    spread, used = perplexity(torch.arange(8).repeat(5), 8)
    assert spread.item() == pytest.approx(8.0, rel=1e-5) and used.item() == 1.0


def megabytes_of_an_update() -> tuple[float, float]:
    """Peak above the start after an update, and after 150 MB more."""
    codebook, data = Codebook(16384, 8).train(), torch.randn(1, 8, 32, 32, 32)
    before = peak_bytes()
    codebook(data)
    used = peak_bytes()
    held = torch.ones(150 * 2**18)  # the peak is one that grows with what is held
    return (used - before) / 2**20, (peak_bytes() - before) / 2**20 if len(held) else 0.0


@pytest.mark.slow
def test_large_codebook_needs_little_memory():
    """16,384 codes on 32³×8 latents: a distance matrix would take 2 GiB, one-hot codes as much again."""
    used, with_more = in_a_process(megabytes_of_an_update)
    assert used < 150 and with_more > 100
