from snakemake.utils import min_version

min_version("9.19")

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/dataset.smk"
include: "workflow/rules/fmri.smk"
include: "workflow/rules/fmriprep.smk"
include: "workflow/rules/quality.smk"
include: "workflow/rules/weights.smk"
include: "workflow/rules/video.smk"
include: "workflow/rules/caption.smk"
include: "workflow/rules/pair.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/adapt.smk"
include: "workflow/rules/variants.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"{OUT}/report/index.html",
        f"{OUT}/evaluation/metrics.tsv",
        PLAN.intermediate_files,
    localrule: True
