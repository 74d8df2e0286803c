"""The part of the plan about variants of the model, ablations and retrained controls; `plan.Plan` is built on it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from neuroalign.config import Config
from neuroalign.config.variants import ABLATIONS, CONTROLS, Variant, folder_of

MODEL = "neuroalign"


class VariantPlan:
    """What `Plan` inherits; the attributes and methods named here are its own."""

    checked: Config
    out: str
    branches: list[str]
    unused_training: tuple[str, ...]

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """Ablations and retrained controls that the configuration asks for, by their name in paths."""
        found = {folder_of("ablation", name): ABLATIONS[name] for name in self.checked.ablations}
        return found | {folder_of("control", name): CONTROLS[name] for name in self.checked.controls}

    def variant(self, folder: str) -> Variant:
        """The variant of a folder, asked for or not."""
        everything = {folder_of("ablation", name): v for name, v in ABLATIONS.items()}
        return (everything | {folder_of("control", name): v for name, v in CONTROLS.items()})[folder]

    def variant_section(self, folder: str, *but: str) -> dict[str, Any]:
        """What a training rule of a variant reads of ``train``: as `Plan.section`, with the variant's overrides."""
        values = self.variant(folder).train(self.checked)
        return {key: values[key] for key in sorted(set(values) - {*but, "seeds", *self.unused_training})}

    def own_stage_1(self, folder: str) -> bool:
        """Whether a variant trains stage 1 anew; where it changes stage 2 alone, it starts from the model's."""
        variant, own = self.variant(folder), self.checked.train.model_dump(mode="json")
        return variant.pairs is not None or variant.train(self.checked)["ntcl"] != own["ntcl"]

    def stage_1(self, folder: str, branch: str, file: str) -> str:
        """A file of the stage-1 model that a variant goes on from."""
        return f"{self.out}/models/{folder + '/' if self.own_stage_1(folder) else ''}{branch}/ntcl/{file}"

    def scored_model(self, folder: str, branch: str, file: str) -> str:
        """A file of the model whose scores are those of a variant."""
        if self.variant(folder).stage == "ntcl":
            return self.stage_1(folder, branch, file)
        return f"{self.out}/models/{folder}/{branch}/vq/{file}"

    @property
    def variant_model_files(self) -> list[str]:
        """The models that variants train, both stages where both are their own."""
        return [
            f"{self.out}/models/{folder}/{branch}/{stage}/model.safetensors"
            for folder, variant in self.variants.items()
            for branch in self.branches
            for stage in ("ntcl", "vq")
            if (stage == "vq" and variant.stage == "vq") or (stage == "ntcl" and self.own_stage_1(folder))
        ]

    @property
    def ablation_score_files(self) -> list[str]:
        """Scores of all ablations."""
        return self._scores("without_")

    @property
    def control_score_files(self) -> list[str]:
        """Scores of all retrained controls."""
        return self._scores("control_")

    def _scores(self, prefix: str) -> list[str]:
        return [
            f"{self.out}/evaluation/scores/{MODEL}_{folder}/{branch}.h5"
            for folder in self.variants
            if folder.startswith(prefix)
            for branch in self.branches
        ]
