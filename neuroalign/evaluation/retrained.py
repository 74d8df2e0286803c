"""Controls for which the model itself was trained again, on pairs that tell it nothing.

=======================  ===========================================================================
control                  the model learned from
=======================  ===========================================================================
``retrained_shuffled``   training and validation windows dealt out anew among the clips of a person
``retrained_shifted``    brain windows of half a run later, in training and test
``retrained_time_only``  clip time in place of the brain, in training and test
=======================  ===========================================================================

All are expected at chance on the true test pairs. The first shows that nothing but the training pairing made the model: a
training that looks at test windows does better than chance. The others show that what brain and film share slowly (drift, the
place in the run) is not enough.

A control fails where it is above chance by both of two judgements: its interval, at a level that is 95 % for all subjects and
directions of the control together, and rotations of the test pairing (`evaluation.permutation`), at the same level where there are
enough of them. A map learned from one shuffle is a random map, and all test queries share its luck; rotated labels
share it too. Of several seeds, each with a shuffle of its own, the mean is judged, and the interval resamples seeds as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from neuroalign.config.evaluate import Evaluate
from neuroalign.evaluation.controls import COLUMNS, SIMULTANEOUS, judged, over_draws
from neuroalign.evaluation.statistics import Judge
from neuroalign.evaluation.trials import Trials

PREFIX = "neuroalign_control_"


def retrained_table(
    trials: Mapping[str, Mapping[str, Mapping[int, Sequence[Trials]]]], config: Evaluate
) -> pd.DataFrame:
    """Judge the retrained controls on the full gallery.

    Parameters
    ----------
    trials : dict of model to dict of direction to dict of seed to list of Trials
        Of models named ``neuroalign_control_<name>``; others are left out.
    config : Evaluate

    Returns
    -------
    table : DataFrame with `controls.COLUMNS`
    """
    config = config.model_copy(update={"galleries": ["full"], "exclude_s": [min(config.exclude_s)]})
    judge = Judge(config)
    rows = []
    for model, directions in trials.items():
        if not model.startswith(PREFIX):
            continue
        name = f"retrained_{model.removeprefix(PREFIX)}"
        measured = {
            direction: over_draws([judge.measure(items) for items in seeds.values()], config.seed)
            for direction, seeds in directions.items()
        }
        count = sum(len(subjects) for subjects in measured.values())
        level = (1 - SIMULTANEOUS) / count
        for direction, subjects in measured.items():
            for subject, measures in subjects.items():
                about = {"control": name, "model": "neuroalign", "subject": subject, "direction": direction}
                for measure in measures:
                    row = judged(name, measure, None, count)
                    enough = 1 / (1 + len(measure.null)) <= level
                    if row["passed"] is False and enough and measure.p_value > level:
                        row["passed"] = True
                    rows.append(about | row)
    return pd.DataFrame(rows, columns=list(COLUMNS))
