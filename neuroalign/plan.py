"""The plan of a workflow run: which runs, stimuli and models there are, and where their files lie.

Made once when the workflow is parsed, from an index that is cached outside the dataset (or from the simulator's
plan), so that a dry run shows every job. Nothing here imports torch, nilearn or ants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from neuroalign.bids import derivatives
from neuroalign.bids.metadata import Tree, applicable
from neuroalign.bids.naming import parse_name
from neuroalign.bids.raw_run import raw_sidecars
from neuroalign.bids.series_files import companions
from neuroalign.config import Config, parse_config
from neuroalign.config.backbones import PRECOMPUTED, REGISTRY
from neuroalign.errors import Problems, UserError
from neuroalign.fmri import fmriprep
from neuroalign.plan_brain import BrainPlan
from neuroalign.plan_models import ModelPlan
from neuroalign.plan_stimuli import StimulusPlan
from neuroalign.plan_text import TextPlan
from neuroalign.plan_variants import VariantPlan
from neuroalign.video.weights import Request, folder_problems, local_files, weights_request
from neuroalign.video.weights_record import RECORD


def make_plan(values: Mapping[str, Any] | Config) -> Plan:
    """Plan a run of the workflow.

    Parameters
    ----------
    values : mapping or Config
        The configuration as Snakemake has it, or already checked.

    Raises
    ------
    UserError
        If the configuration is wrong, the dataset cannot be indexed, or files it names are missing.
    """
    config = values if isinstance(values, Config) else parse_config(values)
    if config.dataset.simulate:
        from neuroalign.bids.filters import select_shown
        from neuroalign.simulate.plan import plan_dataset

        demo = plan_dataset(config.dataset.simulate, config.dataset.bids_dir)
        checked = _with_demo_atlas(config, str(demo.atlas_image))
        runs, shown = select_shown(demo.runs, demo.presentations, config.dataset.filters)
        plan = Plan(checked, runs, shown, demo.files, demo.truth_files)
        _check_inputs(plan)
        return plan
    from neuroalign.bids.cache import load_index

    index = load_index(config, Path(config.output_dir) / "index" / ".cache")
    if index.problems:
        raise Problems(index.problems)
    plan = Plan(config, index.runs, index.presentations, [], [])
    _check_inputs(plan)
    return plan


def _check_inputs(plan: Plan) -> None:
    """Refuse what a glance shows to be wrong, before hours of preprocessing do."""
    problems: list[str] = []
    fmri = plan.checked.fmri
    if fmri.atlas.image and fmri.source != "timeseries":
        from neuroalign.fmri.atlas import check_space

        try:
            check_space(fmri.atlas.image, fmri.space)
        except UserError as error:
            problems.append(str(error))
    if plan.engine == "fmriprep" and (problem := fmriprep.surface_problem(fmri.space)):
        problems.append(problem)
    if not plan.simulated and plan.films_needed:
        from neuroalign.validate import missing_stimuli, stray_stimuli

        problems += missing_stimuli(plan.checked, plan.presentations)
        problems += stray_stimuli(plan.checked, plan.presentations).values()
    problems += [problem for request in plan._requests.values() for problem in folder_problems(request)]
    for find in (lambda: plan.embedding_files, lambda: plan.brought_captions):
        try:
            find()
        except Problems as error:
            problems += error.problems
    if problems:
        raise Problems(problems)


def _with_demo_atlas(config: Config, image: str) -> Config:
    """The demo dataset brings its own atlas; what the user set stays."""
    fmri = config.fmri
    if fmri.atlas.name or fmri.atlas.image:
        return config
    update: dict[str, Any] = {"atlas": fmri.atlas.model_copy(update={"image": image})}
    if "levels" not in fmri.model_fields_set:
        update["levels"] = {level: f"_{level}_" for level in ("early", "intermediate", "high")}
    if "space" not in fmri.model_fields_set:
        update["space"] = "MNI152NLin2009aSym"
    return config.model_copy(update={"fmri": fmri.model_copy(update=update)})


@dataclass
class Plan(BrainPlan, TextPlan, StimulusPlan, ModelPlan, VariantPlan):
    """Runs, stimuli, models and their files.

    Attributes
    ----------
    checked : Config
    runs, presentations : DataFrame
        As written to ``index/runs.tsv`` and ``index/presentations.tsv``.
    dataset_files, truth_files : list of path
        What the simulator writes; empty for real data.
    """

    checked: Config
    runs: pd.DataFrame
    presentations: pd.DataFrame
    dataset_files: list[Path]
    truth_files: list[Path]

    def __post_init__(self):
        self.config = self.checked.plain()
        self.out = self.checked.output_dir.rstrip("/")
        self.simulated = self.checked.dataset.simulate is not None
        self._rows = {row["run_id"]: row for row in self.runs.fillna("").astype(str).to_dict("records")}
        self.run_ids = list(self._rows)
        stimuli = self.presentations.drop_duplicates("stimulus")
        self._stimuli = dict(zip(stimuli["stimulus"], stimuli["stimulus_file"].astype(str), strict=True))
        self.stimuli = sorted(self._stimuli)

    def section(self, name: str, *only: str, but: tuple[str, ...] = ()) -> dict[str, Any]:
        """A section of the configuration, some of its keys, or all but some: what one rule reads."""
        values = self.config[name]
        return {key: values[key] for key in sorted(only or set(values) - set(but))}

    @cached_property
    def digest(self) -> str:
        """Content of the index: equal digests, equal tables."""
        text = self.runs.to_csv(index=False) + self.presentations.to_csv(index=False)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    # --- runs -------------------------------------------------------------------------------------------------

    def run(self, run_id: str) -> dict[str, str]:
        """The row of ``runs.tsv`` of a run."""
        return self._rows[run_id]

    @property
    def events_files(self) -> list[str]:
        """Events of all runs."""
        return sorted({row["events"] for row in self._rows.values() if row["events"]})

    @property
    def engine(self) -> str | None:
        """What preprocesses raw runs here: ``native`` or ``fmriprep``; None where others did it."""
        return self.checked.fmri.preprocess.engine if self.checked.fmri.source == "raw" else None

    @property
    def preprocess(self) -> dict[str, Any]:
        """What native preprocessing reads from the configuration."""
        section = {
            k: v for k, v in self.config["fmri"]["preprocess"].items() if k not in ("engine", "fmriprep")
        }
        return {**section, "space": self.config["fmri"]["space"]}

    @property
    def template_files(self) -> list[str]:
        """The user's template image, if any."""
        template = self.checked.fmri.preprocess.template
        return [template] if template else []

    @cached_property
    def _anatomies(self) -> dict[str, str]:
        """T1w images by their BIDS name without suffix."""
        return {derivatives.stem(row["t1w"]): row["t1w"] for row in self._rows.values() if row["t1w"]}

    def t1w(self, anatomy: str) -> str:
        """The T1w image of an anatomy such as ``sub-01_ses-01``."""
        return self._anatomies[anatomy]

    @property
    def anatomy_outputs(self) -> dict[str, str]:
        """Output patterns of ``preprocess_anatomy``, with the wildcards ``{folder}`` and ``{anatomy}``."""
        files = derivatives.anatomy_paths("sub-X_T1w.nii.gz", self.preproc, space=self._space)
        return {name: _pattern(path, "anatomy") for name, path in files.items()}

    @property
    def preprocess_outputs(self) -> dict[str, str]:
        """Output patterns of ``preprocess``, with the wildcards ``{folder}`` and ``{run_id}``."""
        files = derivatives.run_paths("sub-X", self.preproc, space=self._space)
        return {name: _pattern(path, "run_id") for name, path in files.items()}

    @property
    def _space(self) -> str:
        return self.checked.fmri.space

    @property
    def preproc(self) -> str:
        """Root of the native engine's derivatives."""
        return f"{self.out}/preproc"

    def preprocessed(self, run_id: str) -> dict[str, str]:
        """Files that preprocessing a raw run gives, by their names in `derivatives.run_paths`; empty where others did it."""
        if self.engine is None:
            return {}
        if self.engine == "fmriprep":
            files = fmriprep.run_files(
                run_id, self._fmriprep_folder, space=self._space, resolution=self.checked.fmri.resolution
            )
        else:
            files = derivatives.run_paths(run_id, self.preproc, space=self._space)
        return {name: str(path) for name, path in files.items()}

    def run_to_extract(self, run_id: str) -> dict[str, str]:
        """The row of a run with the files that its regions come from; the raw image is then `raw_bold`."""
        row, done = self.run(run_id), self.preprocessed(run_id)
        if not done:
            return row
        return {**row, "raw_bold": row["bold"], **{k: done[k] for k in ("bold", "mask", "confounds")}}

    # --- regions ------------------------------------------------------------------------------------------------

    def anatomy_of(self, run_id: str) -> dict[str, str]:
        """Files of the anatomy that a run is aligned to, by their names in `derivatives.anatomy_paths`."""
        files = derivatives.anatomy_paths(self.run(run_id)["t1w"], self.preproc, space=self._space)
        return {name: str(path) for name, path in files.items()}

    def extract_inputs(self, run_id: str) -> dict[str, Any]:
        """What region extraction of a run reads."""
        files = {"atlas": self.atlas_files}
        if self.engine is not None:
            return self.preprocessed(run_id) | files
        row = self.run(run_id)
        series = self.checked.fmri.source == "timeseries"
        names = ("timeseries",) if series else ("bold", "mask", "confounds")
        files["sidecars"] = self.sidecars(run_id)
        if series:
            files["beside"] = [str(p) for p in companions(row["timeseries"]).values()]
        return {name: row[name] for name in names if row[name]} | files

    @cached_property
    def atlas_files(self) -> list[str]:
        """The atlas image and its label table, given or found beside it."""
        atlas = self.checked.fmri.atlas
        if not atlas.image:
            return [atlas.labels] if atlas.labels else []
        if atlas.labels:
            return [atlas.image, atlas.labels]
        # The demo's atlas need not exist yet: its table is among the files that the simulator will write.
        table = Path(atlas.image.removesuffix(".nii.gz") + ".tsv")
        if table in map(Path, self.truth_files):
            return [atlas.image, str(table)]
        from neuroalign.fmri.label_table import labels_beside

        found = labels_beside(atlas.image)
        return [atlas.image, *([str(found)] if found else [])]

    def sidecars(self, run_id: str) -> list[str]:
        """JSON files that hold the metadata of what a run is read from (BIDS inheritance)."""
        if self.simulated:
            return []
        row = self.run(run_id)
        if self.engine:
            return [str(p) for p in applicable(row["bold"], self._dataset, "bold", ".json")]
        path = row["timeseries" if self.checked.fmri.source == "timeseries" else "bold"]
        try:
            own = applicable(path, self._derivatives, parse_name(path).suffix, ".json")
        except ValueError:
            # A file of several runs has no BIDS name, and no sidecar.
            own = []
        return [str(p) for p in (*own, *raw_sidecars(run_id, self._dataset))]

    @cached_property
    def _dataset(self) -> Tree:
        return Tree(self.checked.dataset.bids_dir)

    @cached_property
    def _derivatives(self) -> Tree:
        return Tree(str(self.checked.dataset.derivatives))

    @property
    def series_files(self) -> list[str]:
        """ROI series, in the order of `run_ids`."""
        return [f"{self.out}/roi/{run_id}_timeseries.h5" for run_id in self.run_ids]

    @property
    def quality_files(self) -> list[str]:
        """Quality records of all runs."""
        return [f"{self.out}/roi/{run_id}_qc.h5" for run_id in self.run_ids]

    # --- stimuli ----------------------------------------------------------------------------------------------

    @property
    def precomputed(self) -> bool:
        """Whether features are brought by the user."""
        return self.checked.video.backbone == PRECOMPUTED

    def stimulus_file(self, stimulus: str) -> str:
        """The video of a stimulus."""
        return self._stimuli[stimulus]

    @property
    def mezzanine_files(self) -> list[str]:
        """Normalised videos of all stimuli; none where no stage looks at them."""
        return [self.mezzanine(stimulus) for stimulus in self.stimuli] if self.films_needed else []

    def mezzanine(self, stimulus: str) -> str:
        """The normalised video of a stimulus."""
        return f"{self.out}/stimuli/{stimulus}.mp4"

    @property
    def record_files(self) -> list[str]:
        """What was found in the films and done to them, in the order of `stimuli`; none where features are precomputed."""
        return [] if self.precomputed else [f.removesuffix(".mp4") + ".json" for f in self.mezzanine_files]

    @cached_property
    def embedding_files(self) -> list[str]:
        """Embeddings, in the order of `stimuli`."""
        if not self.precomputed:
            backbone = self.checked.video.backbone
            return [f"{self.out}/embeddings/{backbone}/{stimulus}.h5" for stimulus in self.stimuli]
        from neuroalign.video.precomputed import find_all_features

        files, problems = find_all_features(self.checked.video.precomputed_dir, self.stimuli)
        if problems:
            raise Problems(problems)
        return [str(path) for path in files.values()]

    @property
    def backbone_module(self) -> str:
        """The module of the backbone, whose code embeddings depend on."""
        registered = REGISTRY.get(self.checked.video.backbone)
        return registered.module if registered else "neuroalign.video.precomputed"

    @property
    def embed_gpus(self) -> int:
        """GPUs of an embedding job: only for backbones that can use one."""
        return int("backbone" in self.weights and self.checked.video.device != "cpu")

    # --- weights ----------------------------------------------------------------------------------------------

    @cached_property
    def _requests(self) -> dict[str, Request]:
        return weights_request(self.checked)

    @property
    def weights(self) -> dict[str, dict[str, Any]]:
        """The weights that are needed, by role, as plain values."""
        return {role: request.plain() for role, request in self._requests.items()}

    def weights_inputs(self, role: str) -> list[str]:
        """Files of a local folder of weights; none where they come from the hub."""
        return [str(path) for path in local_files(self._requests[role])]

    def weights_files(self, role: str) -> list[str]:
        """The record of the weights of a role, which jobs that load them read; none where no weights are needed."""
        return [f"{self.out}/weights/{role}/{RECORD}"] if role in self._requests else []

    # --- pairs, models, evaluation ----------------------------------------------------------------------------

    @property
    def brain_shards(self) -> list[str]:
        """fMRI windows, one file per subject."""
        return [f"{self.out}/pairs/sub-{subject}.h5" for subject in self.runs["subject"].drop_duplicates()]

    @property
    def sweep_files(self) -> list[str]:
        """The curves of the lag, where it is swept."""
        return [f"{self.out}/pairs/lag_sweep.tsv"] if self.checked.hrf.sweeps else []

    @property
    def intermediate_files(self) -> list[str]:
        """What is kept between the dataset and the report, one file for every job: asked for by `all`.

        Snakemake would not miss a deleted file on the way to a report that exists; a user would.
        """
        files = [*self.series_files, *self.quality_files, *self.quality_pages, *self.mezzanine_files]
        files += [] if self.precomputed else self.embedding_files
        files += [*self.described_files, *self.captions_files]
        files += [*self.stimulus_pages, *self.stimulus_overview]
        if self.engine is not None:
            files += [self.preprocessed(run_id)["bold"] for run_id in self.run_ids]
        if self.engine == "native":
            files += [self.anatomy_of(run_id)["t1w"] for run_id in self.run_ids]
        models = [
            f"{self.out}/models/{b}/{stage}/model.safetensors"
            for b in self.branches
            for stage in ("ntcl", "vq")
        ]
        files += [*self.adaptation_files, *self.learning_curve_files, *self.contribution_files]
        models += self.variant_model_files
        scores = [*self.score_files, *self.control_score_files]
        return sorted({*files, *self.brain_shards, *models, *self.model_files, *scores})


def _pattern(path: Path, wildcard: str) -> str:
    """The path of the made-up subject ``sub-X`` as a Snakemake pattern."""
    return str(path).replace("/sub-X/", "/{folder}/").replace("/sub-X_", f"/{{{wildcard}}}_")
