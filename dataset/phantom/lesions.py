"""Single lesions to add to a healthy phantom: nodules, an effusion, a collapsed lobe, a clot."""

import numpy as np

from dataset.phantom.anatomy import Disease

NODULES_MM = {"nodule_10": 10.0, "nodule_20": 20.0, "nodule_30": 30.0}  # diameters
HEALTHY, EFFUSION, LOBE, CLOT = "healthy", "effusion", "collapsed_lobe", "clot"
LESIONS = (*NODULES_MM, EFFUSION, LOBE, CLOT)
LESION_VERSION = 1  # raise it when a lesion changes
EFFUSION_MM = 25.0  # fluid level above the dome
LOBE_STRENGTH = 0.95  # share of the air of the lobe that is replaced by tissue; its volume stays
ARTERIES = ("right", "left", "right_upper", "right_lower", "left_upper", "left_lower")
CLOT_SHARE, CLOT_HALF_MM = 0.85, 16.0  # of the radius of the artery; half of its length
NODULE_SEEDS = (0.25, 0.9)  # range of the place in the lung, beside heart and hilum
HALF = "airless_half"  # of a lung: stands for the lobe in CTs, whose lobes are not known
NAMES = (HEALTHY, *LESIONS, HALF)


def lesion_of(row) -> str:
    """The lesion of a row of the manifest, with which its id ends: one of `NAMES`."""
    return next(name for name in NAMES if str(row["id"]).endswith(f"_{name}"))


def subject_of(row) -> str:
    """The id of a row without its lesion: the same healthy chest with one place for each lesion."""
    return str(row["id"]).removesuffix(f"_{lesion_of(row)}")


def candidates(lesion: str) -> list[Disease]:
    """The places where an effusion, a collapsed lobe or a clot can be; a nodule can be anywhere in the lungs."""
    if lesion == EFFUSION:
        return [Disease(effusion=[EFFUSION_MM, None]), Disease(effusion=[None, EFFUSION_MM])]
    if lesion == LOBE:
        return [Disease(consolidation=(side, lobe, LOBE_STRENGTH)) for side in range(2) for lobe in range(2)]
    if lesion == CLOT:
        return [Disease(embolism=True, clots=[(name, 0.5, CLOT_SHARE, CLOT_HALF_MM)]) for name in ARTERIES]
    raise ValueError(f"lesion {lesion}: its places are not a list")


def draw_lesion(lesion: str, index: int, seed: int) -> Disease:
    """The lesion of one phantom; its place depends on index, seed and kind alone, and is the same for all nodules."""
    if lesion == HEALTHY:
        return Disease()
    kind = 0 if lesion in NODULES_MM else LESIONS.index(lesion)
    rng = np.random.default_rng((seed, index, kind))
    if lesion in NODULES_MM:
        return Disease(
            nodules=[(int(rng.integers(2)), rng.uniform(*NODULE_SEEDS, 3).tolist(), NODULES_MM[lesion] / 2)]
        )
    places = candidates(lesion)
    return places[int(rng.integers(len(places)))]
