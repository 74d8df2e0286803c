"""The demo dataset: a raw BIDS dataset of people watching films, made on the spot, with known ground truth.

`plan_dataset` says what will be written without writing it (cheap enough for the parsing of a workflow);
`make_dataset` writes it. What is simulated, and after which publications, is described in
``docs/simulation.md``. Nothing else in NeuroAlign reads this package: the pipeline sees a BIDS dataset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["PRESETS", "DatasetPlan", "make_dataset", "plan_dataset"]

if TYPE_CHECKING:
    from neuroalign.simulate.dataset import make_dataset
    from neuroalign.simulate.plan import PRESETS, DatasetPlan, plan_dataset


def __getattr__(name: str):
    # Planning runs whenever a workflow is parsed; it must not pay for imaging libraries.
    if name == "make_dataset":
        from neuroalign.simulate.dataset import make_dataset

        return make_dataset
    if name in __all__:
        from neuroalign.simulate import plan

        return getattr(plan, name)
    raise AttributeError(f"module 'neuroalign.simulate' has no attribute '{name}'")
