# What all rules share: the checked configuration, the plan (which runs, stimuli and models there are), and
# the source files each stage depends on.
import os
import shlex
import sys

sys.path.insert(0, workflow.basedir)
# Snakemake puts the interpreter into shell commands unquoted, which fails in folders with spaces in their names.
if os.path.exists(sys.executable):
    sys.executable = shlex.quote(sys.executable)

from neuroalign.config.backbones import keys_read
from neuroalign.errors import UserError
from neuroalign.modules import source_files
from neuroalign.plan import make_plan
from neuroalign.plan_video import embed_needs, shared_rules

try:
    PLAN = make_plan(config)
    # What `--cache` shares with other workflows: films and their features, nothing of a subject (docs/embeddings.md).
    SHARED = shared_rules(PLAN.checked.video, workflow.workflow_settings.cache)
except UserError as error:
    sys.exit(f"neuroalign: {error}")

# Once, not in every job.
if PLAN.text_notice and workflow.is_main_process:
    print(f"neuroalign: {PLAN.text_notice}.", file=sys.stderr)

# Rules pick their section from here: validated, with every default filled in.
CONFIG = PLAN.config
OUT = PLAN.out


wildcard_constraints:
    # Labels are those of neuroalign.bids.naming.LABEL.
    folder="sub-[A-Za-z0-9+]+(/ses-[A-Za-z0-9+]+)?",
    run_id="sub-[A-Za-z0-9+]+(_[a-z]+-[A-Za-z0-9+]+)*",
    anatomy="sub-[A-Za-z0-9+]+(_[a-z]+-[A-Za-z0-9+]+)*",
    stimulus="[^/]+",
    branch=r"(fold-\d+_)?seed-\d+",
    variant="(without|control)_[a-z_]+",
    method="(?!neuroalign)[a-z_]+",
