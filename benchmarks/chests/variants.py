"""The rows of the chest benchmark: what each trains on, by which overrides, and which methods it adds to the table."""

from dataclasses import dataclass, replace

from benchmarks.fidelity.variants import COMMON, NETWORK, OURS, REGRESSION, SMALL

DIFFUSION, BASELINES, PEER, WEIGHTS = "diffusion", "baselines", "peer", "weights"
ONE_STEP = {"scheduler": "DDIMScheduler", "steps": 1, "antithetic": False}
PLAIN = (  # augmentation by affine maps and smooth random fields, without registration, organs and densities
    "dataset.morph.towards=[0,0]",
    "dataset.morph.organs_mm=0",
    "dataset.morph.wall=0",
    "dataset.morph.lung_density=0",
    "dataset.morph.bone_density=0",
    "dataset.morph.contrast=[1,1]",
)


@dataclass(frozen=True)
class Population:
    """Training cases of a fold: morphs of the parents, and phantoms.

    `parents` limits their number (None = all patients but the tested one), after the first `skipped` ones; `overrides`
    are of the data set; `phantoms` mixes phantoms in.
    """

    title: str
    overrides: tuple[str, ...] = ()
    parents: int | None = None
    phantoms: bool = False
    skipped: int = 0


@dataclass(frozen=True)
class Row:
    """One training or fit with the methods that it adds.

    Attributes:
        kind: `DIFFUSION`, `BASELINES`, `PEER` or `WEIGHTS` (`PHANTOM_WEIGHTS`, not trained here).
        population: key of `POPULATIONS`.
        train: overrides of `train/train_ddpm.py` besides those of all rows.
        sampler: arguments of the pipeline's `set_sampler`; None = its own.
        phantoms_first: the first half of the batches on phantoms.
        tuned: the row whose weights and autoencoder the training starts from.
        side: needs three folds only.
    """

    kind: str
    title: str
    population: str = "morphs"
    train: tuple[str, ...] = ()
    sampler: dict | None = None
    phantoms_first: bool = False
    tuned: str | None = None
    side: bool = False


POPULATIONS = {
    "morphs": Population("morphs of six patients"),
    "plain": Population("affine and elastic augmentation of six patients", PLAIN),
    "parents_2": Population("morphs of two patients", parents=2),
    "parents_4": Population("morphs of four patients", parents=4),
    "mixed": Population("morphs of six patients and phantoms", phantoms=True),
    "own_2": Population("morphs of two own patients", parents=2, skipped=4),
    "own_4": Population("morphs of four own patients", parents=4, skipped=2),
}
PRETRAINED = {"own_2": "parents_4", "own_4": "parents_2"}  # rows of the other patients: no patient is in both
WITHOUT_PRIOR = ("model.prior.rank=0", "model.prior.preconditioning=false")  # a linear prior needs three patients


def without_prior(population: str) -> tuple[str, ...]:
    """Overrides of a training on a population, or from its weights, that has no linear prior."""
    return WITHOUT_PRIOR if POPULATIONS[population].parents == 2 else ()


BASELINE_TITLES = {
    "ridge": "ridge regression",
    "nearest": "nearest training case",
    "mean_volume": "training mean",
}
MAIN = {
    "model": Row(DIFFUSION, "model"),
    "regression": Row(DIFFUSION, "regression, the same denoiser", train=tuple(REGRESSION), sampler=ONE_STEP),
    "baselines": Row(BASELINES, ""),
    "phantom_weights": Row(WEIGHTS, "weights trained on phantoms"),
}
SIDE = {
    **{
        name: Row(DIFFUSION, f"model on {of.title}", name, train=without_prior(name))
        for name, of in POPULATIONS.items()
        if name != "morphs"
    },
    "phantoms_first": Row(DIFFUSION, "model, phantoms in the first half of its batches", phantoms_first=True),
    **{
        f"tuned_{name}": Row(
            DIFFUSION,
            f"model of {POPULATIONS[row].title}, fine-tuned to {POPULATIONS[name].title}",
            name,
            train=without_prior(row),
            tuned=row,
        )
        for name, row in PRETRAINED.items()
    },
    "peer": Row(PEER, "X2CT-GAN class, written anew, one view"),
    **{f"baselines_{name}": Row(BASELINES, f" on {of.title}", name) for name, of in POPULATIONS.items()},
}
del SIDE["baselines_morphs"]  # those of `MAIN`
ROWS = {**MAIN, **{name: replace(row, side=True) for name, row in SIDE.items()}}
MEAN, SAMPLE, SHUFFLED = "", "_sample", "_shuffled_xray"  # suffixes of the methods of a diffusion row


def recipe(size: int) -> list[str]:
    """Overrides of `train/train_ddpm.py` of every diffusion row: the recipe of the fidelity benchmark.

    Latents are principal components and keep their shares of the variance.
    """
    return [*COMMON[size], *OURS, *NETWORK, *(SMALL if size == 128 else ()), "model.latent_scaling=shared"]


def baseline_name(name: str, row: str) -> str:
    """The method of a baseline, such as `ridge`, in a row: `ridge_mixed` in `baselines_mixed`."""
    return name + row.removeprefix("baselines")


def labels() -> dict[str, str]:
    """Titles of methods for tables."""
    found = {}
    for name, row in ROWS.items():
        if row.kind == DIFFUSION and row.sampler is None:
            found |= {name: f"{row.title}, mean of samples", name + SAMPLE: f"{row.title}, one sample"}
            found[name + SHUFFLED] = f"{row.title}, X-rays of another patient"
        elif row.kind == BASELINES:
            for baseline, title in BASELINE_TITLES.items():
                found[baseline_name(baseline, name)] = title + row.title
        else:
            found[name] = row.title
    return found
