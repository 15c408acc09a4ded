"""Runs that are older than a key resume as they were trained."""

import pytest
from omegaconf import OmegaConf

from common.errors import UserError
from train.run.run_folder import VIEW_DROP, config_file, refuse_changes


def older(folder, views: int):
    """A config of now, and the stored one of a run before the key of dropped views."""
    stored = {"dataset": {"views": views}, "model": {"conditioning": {"drop": 0.1}}}
    config_file(folder).parent.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(stored), config_file(folder))
    now = OmegaConf.create(stored)
    OmegaConf.update(now, VIEW_DROP, None, force_add=True)
    return now


def test_a_run_of_one_view_goes_on(tmp_path):
    refuse_changes(older(tmp_path, 1), tmp_path, allow=False)


def test_a_run_of_two_views_goes_on_without_dropping_them(tmp_path):
    now = older(tmp_path, 2)
    with pytest.raises(UserError, match=f"{VIEW_DROP} was 0.0, is None"):
        refuse_changes(now, tmp_path, allow=False)
    OmegaConf.update(now, VIEW_DROP, 0.0)
    refuse_changes(now, tmp_path, allow=False)
