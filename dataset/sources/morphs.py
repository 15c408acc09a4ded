"""A folder of CTs with synthetic training patients: morphs of those of its training split, and phantoms."""

from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd

from common.environment import free_memory
from common.errors import UserError
from dataset.cases.case import Case, case_key
from dataset.cases.store import source_folder
from dataset.imaging.coverage import NOT_SCANNED_HU
from dataset.imaging.drr_options import DrrSettings
from dataset.manifest.separated import SEPARATOR
from dataset.manifest.table import DRR, make_rows
from dataset.morph.anatomy import Anatomy, describe_anatomy
from dataset.morph.pairs import Pair, Velocities, neighbours_of, pairs_of
from dataset.morph.population import Recipe, draw_recipe, make_morph
from dataset.morph.registration import REGISTRATION_VERSION
from dataset.morph.settings import MorphSettings
from dataset.phantom.render import DRAWING_VERSION
from dataset.sources.folder import FolderSource
from dataset.sources.framed_phantom import framed_phantom

PHANTOM = "phantom_"  # start of the id of a phantom
VIEW_STREAM = 7  # separates the random numbers of views from those of morphs
MORPH_VERSION = 2  # raise it when the same parents, settings, seed and index give another volume


class MorphSource:
    """The cases of a folder, `count` morphs of its training cases, and `phantoms` in the same frame.

    A morph counts as a case of the patient whose tissue it has; the column `parents` names all patients that may have
    part in it. It has the label -1 and a DRR.

    Args:
        source: the folder; its X-rays must be DRRs if there are morphs.
        seed: with the index, it determines a morph or a phantom.
        ap_share: share of morphs and phantoms whose DRR is AP, at the distance of AP films.
    """

    def __init__(
        self,
        source: FolderSource,
        count: int = 0,
        settings: MorphSettings | None = None,
        seed: int = 0,
        phantoms: int = 0,
        ap_share: float = 0.0,
    ):
        self.ap_share = float(ap_share)
        self.phantoms = int(phantoms)
        self.source, self.count, self.settings, self.seed = source, int(count), settings or MorphSettings(), int(seed)
        self.name, self.xray_options = source.name, source.xray_options
        self.missing, self.home, self.forward_model = source.missing, source.home, source.forward_model
        self.drr = source.drr
        for key, number in (("morphs", self.count), ("phantoms", self.phantoms)):
            if number < 0:
                raise UserError(f"dataset.{key}={number}: give 0 or more")
            if number and source.files.source_window is not None:
                raise UserError(
                    f"dataset.{key}={number} with dataset.source_window: they have X-rays; set one of both"
                )
        self._anatomies: dict[str, Anatomy] = {}

    @property
    def manifest(self) -> str:
        """Name of the manifest in the cache."""
        return self.source.manifest

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The manifest of the folder, and after it a row for each morph and each phantom."""
        rows = [self.source.rows]
        if self.count:
            rows.append(self._morph_rows(rows[0]))
        if self.phantoms:
            names = [f"{PHANTOM}{index:08d}" for index in range(self.phantoms)]
            records = ({"id": n, "patient": n, "parents": n, "view": self.view(i)} for i, n in enumerate(names))
            made = make_rows(
                {**record, "ct": record["id"], "xray_source": DRR, "split": "train"} for record in records
            )
            rows.append(made.reindex(columns=rows[0].columns, fill_value=""))
        made = pd.concat(rows, ignore_index=True)
        if (twice := made["id"].duplicated()).any():
            name = made.loc[twice, "id"].iloc[0]
            raise UserError(f"dataset.root_dir: a case is called {name}, as morphs and phantoms are; rename it")
        return made

    def _morph_rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        trained = rows[rows["split"] == "train"]
        if trained["patient"].nunique() < 2:
            patients, trained = rows["patient"].nunique(), trained["patient"].nunique()
            all_train = ", train on all with dataset.val_share=0 dataset.test_share=0," if patients > 1 else ""
            raise UserError(
                f"dataset.morphs={self.count}: {trained} of {patients} patients train; morphs need at least 2: add CTs"
                f"{all_train} or set dataset.morphs=0"
            )
        if (films := trained["xray"] != "").any():
            raise UserError(
                f"dataset.morphs={self.count}: {int(films.sum())} training cases have X-ray files, for example "
                f"{trained.loc[films, 'id'].iloc[0]}; a morph has no film, set dataset.morphs=0"
            )
        morphs = []
        for index in range(self.count):
            recipe = self.recipe(index)
            parents = [str(self.parents.loc[name, "patient"]) for name in recipe.parents]
            tissue = self.parents.loc[recipe.tissue]
            morph = {"id": f"morph_{index:08d}", "label": -1, "xray_source": DRR, "split": "train", "source_hash": ""}
            morph |= {"view": self.view(index)} if self.ap_share else {}
            morphs.append({**tissue, **morph, "parents": SEPARATOR.join(dict.fromkeys(parents))})
        return pd.DataFrame(morphs, columns=rows.columns)

    @cached_property
    def parents(self) -> pd.DataFrame:
        """The training cases of the folder by id."""
        rows = self.source.rows
        return rows[rows["split"] == "train"].set_index("id", drop=False)

    @cached_property
    def neighbours(self) -> dict[str, list[str]]:
        """The cases to which each training case is registered."""
        return neighbours_of(list(self.parents.index), self.settings.neighbours, self.seed)

    def view(self, index: int) -> str:
        """AP for a share of the morphs and phantoms, else "", which is the view of the data set."""
        return "AP" if np.random.default_rng((self.seed, index, VIEW_STREAM)).random() < self.ap_share else ""

    def recipe(self, index: int) -> Recipe:
        """The parents of a morph, by id."""
        return draw_recipe(self.neighbours, self.settings, self.seed, index)

    def key(self, row) -> str:
        """Hash of all inputs and settings of a case; those of a morph include its parents."""
        if not self._is_made(row):
            return self.source.key(row)
        if row["id"].startswith(PHANTOM):
            phantom = {"phantom": [_index(row), self.seed, DRAWING_VERSION]}
            return case_key({**self.source.frame(), **phantom, **self._drr_key(row)})
        recipe = self.recipe(_index(row))
        inputs = {name: self.source.key(self.parents.loc[name]) for name in recipe.parents}
        made = {"morph": self.settings.describe(), "seed": self.seed, "index": _index(row), "version": MORPH_VERSION}
        made |= self._drr_key(row)
        return case_key({**self.source.frame(), **made, "towards": recipe.towards, "parents": inputs})

    def prepare(self, workers: int | None) -> None:
        """Registers the training cases to each other before cases are built."""
        if self.count:
            wanted = {name for index in range(self.count) for name in self.recipe(index).parents}
            for place, name in enumerate(sorted(wanted)):
                size = self.anatomy(name).nbytes  # here, so that the processes share it
                if place == 0:
                    self._expect_memory(len(wanted), size)
            self.velocities.prepare([pair for pair in pairs_of(self.neighbours) if {*pair} <= wanted], workers)

    def _expect_memory(self, count: int, size: int) -> None:
        """Raises UserError if `count` anatomies of about `size` bytes do not fit into the free memory."""
        free = free_memory()
        if (count - 1) * size > free:
            raise UserError(
                f"dataset.morphs={self.count}: the {count} CTs of which they are made take {count * size / 1e9:.0f} GB"
                f" in memory, where {free / 1e9:.0f} GB are free; make them coarser (dataset/prepare.py "
                "spacing=[2,2,2]), or train on fewer CTs"
            )

    def build(self, row) -> Case:
        """A case of the folder, a morph or a phantom."""
        if not self._is_made(row):
            return self.source.build(row)
        if row["id"].startswith(PHANTOM):
            return self.source.case_of(framed_phantom(_index(row), self.seed), row, drr=self._drr(row))
        stream = (self.seed, _index(row))
        morph = make_morph(self.recipe(stream[1]), self.anatomy, self.velocities.get, self.settings, stream)
        morph.volume.hu[~morph.scanned] = NOT_SCANNED_HU
        return self.source.case_of(morph.volume, row, morph.iodine_ml, self._drr(row))

    def _drr(self, row) -> DrrSettings:
        """Of a morph or a phantom."""
        own = self.source.drr
        return replace(own, view="AP", source_detector=None) if row["view"] == "AP" and self.ap_share else own

    def _drr_key(self, row) -> dict:
        own = self._drr(row)
        return {} if own is self.source.drr else {"drr_of_case": own.describe()}

    def describe(self) -> dict:
        """Protocol of the data: plain JSON, no path."""
        morphs = {"morphs": self.count, "morph": self.settings.describe()} if self.count else {}
        views = {"ap_share": self.ap_share} if self.ap_share else {}
        return {**self.source.describe(), **morphs, **({"phantoms": self.phantoms} if self.phantoms else {}), **views}

    def anatomy(self, name: str) -> Anatomy:
        """The anatomy of a training case."""
        if name not in self._anatomies:
            row = self.parents.loc[name]
            self._anatomies[name] = describe_anatomy(self.source.read(row), row["ct"])
        return self._anatomies[name]

    @cached_property
    def velocities(self) -> Velocities:
        """The registrations, in the folder of the cases."""
        cache_dir = self.source.splits.cache_dir
        folder = source_folder(self, cache_dir) / "registrations"
        return Velocities(folder, self._file_of, self.anatomy, cache_dir)

    def _file_of(self, pair: Pair) -> str:
        inputs = [self.source.anatomy_key(self.parents.loc[name]) for name in pair]
        return f"{case_key({'pair': inputs, 'version': REGISTRATION_VERSION})}.safetensors"

    def _is_made(self, row) -> bool:
        """Whether a case is a morph or phantom of this source, and no file, which may have `parents` of its own."""
        return bool(row["parents"]) and row["id"] not in self._files

    @cached_property
    def _files(self) -> frozenset[str]:
        return frozenset(self.source.rows["id"])


def _index(row) -> int:
    return int(row["id"].rpartition("_")[2])
