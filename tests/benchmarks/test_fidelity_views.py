"""The benchmark of views: its table, its score, and stages that are not repeated."""

import json
import sys

import pytest
import torch

from benchmarks.fidelity import views
from dataset.imaging.hu_window import Window


def test_the_table_gives_means_and_the_gain_of_the_second_view(tmp_path):
    shared = {"frontal": [20.0, 22.0], "lateral": [19.0, 21.0], "both": [21.0, 24.0]}
    (tmp_path / "scores_known_shared_model.json").write_text(json.dumps(shared))
    (tmp_path / "scores_unknown_ridge.json").write_text(json.dumps({"frontal": [18.0, 18.0]}))
    rows = views.table(tmp_path).splitlines()
    assert rows[2].startswith("| known | shared model | 21.00 | 20.00 | 22.50 | +1.50 [")
    assert rows[3] == "| unknown | ridge | 18.00 | – | – | – |"


def test_psnr_is_over_the_range_of_the_window():
    truth = torch.zeros(2, 4, 4, 4)
    found = views.psnr(truth + torch.tensor([200.0, 20.0]).view(2, 1, 1, 1), truth, Window(-1000.0, 1000.0))
    assert found == pytest.approx([20.0, 40.0])


def test_measured_stages_are_not_repeated(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(views, "ridge_scores", lambda options, pose: asked.append(pose) or {"frontal": [20.0]})
    monkeypatch.setattr(sys, "argv", ["views.py", "--stages", "ridge", "--output", str(tmp_path)])
    views.main()
    views.main()
    assert asked == ["known", "unknown"] and "| known | ridge | 20.00 |" in capsys.readouterr().out
