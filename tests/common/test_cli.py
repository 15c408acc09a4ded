"""The command decorator rejects invalid values in one line before the command runs."""

import pytest
from omegaconf import OmegaConf

from common.cli import _guard


@pytest.mark.parametrize("key", ["seed", "model.seed", "dataset.seed", "generate_seed", "classifier.generate_seed"])
def test_a_negative_seed_is_rejected_before_the_command_starts(key, capsys):
    called = []
    cfg = OmegaConf.create()
    OmegaConf.update(cfg, key, -3, force_add=True)
    with pytest.raises(SystemExit) as stopped:
        _guard(called.append)(cfg)
    assert stopped.value.code == 1 and not called
    assert capsys.readouterr().err == f"error: {key}=-3: give 0 or more\n"
    OmegaConf.update(cfg, key, 0)
    _guard(called.append)(cfg)
    assert called == [cfg]
