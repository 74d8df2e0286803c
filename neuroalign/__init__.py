"""NeuroAlign: from raw BIDS fMRI and videos to a model that retrieves one from the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from neuroalign.models.trained import load


def __getattr__(name: str):
    # `load` needs torch; importing the package (for its version, for a TSV) must not.
    if name == "load":
        from neuroalign.models.trained import load

        return load
    raise AttributeError(f"module 'neuroalign' has no attribute '{name}'")
