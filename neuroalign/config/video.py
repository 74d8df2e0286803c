"""Configuration of the video side."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from neuroalign.config import backbones
from neuroalign.config._section import Section, UserPath


class MotionEnergy(Section):
    """Size of the frames that the motion-energy pyramid sees."""

    size: int = Field(96, ge=32, le=256, description="Frames are scaled to this many pixels square.")


class Video(Section):
    """Video decoding and embedding."""

    fps: float = Field(8.0, gt=0, le=60, description="Frames per second that are embedded.")
    height: int = Field(224, ge=64, le=1080, description="Height of the normalised video in pixels.")
    on_damage: Literal["error", "truncate"] = Field(
        "error",
        description="What to do with a film that is cut off or damaged: stop and say at which second, or use what comes "
        "before and leave out the clips that need the rest.",
    )
    backbone: Annotated[str, AfterValidator(backbones.known)] = Field(
        "motion_energy",
        description="What turns frames into features (docs/backbones.md).",
        json_schema_extra={"enum": backbones.names()},
    )
    weights: str | None = Field(
        None,
        description="Hub id or local folder of the backbone's weights; null: the usual ones of its family "
        "(docs/backbones.md). Fetched by a step of its own, never in a job that computes.",
    )
    revision: str | None = Field(
        None,
        description="Revision of hub weights (commit, tag or branch); null: the main branch as first fetched.",
    )
    precomputed_dir: UserPath | None = Field(
        None, description="Folder of `<stimulus>.h5` feature files, for `backbone: precomputed`."
    )
    window_s: float = Field(1.0, gt=0, description="Seconds of video summarised by one embedding.")
    stride_s: float = Field(1.0, gt=0, description="Seconds between embeddings.")
    motion_energy: MotionEnergy = Field(default_factory=MotionEnergy, description="Motion-energy pyramid.")
    layers: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        min_length=1,
        description="Layers of a transformer that are its levels, counted from 1; null: four at evenly spaced depths, "
        "the last included.",
    )
    pooling: Literal["cls", "mean"] | None = Field(
        None,
        description="What stands for a layer of clip or dinov2: the class token or the mean over patches; null: cls for "
        "clip, mean for dinov2. Video models have no class token.",
    )
    clip_frames: int | None = Field(
        None,
        ge=1,
        description="Frames per clip of a video model; null: as many as its weights were made for.",
    )
    clip_fps: float | None = Field(
        None,
        gt=0,
        description="Frames per second of a video model's clips; null: as in its training (videomae 7.5, vjepa2 4).",
    )
    clip_tokens: Literal["window", "all"] = Field(
        "window",
        description="Which of a clip's tokens are averaged: those of the window that it surrounds, or all.",
    )
    batch_size: int = Field(
        32,
        ge=1,
        description="Frames per forward pass of a neural backbone; of a video model at least one clip.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where a neural backbone runs.")

    @model_validator(mode="after")
    def _keys_are_read(self) -> Video:
        for key in sorted(set(backbones.keys_of_some()) - set(backbones.keys_read(self.backbone))):
            value = getattr(self, key)
            # Where it runs is no choice of features, and the name of a section says whose it is.
            if key == "device" or isinstance(value, Section) or value == type(self).model_fields[key].default:
                continue
            readers = [name for name in backbones.REGISTRY if key in backbones.keys_read(name)]
            raise ValueError(
                f"{key} is set, but backbone {self.backbone} does not read it ({', '.join(readers)} "
                f"{'do' if len(readers) > 1 else 'does'}); remove it, or choose another backbone"
            )
        return self

    @model_validator(mode="after")
    def _rate_is_high_enough(self) -> Video:
        if self.window_s * self.fps < 1 - 1e-6:
            raise ValueError(
                f"window_s {self.window_s:g} is shorter than one frame at fps {self.fps:g}; "
                "make the window longer or the rate higher"
            )
        if self.backbone == "motion_energy" and self.fps < 2:
            raise ValueError(
                f"fps {self.fps:g} is too low for motion energy; set it to 2 or more (8 is usual)"
            )
        return self
