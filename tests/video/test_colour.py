"""Colours of every kind of film arrive as a standard screen shows them."""

from __future__ import annotations

import numpy as np
import pytest

from neuroalign.config.video import Video
from neuroalign.video import tone
from neuroalign.video.decode import iterate_frames
from neuroalign.video.normalise import normalise


def _mean(source, folder, **config):
    """Mean colour of the middle of a film, and its record."""
    record = normalise(source, folder / "out.mp4", folder / "out.json", Video(height=96, **config))
    frames = np.concatenate([f for _, f in iterate_frames(folder / "out.mp4")])
    return frames[2][24:-24, 24:-24].reshape(-1, 3).mean(0), record


def _film(ffmpeg, path, code, transfer):
    """A 10-bit film of one colour with BT.2020 primaries, given as R'G'B' code values from 0 to 1."""
    r, g, b = (round(float(c) * 1023) for c in code)
    ffmpeg(
        *("-f", "lavfi", "-i", "color=black:s=96x96:d=1:r=8,format=gbrp10le"),
        "-vf",
        f"geq=r={r}:g={g}:b={b},scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10le,"
        f"setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}:range=tv",
        *("-c:v", "libx265", "-x265-params", "log-level=none:lossless=1", path),
    )
    return path


def test_pq_and_hlg_curves_at_the_values_of_the_standard():
    # BT.2100 and BT.2408: 58 % of PQ and 75 % of HLG are reference white, 203 cd/m²; HLG peaks at 1000.
    assert tone.pq_light(np.array([0.0, 0.58, 1.0])) == pytest.approx([0, 203, 10000], rel=0.01)
    grey = np.array([[0.75] * 3, [1.0] * 3])
    assert tone.hlg_light(grey)[:, 0] == pytest.approx([203, 1000], rel=0.01)
    light = np.geomspace(0.01, 9000, 50)
    assert tone.pq_light(tone.pq_code(light)) == pytest.approx(light, rel=1e-6)


def test_primaries_convert_as_published():
    # ITU-R BT.2087-0, section 2.
    published = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
    np.testing.assert_allclose(tone.conversion("bt2020", "bt709"), published, atol=2e-4)


def test_compression_leaves_the_dark_alone_rises_and_ends_at_white():
    light = np.linspace(0, 2000, 400)
    bent = tone.compress(light)
    assert (np.diff(bent) >= -1e-9).all()
    np.testing.assert_allclose(bent[light < 60], light[light < 60], rtol=1e-6)
    assert bent[light >= 1000] == pytest.approx(tone.WHITE, rel=1e-6)


@pytest.mark.parametrize("light", [5.0, 60.0, 203.0, 1000.0])
def test_grey_of_a_pq_film(ffmpeg, tmp_path, light):
    code = float(tone.pq_code(light))
    film = _film(ffmpeg, tmp_path / "in.mkv", [code] * 3, "smpte2084")
    mean, record = _mean(film, tmp_path)
    # Dark greys keep their light on a screen of 203 cd/m²; bright ones are compressed towards it, white last.
    shown = 203 * (mean.mean() / 255) ** 2.4
    if light <= 60:
        assert shown == pytest.approx(light, rel=0.08)
    else:
        assert 0.7 * min(light, 203) < shown <= 204
    assert np.ptp(mean) < 3
    assert record["source"]["transfer"] == "pq"
    assert any("high dynamic range (PQ)" in step for step in record["done"])


def test_a_saturated_colour_of_an_hlg_film_stays_that_colour(ffmpeg, tmp_path):
    # Made of light: an orange within BT.709, expressed in BT.2020 and coded in HLG.
    orange = np.array([60.0, 18.0, 4.0])
    wide = np.linalg.solve(tone.conversion("bt2020", "bt709"), orange)
    luminance = wide @ [0.2627, 0.6780, 0.0593]
    scene = wide / 1000 / (luminance / 1000) ** (1 - 1 / 1.2)
    code = np.sqrt(3 * scene)
    film = _film(ffmpeg, tmp_path / "in.mkv", code, "arib-std-b67")
    mean, _ = _mean(film, tmp_path)
    shown = 203 * (mean / 255) ** 2.4
    np.testing.assert_allclose(shown, orange, rtol=0.15, atol=0.6)


def test_wide_gamut_of_standard_range_is_not_left_pale(ffmpeg, tmp_path):
    # The red of BT.709 has these code values in BT.2020.
    red = np.linalg.solve(tone.conversion("bt2020", "bt709"), [0.6, 0.02, 0.02])
    film = _film(ffmpeg, tmp_path / "in.mkv", red ** (1 / 2.4), "bt2020-10")
    mean, record = _mean(film, tmp_path)
    np.testing.assert_allclose((mean / 255) ** 2.4, [0.6, 0.02, 0.02], atol=0.02)
    assert any("bt2020" in step for step in record["done"])


def test_our_table_agrees_with_another_tone_mapping(ffmpeg, tmp_path):
    """Not the same curve, but the same picture: far nearer to it than the untreated film is."""
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=96x96:d=1:r=8,format=gbrp10le"),
        "-vf",
        "lutrgb=r=val*0.65:g=val*0.65:b=val*0.65,scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10le,"
        "setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084:range=tv",
        *("-c:v", "libx265", "-x265-params", "log-level=none:lossless=1", tmp_path / "in.mkv"),
    )
    normalise(tmp_path / "in.mkv", tmp_path / "out.mp4", tmp_path / "out.json", Video(height=96))
    ours = next(iter(iterate_frames(tmp_path / "out.mp4")))[1][2].astype(float)
    linear = "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:desat=0"
    ffmpeg(
        *("-i", tmp_path / "in.mkv", "-vf", f"{linear},zscale=t=bt709:m=bt709:r=pc,format=rgb24"),
        *("-frames:v", 3, "-f", "rawvideo", tmp_path / "theirs.raw"),
    )
    theirs = np.fromfile(tmp_path / "theirs.raw", np.uint8).reshape(3, 96, 96, 3)[2].astype(float)
    ffmpeg(
        "-i", tmp_path / "in.mkv", "-frames:v", 3, *("-pix_fmt", "rgb24", "-f", "rawvideo", tmp_path / "raw")
    )
    untreated = np.fromfile(tmp_path / "raw", np.uint8).reshape(3, 96, 96, 3)[2].astype(float)
    assert np.abs(ours - theirs).mean() < 0.5 * np.abs(untreated - theirs).mean()
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.97


def test_transparent_pixels_lie_on_black(ffmpeg, tmp_path):
    ffmpeg(
        *("-f", "lavfi", "-i", "color=0xFF8040@0.5:s=96x96:d=1:r=8,format=rgba", "-c:v", "qtrle"),
        tmp_path / "in.mov",
    )
    mean, record = _mean(tmp_path / "in.mov", tmp_path)
    np.testing.assert_allclose(mean, np.array([0xFF, 0x80, 0x40]) / 2, atol=3)
    assert any("black" in step for step in record["done"])


@pytest.mark.parametrize("pixels", ["gray", "gray10le", "pal8", "rgb24", "yuv444p12le", "yuv411p"])
def test_unusual_pixels(ffmpeg, tmp_path, pixels):
    codec = {"pal8": "png", "rgb24": "png", "yuv411p": "rawvideo"}.get(pixels, "ffv1")
    suffix = "avi" if pixels == "yuv411p" else "mkv"
    ffmpeg(
        *("-f", "lavfi", "-i", f"color=0x969696:s=96x96:d=1:r=8,format={pixels}", "-c:v", codec),
        *("-pix_fmt", pixels, tmp_path / f"in.{suffix}"),
    )
    mean, _ = _mean(tmp_path / f"in.{suffix}", tmp_path)
    # A palette of 256 colours has none that is just this grey.
    np.testing.assert_allclose(mean, 150, atol=5 if pixels == "pal8" else 3)


def test_every_mezzanine_is_tagged_alike(ffmpeg, tmp_path):
    import av

    film = _film(ffmpeg, tmp_path / "in.mkv", [0.5] * 3, "smpte2084")
    _mean(film, tmp_path)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_trc, frame.color_primaries, frame.color_range) == (6, 1, 1, 1)
    assert "MASTERING_DISPLAY_METADATA" not in {d.type.name for d in frame.side_data}
