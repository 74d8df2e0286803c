"""The part of the plan about models and what is made of them; `plan.Plan` is built on it."""

from __future__ import annotations

from neuroalign.config import Config


class ModelPlan:
    """What `Plan` inherits; the attributes named here are its own."""

    checked: Config
    out: str
    ablation_score_files: list[str]

    @property
    def branches(self) -> list[str]:
        """One model per seed, or per fold and seed."""
        seeds, folds = self.checked.train.seeds, self.checked.split.folds
        if folds == 1:
            return [f"seed-{seed}" for seed in seeds]
        return [f"fold-{fold}_seed-{seed}" for fold in range(folds) for seed in seeds]

    @property
    def train_gpus(self) -> int:
        """GPUs of a training job: one for each of its processes."""
        train = self.checked.train
        return train.processes if train.device != "cpu" else 0

    @property
    def model_files(self) -> list[str]:
        """What the report shows of every model."""
        names = (
            "ntcl/history.tsv",
            "ntcl/delays.tsv",
            "vq/history.tsv",
            "vq/usage.tsv",
            "vq/codes.tsv",
            "vq/code_clips.tsv",
            "vq/code_regions.tsv",
        )
        return [f"{self.out}/models/{branch}/{name}" for branch in self.branches for name in names]

    @property
    def score_files(self) -> list[str]:
        """Scores of NeuroAlign, its ablations and every baseline."""
        methods = ["neuroalign", *self.checked.baselines]
        files = [f"{self.out}/evaluation/scores/{m}/{branch}.h5" for m in methods for branch in self.branches]
        return files + self.ablation_score_files

    @property
    def contribution_files(self) -> list[str]:
        """What levels and regions contribute to retrieval, of the first seed's model in every fold: hundreds of occlusions each."""
        first = self.checked.train.seeds[0]
        branches = [branch for branch in self.branches if parse_branch(branch)[1] == first]
        return [f"{self.out}/evaluation/contributions/{branch}.tsv" for branch in branches]

    @property
    def adaptation_files(self) -> list[str]:
        """Scores of adapted models: where people are held out, and their units are everybody's."""
        checked = self.checked
        if not (checked.split.unseen_people and checked.adapt.minutes and checked.fmri.units == "parcels"):
            return []
        folder = f"{self.out}/evaluation/adaptation"
        return [f"{folder}/{b}/{content}.h5" for b in self.branches for content in ("known", "new")]

    @property
    def learning_curve_files(self) -> list[str]:
        """The learning curve of unseen people, where there are any."""
        return [f"{self.out}/evaluation/learning_curve.tsv"] if self.adaptation_files else []


def parse_branch(branch: str) -> tuple[int, int]:
    """Fold and seed of a branch such as ``seed-0`` or ``fold-1_seed-0``."""
    parts = dict(part.split("-") for part in branch.split("_"))
    return int(parts.get("fold", 0)), int(parts["seed"])
