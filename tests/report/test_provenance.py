"""What the report says that its numbers came from."""

from __future__ import annotations

import h5py

from neuroalign.report.provenance import features, section
from neuroalign.report.results import Results


def test_the_report_names_backbone_weights_and_revision(tmp_path):
    folder = tmp_path / "embeddings/clip"
    folder.mkdir(parents=True)
    results = Results(tmp_path, {"video": {"backbone": "clip"}})
    assert features(results) == []
    for name in ("one", "two"):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file.attrs["revision"] = "openai/clip-vit-large-patch14@c0ffee"
    assert features(results) == ["clip: openai/clip-vit-large-patch14@c0ffee"]
    (versions,) = [block for block in section(results).blocks if "Versions" in str(block)]
    assert "openai/clip-vit-large-patch14@c0ffee" in str(versions)
    with h5py.File(folder / "three.h5", "w") as file:
        file.attrs["revision"] = "lab/clip@f00d"
    # Films embedded with other weights are not hidden.
    assert len(features(results)) == 2
