"""Files of the comparison: tables, numbers and pictures; errors without trained classifiers."""

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from evaluation.classifiers.comparison import analyse
from evaluation.classifiers.plots import training_picture
from evaluation.classifiers.scores import find_classifiers
from evaluation.classifiers.tables import flat, markdown, rows, write_all

INPUTS = {"generated": "generated", "ctpa": "ct", "xray": "xray"}


@pytest.fixture(scope="module")
def compared() -> tuple[pd.DataFrame, dict]:
    """Two folds of three classifiers on DRRs of contrast CTs."""
    rng, parts = np.random.default_rng(0), []
    for fold in range(2):
        for part in ("val", "test"):
            labels = np.arange(40) % 2
            made = {name: rng.normal(size=40) + labels for name in INPUTS}
            names = [f"{part}{fold}{i}" for i in range(40)]
            frame = {"fold": fold, "part": part, "id": names, "patient": names, "label": labels}
            parts.append(pd.DataFrame({**frame, "view": "PA", "xray_source": "drr_contrast", **made}))
    scores = pd.concat(parts, ignore_index=True)
    return scores, analyse(scores, INPUTS, margin=0.05, draws=50) | {"protocol": {"phantoms": True}}


def test_without_classifiers_the_error_names_the_training_command(tmp_path):
    with pytest.raises(UserError, match="none under .*train/train_classifier.py"):
        find_classifiers(None, tmp_path)
    with pytest.raises(UserError, match="no such file"):
        find_classifiers([str(tmp_path / "best.safetensors")], tmp_path)


def test_the_table_is_ordered_and_marks_phantoms_and_contrast_drrs(compared):
    _, result = compared
    assert [row[0] for row in rows(result)] == ["ctpa", "xray †", "generated †"]
    text = markdown(result)
    assert "Phantoms, not patients" in text and "not X-ray evidence" in text and "prevalence 0.500 [" in text
    one = result["classifiers"]["ctpa"]["thresholds"]["youden"]["sensitivity"]
    assert f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" in text
    assert text.index("primary comparison, specified in advance") < text.index("generated minus ctpa")


def test_the_flat_table_holds_the_numbers_of_the_json(compared):
    _, result = compared
    table = flat(result).set_index(["classifier", "threshold", "measure"])
    for name, one in result["classifiers"].items():
        assert table.loc[(name, "", "auc"), "mean"] == one["auc"]["mean"]
        assert table.loc[(name, "", "auc_bootstrap"), ["low", "high"]].tolist() == one["auc"]["bootstrap"]
        for key in ("youden", "sensitive"):
            for rate in ("accuracy", "sensitivity", "specificity", "ppv", "npv"):
                assert table.loc[(name, key, rate), "high"] == one["thresholds"][key][rate]["high"]
    assert (table["prevalence"] == 0.5).all() and pd.isna(table.loc[("ctpa", "", "auc_AP"), "mean"])


def test_training_curves_are_drawn_from_logs(tmp_path):
    (tmp_path / "a" / "curves_1").mkdir(parents=True)
    steps = pd.DataFrame({"step": [9, 19, 19], "train/loss": [0.7, 0.6, np.nan], "val/auc": [np.nan, np.nan, 0.8]})
    steps.to_csv(tmp_path / "a" / "curves_1" / "metrics.csv", index=False)
    figure = training_picture({"ctpa": [tmp_path / "a"], "xray": [tmp_path / "nowhere"]})
    (axis,) = (one for one in figure.axes if one.axison)
    assert axis.get_title() == "ctpa" and axis.lines[1].get_ydata().tolist() == [0.8]
    assert training_picture({"xray": [tmp_path / "nowhere"]}) is None


def test_every_picture_is_drawn_and_private_columns_are_omitted(compared, tmp_path):
    from PIL import Image

    scores, result = compared
    write_all(tmp_path, result, scores.assign(age=77, sex="F"), list(INPUTS))
    for name in ("table", "roc", "precision_recall", "reliability"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png")).std() > 10
    assert not {"age", "sex"} & set(pd.read_csv(tmp_path / "scores.csv").columns)
