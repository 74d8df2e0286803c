"""The part of the plan about captions; `plan.Plan` is built on it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from neuroalign.config import Config
from neuroalign.errors import Problems


class TextPlan:
    """What `Plan` inherits; the attributes and methods named here are its own."""

    checked: Config
    out: str
    stimuli: list[str]

    @property
    def films_needed(self) -> bool:
        """Whether films are looked at: not where features are brought, unless BLIP-2 is to describe the films."""
        return not self.precomputed or self.checked.text.source == "blip2"

    @property
    def captions_files(self) -> list[str]:
        """Captions, in the order of `stimuli`; none where text is not used."""
        if self.checked.text.source == "none":
            return []
        return [f"{self.out}/captions/{stimulus}.h5" for stimulus in self.stimuli]

    @cached_property
    def brought_captions(self) -> dict[str, str]:
        """The user's captions, by stimulus; none where the user brings none."""
        if self.checked.text.source != "tsv":
            return {}
        from neuroalign.text.tsv import find_all_captions

        files, problems = find_all_captions(self.checked.text.captions_dir, self.stimuli)
        if problems:
            raise Problems(problems)
        return {stimulus: str(path) for stimulus, path in files.items()}

    def captions_inputs(self, stimulus: str) -> dict[str, str]:
        """What the captions of a stimulus are made from: a film (or features as long as it), words, weights."""
        features = dict(zip(self.stimuli, self.embedding_files, strict=True))
        files = {"film": self.mezzanine(stimulus) if self.films_needed else features[stimulus]}
        roles = ["text"]
        if self.checked.text.source == "tsv":
            files["said"] = self.brought_captions[stimulus]
        else:
            roles.append("blip2")
        return files | {f"{role}_weights": file for role in roles for file in self.weights_files(role)}

    @property
    def text(self) -> dict[str, Any]:
        """What captions are made by; what BLIP-2 alone reads is left out where it writes none."""
        section = self.checked.text.model_dump(mode="json", exclude={"captions_dir"})
        unread = (
            () if section["source"] == "blip2" else ("weights", "revision", "prompt", "beams", "max_tokens")
        )
        return {key: section[key] for key in sorted(set(section) - set(unread))}

    @property
    def caption_module(self) -> str:
        """The module that makes captions files, whose code they depend on."""
        return f"neuroalign.text.{'described' if self.checked.text.source == 'blip2' else 'brought'}"

    @property
    def caption_resources(self) -> dict[str, int]:
        """What a caption job asks for: BLIP-2 with OPT-2.7b takes 15 GB in float32; a text model alone is small."""
        text = self.checked.text
        if text.source != "blip2":
            return {"mem_mb": 4000, "runtime": 60, "gpu": 0}
        return {"mem_mb": 20_000, "runtime": 1440, "gpu": int(text.device != "cpu")}
