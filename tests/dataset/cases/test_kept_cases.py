"""Cases that stay in memory are those on disk, read once; a batch is the collated items, without a copy."""

import pytest
import torch
from folder_sources import data_module
from torch.utils.data import DataLoader, Subset, default_collate

from tests.dataset.test_datamodule import NoiseSource


def module(folder, **options):
    return data_module(NoiseSource(), folder, batch_size=2, seed=3, **options)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) if isinstance(one[k], torch.Tensor) else one[k] == other[k] for k in one
    )


@pytest.mark.parametrize("crop", [None, [3, 3, 3]])
def test_an_item_in_memory_equals_the_item_on_disk(tmp_path, crop):
    fresh, kept = module(tmp_path, crop=crop).train, module(tmp_path, crop=crop, keep_gb=1).train
    for key in (0, (0, 7), (0, 8), 3, (3, 7)):
        for _ in range(2):
            assert same(kept[key], fresh[key])


def test_an_item_in_memory_is_not_read_again(tmp_path):
    train = module(tmp_path, keep_gb=1).train
    before = [train[i] for i in range(len(train))]
    for path in train.paths:
        path.write_bytes(bytes(path.stat().st_size))  # in place: what is mapped would change
        path.unlink()
    assert all(same(train[i], item) for i, item in enumerate(before))


def test_a_changed_item_does_not_change_the_item_in_memory(tmp_path):
    train = module(tmp_path, keep_gb=1).train
    before = train[0]["ct"].clone()
    train[0]["ct"].zero_()
    assert torch.equal(train[0]["ct"], before)


def test_only_training_cases_that_fit_stay_in_memory(tmp_path):
    assert module(tmp_path, keep_gb=1).train.keep
    assert not module(tmp_path, keep_gb=1).val.keep
    assert not module(tmp_path, keep_gb=1e-7).train.keep
    size = sum(path.stat().st_size for path in module(tmp_path).train.paths) / 2**30
    assert module(tmp_path, keep_gb=1.5 * size, num_workers=1).train.keep
    assert not module(tmp_path, keep_gb=1.5 * size, num_workers=2).train.keep  # each process would hold its own


def test_a_batch_is_the_collated_items_and_no_copy_of_them(tmp_path):
    train = module(tmp_path).train
    keys = [(2, 5), (0, 5), (2, 6)]
    items = train.__getitems__(keys)
    batch = train.collate(items)
    assert same(batch, default_collate([train[key] for key in keys]))
    assert batch["ct"].data_ptr() == items[0]["ct"].data_ptr()


def test_collate_takes_items_in_any_order_and_from_anywhere(tmp_path):
    train = module(tmp_path).train
    items = train.__getitems__([0, 1, 2])
    for chosen in (items[::-1], items[:2], [train[0], train[1]], [items[0], items[0], items[2]]):
        assert same(train.collate(chosen), default_collate(chosen))


def test_loaders_that_know_nothing_of_this_work_too(tmp_path):
    train = module(tmp_path).train
    found = [batch for loader in (train, Subset(train, [0, 1, 2, 3, 4])) for batch in DataLoader(loader, batch_size=5)]
    assert all(same(batch, default_collate([train[i] for i in range(5)])) for batch in found)
