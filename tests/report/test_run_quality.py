"""The page of a run: left is left, numbers are those of a naive count, and it is drawn from what there is."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.config.fmri import Atlas, Fmri
from neuroalign.errors import UserError
from neuroalign.fmri.preprocess.anatomy import load_template
from neuroalign.fmri.qc import PLANES, RunQc, write_qc
from neuroalign.fmri.series import RoiSeries, write_series
from neuroalign.io import write_tsv
from neuroalign.report import run_quality_checks as checks
from neuroalign.report.run_quality import write_run_page
from neuroalign.report.run_quality_images import Layout, Region, load_images, t1w_beside
from neuroalign.report.run_quality_time import _stretches
from neuroalign.report.template_outline import write_template_outline

SPACE = "MNI152NLin2009aSym"
LEVELS = {"early": "^early", "high": "^high"}
RUN = "sub-01_task-film_run-1"
VOLUMES, TR = 60, 2.0


class Files:
    """A preprocessed run in template space at 4 mm, made of nilearn's template; two regions, left and right."""

    def __init__(self, folder: Path):
        self.folder = folder
        template = load_template(SPACE, None, 4.0)
        self.affine, self.mask = template.affine, template.mask
        self.bold = np.where(self.mask, 1000 - 300 * template.data / template.data.max(), 0).astype(
            np.float32
        )
        self.t1w = template.data
        world_x = self.affine[0, 3] + self.affine[0, 0] * np.arange(self.mask.shape[0])
        self.atlas = np.zeros(self.mask.shape, np.int16)
        self.atlas[world_x < -10] = 1
        self.atlas[world_x > 10] = 2
        self.save("atlas.nii.gz", self.atlas)
        write_template_outline(SPACE, None, folder / "outline.nii.gz")
        write_template_outline("MNIColin27", None, folder / "none.nii.gz")
        (folder / "atlas.tsv").write_text("index\tlabel\n1\tearly_left\n2\thigh_right\n")

    def save(self, name: str, data: np.ndarray, affine: np.ndarray | None = None) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, self.affine if affine is None else affine), path)
        return str(path)

    def func(self, kind: str) -> str:
        return f"sub-01/func/{RUN}_space-{SPACE}_{kind}.nii.gz"

    def write(self, *, mirrored: bool = False, t1w: bool = True) -> dict[str, str]:
        """The run's files; `mirrored` stores the same heads with the first axis from right to left."""
        turn, affine = slice(None), self.affine
        if mirrored:
            turn = slice(None, None, -1)
            affine = self.affine @ np.array(
                [[-1, 0, 0, len(self.mask) - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
            )
        files = {
            "boldref": self.save(self.func("boldref"), self.bold[turn], affine),
            "mask": self.save(self.func("desc-brain_mask"), self.mask[turn].astype(np.uint8), affine),
            "bold": str(self.folder / self.func("desc-preproc_bold")),
            "confounds": str(self.folder / f"sub-01/func/{RUN}_desc-confounds_timeseries.tsv"),
            "template": str(self.folder / "outline.nii.gz"),
        }
        if t1w:
            files["t1w"] = self.save(f"sub-01/anat/sub-01_space-{SPACE}_desc-preproc_T1w.nii.gz", self.t1w)
        import pandas as pd

        wave = np.sin(np.arange(VOLUMES) / 5)
        table = {"std_dvars": 1 + 0.1 * wave, "global_signal": 500 + wave, "csf": 800 + wave}
        write_tsv(files["confounds"], pd.DataFrame(table))
        return files

    def load(self, files: dict[str, str], **changes):
        options = {"space": SPACE, "levels": LEVELS, **changes}
        return load_images(files, atlas=Atlas(image=str(self.folder / "atlas.nii.gz")), **options)

    def config(self, **changes) -> Fmri:
        values = {"space": SPACE, "atlas": {"image": str(self.folder / "atlas.nii.gz")}, "levels": LEVELS}
        return Fmri(**(values | changes))


def write_series_and_quality(folder: Path, *, images: bool = True, censored: tuple[int, ...] = ()):
    rng = np.random.default_rng(0)
    keep = ~np.isin(np.arange(VOLUMES), censored)
    levels = {"early": rng.normal(size=(VOLUMES, 4)), "high": rng.normal(size=(VOLUMES, 6))}
    times = 1.0 + TR * np.arange(VOLUMES)
    names = {level: [f"{level}_{k}" for k in range(data.shape[1])] for level, data in levels.items()}
    series = RoiSeries(
        {k: v.astype(np.float32) for k, v in levels.items()},
        names,
        times,
        keep,
        {"tr": TR, "atlas": "x", "subject": "01", "session": "", "task": "film", "run": "1", "space": SPACE,
         "source": "raw", "hrf_removed": False},
    )  # fmt: skip
    write_series(folder / "series.h5", series)
    y, x = np.mgrid[-1:1:46j, -1:1:40j]
    head = 60.0 * (x**2 + y**2 < 0.8)
    qc = RunQc(
        carpet=rng.standard_normal((40, VOLUMES)),
        times=times,
        keep=keep,
        tsnr=dict.fromkeys(PLANES, head) if images else {},
        tsnr_median=60.0 if images else np.nan,
        fd=np.where(keep, 0.1, 0.9) if images else None,
        motion=0.1 * rng.standard_normal((VOLUMES, 6)) if images else None,
        attributes={"run_id": RUN, "subject": "01", "source": "raw"},
    )
    write_qc(folder / "qc.h5", qc)
    return folder / "series.h5", folder / "qc.h5"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Files:
    return Files(tmp_path_factory.mktemp("run"))


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
def test_left_in_the_head_is_left_in_the_picture_however_it_is_stored(made, mirrored):
    images = made.load(made.write(mirrored=mirrored))
    layout = Layout(images.brain, images.affine)
    picture = layout.compose(images.levels)
    marks = {text: (column, row) for column, row, text, align in layout.labels() if align != "center"}
    # Levels: 1 lies at negative x, which is the left; letters beside the first axial slice.
    left = next(c for c, r, text, _ in layout.labels() if text == "L")
    right = next(c for c, r, text, _ in layout.labels() if text == "R")
    row = int(next(r for c, r, text, _ in layout.labels() if text == "L"))
    tile = picture[row, int(left) : int(right)]
    first, second = np.flatnonzero(tile == 1), np.flatnonzero(tile == 2)
    assert first.size
    assert second.size
    assert first.max() < second.min()
    assert set(marks) == {"L", "R", "P", "A"}
    assert images.flips == (mirrored, False, False)


def test_slices_lie_where_they_say(made):
    """A plane painted at each coordinate that is written below a slice lights up the whole of that slice."""
    images = made.load(made.write())
    layout = Layout(images.brain, images.affine)
    for column, row, text, align in layout.labels():
        if align != "center":
            continue
        axis, where = "xyz".index(text[0]), float(text[4:].replace("\N{MINUS SIGN}", "-"))
        index = round((where - images.affine[axis, 3]) / images.affine[axis, axis])
        painted = np.zeros(images.brain.shape)
        np.moveaxis(painted, axis, 0)[index] = 1
        assert layout.compose(painted)[int(row) - 8, int(column)] == 1, text


def test_overlap_and_voxels_are_those_of_a_naive_count(made):
    images = made.load(made.write())
    assert images.dice > 0.97
    inside = [int((made.mask & (made.atlas == k)).sum()) for k in (1, 2)]
    assert [(r.label, r.level, r.inside, r.whole) for r in images.regions] == [
        ("early_left", "early", inside[0], int((made.atlas == 1).sum())),
        ("high_right", "high", inside[1], int((made.atlas == 2).sum())),
    ]
    # About half the brain is not in view; of a share s in view the coefficient is 2s / (1 + s).
    whole = made.mask
    made.mask = whole & (np.cumsum(whole.sum(axis=(1, 2))) < whole.sum() / 2)[:, None, None]
    share = made.mask.sum() / whole.sum()
    try:
        assert made.load(made.write()).dice == pytest.approx(2 * share / (1 + share), abs=0.02)
    finally:
        made.mask = whole


def test_without_a_template_or_t1w_the_page_says_so(made):
    files = made.write(t1w=False)
    images = made.load(files | {"template": str(made.folder / "none.nii.gz")}, space="MNIColin27")
    assert np.isnan(images.dice)
    assert images.t1w is None
    assert any("no built-in template of 'MNIColin27'" in text for text in images.absent)
    assert any("no T1w image" in text for text in images.absent)


def test_of_a_run_without_reference_only_the_first_volume_is_read(made, tmp_path):
    """The file is cut off in its middle: reading more than its beginning would fail."""
    files = made.write(t1w=False)
    noise = np.random.default_rng(0).normal(size=(*made.mask.shape, 6))
    series = (made.bold[..., None] + noise).astype(np.float32)
    path = Path(made.save("long_bold.nii.gz", series))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    images = made.load({"bold": str(path), "mask": files["mask"]})
    assert images.first_volume
    assert np.corrcoef(images.bold[images.brain], made.load(files).bold[images.brain])[0, 1] > 0.99


def test_a_missing_image_is_a_sentence(made, tmp_path):
    files = made.write()
    with pytest.raises(UserError, match=r"gone\.nii\.gz does not exist"):
        write_template_outline(SPACE, tmp_path / "gone.nii.gz", tmp_path / "outline.nii.gz")
    with pytest.raises(UserError, match="does not exist"):
        made.load(files | {"mask": str(made.folder / "gone.nii.gz")})


@pytest.mark.parametrize("place", ["sub-02/ses-a/anat/sub-02_ses-a", "sub-02/anat/sub-02"])
def test_the_t1w_image_is_found_where_fmriprep_puts_it(tmp_path, place):
    bold = tmp_path / "sub-02/ses-a/func/sub-02_ses-a_task-film_space-X_res-2_desc-preproc_bold.nii.gz"
    assert t1w_beside(str(bold), "X") == {}
    for name in (
        "_space-Y_desc-preproc_T1w",
        "_space-X_res-2_desc-preproc_T1w",
        "_space-X_res-2_desc-brain_mask",
    ):
        path = tmp_path / f"{place}{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = t1w_beside(str(bold), "X")
    assert found["t1w"] == str(tmp_path / f"{place}_space-X_res-2_desc-preproc_T1w.nii.gz")
    assert found["t1w_mask"].endswith("_space-X_res-2_desc-brain_mask.nii.gz")


# --- numbers ------------------------------------------------------------------------------------------------------


def quality(**changes) -> RunQc:
    values = {
        "carpet": np.zeros((2, VOLUMES)), "times": TR * np.arange(VOLUMES), "keep": np.ones(VOLUMES, bool),
        "fd": np.full(VOLUMES, 0.1), "tsnr_median": 60.0,
    }  # fmt: skip
    return RunQc(**(values | changes))


def states(**changes) -> dict[str, str]:
    made = checks.checks(checks.RunNumbers(TR, 0.97, True), quality(**changes), None)
    return {check.label: check.state for check in made}


@pytest.mark.parametrize(
    ("changes", "label", "state"),
    [
        ({}, "Head motion", "good"),
        ({"fd": np.full(VOLUMES, 0.3)}, "Head motion", "look"),
        ({"fd": np.full(VOLUMES, 0.6)}, "Head motion", "bad"),
        ({"fd": np.where(np.arange(VOLUMES) == 3, 5.1, 0.0)}, "Head motion", "bad"),
        ({"keep": np.arange(VOLUMES) >= 12}, "Censored", "good"),
        ({"keep": np.arange(VOLUMES) >= 13}, "Censored", "look"),
        ({"keep": np.arange(VOLUMES) >= 31}, "Censored", "bad"),
        ({"tsnr_median": 40.0}, "Temporal SNR", "good"),
        ({"tsnr_median": 39.0}, "Temporal SNR", "look"),
        ({"tsnr_median": 19.0}, "Temporal SNR", "bad"),
    ],
)
def test_marks_change_at_their_limits(changes, label, state):
    assert states(**changes)[label] == state


def test_what_is_not_known_is_not_judged():
    assert set(states(fd=None, tsnr_median=np.nan)) == {"Length", "First volume", "Censored"}


@pytest.mark.parametrize(
    ("regions", "state", "words"),
    [
        ([(40, 50), (60, 60)], "good", "smallest a0 (40 voxels)"),
        ([(20, 50), (60, 60)], "look", "half or more outside the mask: a0"),
        ([(3, 3), (60, 60)], "look", "smallest a0 (3 voxels)"),
        ([(0, 50), (60, 60)], "bad", "without any: a0"),
    ],
)
def test_regions_outside_the_brain_are_named(regions, state, words):
    check = checks._regions([Region(f"a{k}", "early", *sizes) for k, sizes in enumerate(regions)])
    assert check.state == state
    assert words in check.remark


def test_the_first_sentence_names_what_is_wrong():
    made = checks.checks(checks.RunNumbers(TR), quality(fd=np.full(VOLUMES, 0.6), tsnr_median=30.0), None)
    assert checks.verdict(made) == "This run has a problem: head motion; have a look at temporal SNR, too."


@settings(max_examples=50)
@given(st.lists(st.booleans(), max_size=40))
def test_stretches_cover_exactly_what_is_flagged(flags):
    covered = np.zeros(len(flags), bool)
    for start, stop in _stretches(np.array(flags, bool)):
        assert stop > start
        assert not covered[start:stop].any()
        covered[start:stop] = True
    assert covered.tolist() == flags


# --- the page -----------------------------------------------------------------------------------------------------


def sections(html: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', html)


@pytest.mark.slow
def test_the_page_is_one_file_and_the_same_every_time(made, tmp_path):
    files = made.write()
    Path(files["bold"].replace(".nii.gz", ".json")).write_text(
        '{"StartTime": 0.9678, "SliceTimingCorrected": true}'
    )
    series, qc = write_series_and_quality(tmp_path, censored=(10, 11, 30))
    pages = []
    for name in ("a.html", "b.html"):
        shown = [(10.0, 30.0, "one"), (50.0, float("nan"), "two")]
        write_run_page(RUN, series, qc, files, tmp_path / name, made.config(), shown=shown)
        pages.append((tmp_path / name).read_text())
    html = pages[0]
    assert pages[0] == pages[1]
    assert sections(html) == ["glance", "alignment", "regions", "time", "signal", "limits"]
    assert html.count("<img") == 7
    assert all(source.startswith("data:image/") for source in re.findall(r'<img src="([^"]{12})', html))
    assert len(html) < 4e6
    words = re.sub(r"<[^>]+>|\s+", " ", html)
    assert "StartTime 0.968 s, slice timing corrected" in words
    assert "3 volumes of 60" in words
    assert "white matter of the T1w image" in html or "white matter over the mean BOLD" in words
    assert 'href="../report/index.html"' in html


def test_the_page_of_time_series_shows_what_there_is(made, tmp_path):
    series, qc = write_series_and_quality(tmp_path, images=False)
    write_run_page(RUN, series, qc, {}, tmp_path / "a.html", made.config(source="timeseries"))
    html = (tmp_path / "a.html").read_text()
    assert sections(html) == ["glance", "time", "signal", "limits"]
    assert "Motion is not known" in html
    assert "Temporal SNR is not known" in html
    assert html.count("<img") == 2


def test_regions_that_do_not_vary_and_one_region_can_be_drawn(made, tmp_path):
    series, qc = write_series_and_quality(tmp_path, images=False)
    with h5py.File(series, "a") as file:
        file["levels/early/data"][:] = 0
        file["levels/high/data"][:, 1:] = 0
    write_run_page(RUN, series, qc, {}, tmp_path / "a.html", made.config(source="timeseries"))
    assert "Correlation matrix" in (tmp_path / "a.html").read_text()
