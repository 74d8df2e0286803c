"""The part of the plan about the pages of stimuli; `plan.Plan` is built on it."""

from __future__ import annotations

from functools import cached_property

# The report shows the pictures of so many stimuli itself; of more, a page beside it.
MOST_IN_REPORT = 24


class StimulusPlan:
    """What `Plan` inherits; the attributes named here are its own."""

    out: str
    stimuli: list[str]
    embedding_files: list[str]
    mezzanine_files: list[str]
    captioned: list[str]
    captions_files: list[str]

    @property
    def stimulus_pages(self) -> list[str]:
        """The page of every stimulus."""
        return [f"{self.out}/quality/stimuli/{stimulus}.html" for stimulus in self.stimuli]

    @property
    def stimulus_records(self) -> list[str]:
        """The numbers of every stimulus's page."""
        return [f"{self.out}/quality/stimuli/{stimulus}.json" for stimulus in self.stimuli]

    @property
    def stimulus_overview(self) -> list[str]:
        """One page with a picture of every stimulus, where there are too many for the report."""
        return [f"{self.out}/quality/stimuli.html"] if len(self.stimuli) > MOST_IN_REPORT else []

    def look_inputs(self, stimulus: str) -> dict[str, str]:
        """What a stimulus's page is drawn from, by the names in `report.stimulus_page.write_stimulus_page`."""
        return self._look_inputs[stimulus]

    @cached_property
    def _look_inputs(self) -> dict[str, dict[str, str]]:
        inputs = {s: {"features": file} for s, file in zip(self.stimuli, self.embedding_files, strict=True)}
        # Where features are precomputed there may be no films.
        for stimulus, film in zip(self.stimuli, self.mezzanine_files, strict=False):
            inputs[stimulus] |= {"video": film, "record": f"{film.removesuffix('.mp4')}.json"}
        for stimulus, file in zip(self.captioned, self.captions_files, strict=True):
            inputs[stimulus]["captions"] = file
        return inputs
