"""Configuration of the video side."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

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
    backbone: Literal["motion_energy", "resnet101", "precomputed"] = Field(
        "motion_energy", description="What turns frames into features."
    )
    weights: str | None = Field(
        None,
        description="Hub id or local folder of the backbone's weights; never downloaded in a training job.",
    )
    revision: str | None = Field(None, description="Revision of hub weights (commit or tag).")
    precomputed_dir: UserPath | None = Field(
        None, description="Folder of `<stimulus>.h5` feature files, for `backbone: precomputed`."
    )
    window_s: float = Field(1.0, gt=0, description="Seconds of video summarised by one embedding.")
    stride_s: float = Field(1.0, gt=0, description="Seconds between embeddings.")
    motion_energy: MotionEnergy = Field(default_factory=MotionEnergy, description="Motion-energy pyramid.")
    batch_size: int = Field(32, ge=1, description="Frames per forward pass of a neural backbone.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where a neural backbone runs.")

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
