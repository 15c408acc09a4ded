"""The order of samples is a pure function of (seed, position)."""

import pytest

from dataset.cases import step_sampler as module
from dataset.cases.step_sampler import StepBatchSampler


def flat(batches):
    return [index for batch in batches for index, _ in batch]


def test_each_epoch_of_the_stream_is_a_permutation_and_epochs_differ():
    order = flat(StepBatchSampler(7, 3, 14, seed=1))
    epochs = [order[i : i + 7] for i in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


@pytest.mark.parametrize("start", [0, 1, 5, 12, 13])
def test_a_later_start_yields_the_rest_and_keeps_the_length(start):
    whole = list(StepBatchSampler(5, 2, 13, seed=4))
    late = StepBatchSampler(5, 2, 13, seed=4, start=start)
    assert list(late) == whole[start:] and len(late) == 13
    assert list(late) == whole[start:]  # and once more


def test_step_is_the_number_of_the_batch():
    assert [{step for _, step in batch} for batch in StepBatchSampler(5, 2, 4)] == [{0}, {1}, {2}, {3}]


def test_seeds_give_different_orders_in_all_epochs():
    orders = [flat(StepBatchSampler(50, 10, 10, seed=s)) for s in range(3)]
    epochs = {tuple(order[i : i + 50]) for order in orders for i in (0, 50)}
    assert len(epochs) == 6


def test_processes_share_the_batches_of_one_process(monkeypatch):
    alone = [sorted(flat([b])) for b in StepBatchSampler(11, 6, 5, seed=2)]
    shares = []
    for rank in range(3):
        monkeypatch.setattr(module.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(module.distributed, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(module.distributed, "get_world_size", lambda: 3)
        shares.append(list(StepBatchSampler(11, 2, 5, seed=2)))
    assert [sorted(flat(share[i] for share in shares)) for i in range(5)] == alone


@pytest.mark.parametrize("wrong", [{"size": 0}, {"batch_size": 0}, {"num_batches": 0}, {"start": -1}])
def test_invalid_sizes_are_errors(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StepBatchSampler(**{"size": 4, "batch_size": 2, "num_batches": 3, **wrong})
