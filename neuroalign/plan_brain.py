"""The part of the plan about fMRIPrep as the engine and about the pages of runs; `plan.Plan` is built on it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pandas as pd

from neuroalign.config import Config
from neuroalign.fmri import fmriprep


class BrainPlan:
    """What `Plan` inherits; the attributes and methods named here are its own."""

    checked: Config
    presentations: pd.DataFrame
    out: str
    run_ids: list[str]
    _rows: dict[str, dict[str, str]]

    # --- fMRIPrep as the engine ---------------------------------------------------------------------------------

    @property
    def _fmriprep_folder(self) -> str:
        return f"{self.out}/fmriprep"

    @cached_property
    def fmriprep(self) -> fmriprep.Places:
        """Folders of fMRIPrep's command line."""
        return fmriprep.Places.of(self.checked, self._fmriprep_folder)

    @cached_property
    def fmriprep_batches(self) -> list[fmriprep.Batch]:
        """People with the same runs, who share a rule."""
        return fmriprep.batches(
            self._rows.values(),
            self._fmriprep_folder,
            space=self._space,
            resolution=self.checked.fmri.resolution,
        )

    @property
    def fmriprep_arguments(self) -> str:
        """The part of fMRIPrep's command line that decides what comes out."""
        return fmriprep.arguments(self.checked, self._rows.values())

    @property
    def fmriprep_filter(self) -> str:
        """The BIDS filter file of fMRIPrep, as JSON."""
        return fmriprep.bids_filter(self.checked, self._rows.values())

    def raw_files(self, subject: str, kind: str) -> list[str]:
        """The raw files of one kind (`bold`, `t1w`) of a person's runs."""
        found = (row[kind] for row in self._rows.values() if row["subject"] == subject)
        return sorted({file for file in found if file})

    def raw_sidecars(self, subject: str) -> list[str]:
        """The sidecars of a person's raw runs."""
        ids = (run_id for run_id, row in self._rows.items() if row["subject"] == subject)
        return sorted({file for run_id in ids for file in self.sidecars(run_id)})

    # --- pages of runs ------------------------------------------------------------------------------------------

    @property
    def quality_pages(self) -> list[str]:
        """The page of every run."""
        return [f"{self.out}/quality/{run_id}.html" for run_id in self.run_ids]

    def page_files(self, run_id: str) -> dict[str, str]:
        """What a run's page is drawn from, by the names in `report.run_quality.write_run_page`; 4-D images by name only."""
        if self.checked.fmri.source == "timeseries":
            return {}
        if self.engine is None:
            row = self.run(run_id)
            reference = fmriprep.reference_of(row["bold"])
            found = {"boldref": reference if Path(reference).exists() else ""}
            found |= {name: row[name] for name in ("bold", "mask", "confounds")}
            return {name: path for name, path in found.items() if path} | {"template": self.template_outline}
        done = self.preprocessed(run_id)
        files = {name: done[name] for name in ("bold", "boldref", "mask", "confounds")}
        files["template"] = self.template_outline
        if self.engine == "native":
            anatomy = self.anatomy_of(run_id)
            files |= {"t1w": anatomy["t1w_template"], "t1w_mask": anatomy["mask_template"]}
        return files

    def page_inputs(self, run_id: str) -> list[str]:
        """Files among `page_files` that are read; their sidecars as well."""
        files = self.page_files(run_id)
        whole = files.pop("bold", None)
        if whole and "boldref" not in files:
            files["bold"] = whole
        sidecars = [self.preprocessed(run_id)["bold_json"]] if self.engine else self.sidecars(run_id)
        return [*files.values(), *(sidecars if whole else [])]

    @property
    def template_outline(self) -> str:
        """Brain and white matter of the template, which all pages draw."""
        return f"{self.out}/quality/template/outline.nii.gz"

    @property
    def region_map(self) -> str:
        """Slices of the atlas, by which regional results are drawn as a map."""
        return f"{self.out}/quality/template/regions.h5"

    @property
    def region_map_files(self) -> list[str]:
        """`region_map`, where there is an image of the atlas: series that others made need none."""
        here = self.checked.fmri.source != "timeseries" or self.checked.fmri.atlas.image
        return [self.region_map] if here else []

    def shown(self, run_id: str) -> list[tuple[float, float, str]]:
        """Onset, duration (seconds) and stimulus of every presentation of a run."""
        rows = self.presentations[self.presentations["run_id"] == run_id]
        return [
            (float(onset), float(duration), str(stimulus))
            for onset, duration, stimulus in zip(
                rows["onset"], rows["duration"], rows["stimulus"], strict=True
            )
        ]
