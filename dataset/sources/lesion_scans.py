"""CTs of a folder, each several times without a lesion and with lesions at another place."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from common.errors import UserError
from dataset.cases.case import Case, case_key
from dataset.imaging.coverage import fill, resample_scanned
from dataset.imaging.volume import Volume
from dataset.manifest.table import VOLUME
from dataset.phantom.lesions import HEALTHY, lesion_of, subject_of
from dataset.sources.drawn_lesions import DRAWING_VERSION, PLACES, SCAN_LESIONS, LesionDrawing
from dataset.sources.folder import FolderSource

PLACE = "_place"  # between the id of a CT and the number of the place


class LesionScans:
    """The test cases of a folder, `count` times each; the id of a case ends in the number of its place and its lesion.

    An effusion and an airless half of a lung have fewer places (`PLACES`) than a nodule.

    Args:
        source: the folder; the X-rays of its test cases must be DRRs.
        count: of the places of each lesion in a CT.
        scans: number of test CTs; None means all.
    """

    lesions, both = SCAN_LESIONS, True

    def __init__(self, source: FolderSource, count: int, scans: int | None = None):
        self.source, self.count, self.scans = source, int(count), scans
        self.name, self.xray_options, self.describe = source.name, source.xray_options, source.describe
        self.missing, self.forward_model = source.missing, source.drr.forward_model
        self._last: tuple[str, Volume, LesionDrawing] | None = None  # CTs are large

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row for each CT, place and lesion, `healthy` first; all are test cases. UserError for X-ray files."""
        rows = self.source.rows
        chosen = rows[rows["split"] == "test"].head(self.scans or len(rows))
        if (chosen["xray"] != "").any() or (chosen["xray_source"] == VOLUME).any():
            raise UserError(
                f"{self.source.files.root_dir}: its test cases have X-ray files, to which no lesion can be added; "
                "give CTs alone, of which X-rays are rendered"
            )
        made = [
            {**row, "id": f"{row['id']}{PLACE}{place}_{lesion}"}
            for row in chosen.to_dict("records")
            for place in range(self.count)
            for lesion in (HEALTHY, *self.lesions)
            if place < PLACES.get(lesion, self.count)
        ]
        return pd.DataFrame(made, columns=rows.columns)

    def home(self) -> dict:
        """Identity of the cache folder."""
        return {**self.source.home(), "lesions": DRAWING_VERSION}

    def key(self, row) -> str:
        """Hash of all inputs and settings of the case of `row`."""
        return case_key({"scan": self.source.key(row), "case": row["id"], "lesions": DRAWING_VERSION})

    def build(self, row) -> Case:
        """The CT of a row with its lesion, projected and resampled; the X-rays of a place have the same noise."""
        volume, drawing = self._opened(row)
        hu = drawing.draw(lesion_of(row), int(subject_of(row).rpartition(PLACE)[2]))
        drawn = Volume(hu, volume.spacing, volume.centre, volume.direction)
        return self.source.case_of(drawn, {**row, "id": subject_of(row)})

    def places(self, row, lesion: str) -> Iterator[Float[np.ndarray, "d h w"]]:
        """The CT of a row with an effusion or an airless half at each of its places, in HU on the grid of the case."""
        volume, drawing = self._opened(row)
        size, spacing = self.source.geometry.volume_size, self.source.geometry.spacing
        for hu in drawing.places(lesion):
            yield fill(resample_scanned(Volume(hu, volume.spacing, volume.centre), size, spacing).hu)[0].round()

    def _opened(self, row) -> tuple[Volume, LesionDrawing]:
        if self._last is None or self._last[0] != row["ct"]:
            volume = self.source.read(row)
            self._last = (row["ct"], volume, LesionDrawing.of(volume, row["ct"]))
        return self._last[1:]
