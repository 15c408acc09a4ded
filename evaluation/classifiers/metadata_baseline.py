"""Baseline without images: logistic regression on view, age, sex and hours from X-ray to CT."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler


def features(rows: pd.DataFrame) -> pd.DataFrame:
    """Features with NaN for missing values: frontal view AP, age in years, female, logarithm of hours."""
    view = rows["view"].astype(str).str.split(";").str[0]
    sex = rows["sex"].astype(str).str.upper().str[:1]
    hours = pd.to_numeric(rows["hours_xray_to_ct"], errors="coerce").abs()
    age = pd.to_numeric(rows["age"], errors="coerce")
    return pd.DataFrame(
        {
            "AP": view.map({"AP": 1.0, "PA": 0.0}).astype(float),
            "age": age.where(age >= 0).astype(float),
            "female": sex.map({"F": 1.0, "M": 0.0}).astype(float),
            "hours": np.log1p(hours.astype(float)),
        }
    )


def metadata_logits(train: pd.DataFrame, *others: pd.DataFrame) -> list[Float[np.ndarray, " n"]] | None:
    """Logits of other rows by a model fitted on the labelled rows of `train`; None if no feature varies.

    A feature marks each missing value, which is replaced by the median of training.
    """
    train = train[train["label"].isin((0, 1))]
    known = features(train)
    middle = known.median()

    def table(rows: pd.DataFrame) -> pd.DataFrame:
        found = features(rows)
        missing = found.isna().astype(float).add_suffix("_missing")
        return pd.concat([found.fillna(middle).fillna(0.0), missing], axis=1)

    x = table(train)
    varied = [name for name in x if x[name].nunique() > 1]
    if not varied:
        return None
    scale = StandardScaler().fit(x[varied])
    model = LogisticRegression(max_iter=1000).fit(scale.transform(x[varied]), train["label"])
    return [model.decision_function(scale.transform(table(rows)[varied])) for rows in others]
