"""The part of the plan about captions; `plan.Plan` is built on it."""

from __future__ import annotations

from functools import cached_property

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
    def captioned(self) -> list[str]:
        """The stimuli that have captions, in the order of `stimuli`: all that BLIP-2 describes, or those that a user has."""
        if self.checked.text.source == "blip2":
            return self.stimuli
        return list(self.brought_captions)

    @property
    def captions_files(self) -> list[str]:
        """Captions, in the order of `captioned`; none where text is not used."""
        return [f"{self.out}/captions/{stimulus}.h5" for stimulus in self.captioned]

    @property
    def text_notice(self) -> str | None:
        """What to say of stimuli for which the user has no captions, if there are any."""
        if self.checked.text.source != "tsv":
            return None
        from neuroalign.text.tsv import without_captions

        return without_captions(self.checked.text.captions_dir, self.brought_captions, self.stimuli)

    @cached_property
    def brought_captions(self) -> dict[str, str]:
        """The user's captions, by stimulus in the order of `stimuli`; none where the user brings none."""
        if self.checked.text.source != "tsv":
            return {}
        from neuroalign.text.tsv import find_all_captions

        files, problems = find_all_captions(self.checked.text.captions_dir, self.stimuli)
        if problems:
            raise Problems(problems)
        return {stimulus: str(path) for stimulus, path in files.items()}

    @property
    def described_files(self) -> list[str]:
        """What BLIP-2 says about the films, in the order of `stimuli`; none where it says nothing."""
        if self.checked.text.source != "blip2":
            return []
        return [f"{self.out}/captions/blip2/{stimulus}.tsv" for stimulus in self.stimuli]

    def captions_inputs(self, stimulus: str) -> dict[str, str]:
        """What the captions of a stimulus are made from: words, a film (or features as long as it), weights."""
        index = self.stimuli.index(stimulus)
        film = self.mezzanine(stimulus) if self.films_needed else self.embedding_files[index]
        files = {"film": film, "weights": self.weights_files("text")[0]}
        if not self.described_files:
            return files | {"said": self.brought_captions[stimulus]}
        said = self.described_files[index]
        return files | {"said": said, "record": said.removesuffix(".tsv") + ".json"}

    @property
    def unused_training(self) -> tuple[str, ...]:
        """Keys of the section `train` that no training reads: the weights of text, where there is none."""
        return ("text",) if self.checked.text.source == "none" else ()

    @property
    def describe_gpus(self) -> int:
        """GPUs of a job in which BLIP-2 describes a film."""
        return int(self.checked.text.device != "cpu")
