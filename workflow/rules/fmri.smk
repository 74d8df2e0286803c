# Raw BOLD to preprocessed BOLD (only when the source is raw), then to cleaned regional series.


rule preprocess_anatomy:
    input:
        t1w=lambda wildcards: PLAN.t1w(wildcards.anatomy),
        template=PLAN.template_files,
        code=source_files("neuroalign.fmri.preprocess.native"),
    output:
        **PLAN.anatomy_outputs,
    log:
        f"{OUT}/logs/preprocess_anatomy/{{folder}}/{{anatomy}}.log",
    conda:
        "../../envs/fmri.yaml"
    # ANTs on one thread gives equal bytes for equal inputs (fmri/preprocess/register.py).
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        preprocess=PLAN.preprocess,
    script:
        "../scripts/preprocess_anatomy.py"


rule preprocess:
    input:
        bold=lambda wildcards: PLAN.run(wildcards.run_id)["bold"],
        sidecars=lambda wildcards: PLAN.sidecars(wildcards.run_id),
        anatomy=lambda wildcards: PLAN.anatomy_of(wildcards.run_id).values(),
        template=PLAN.template_files,
        code=source_files("neuroalign.fmri.preprocess.native"),
    output:
        **PLAN.preprocess_outputs,
    log:
        f"{OUT}/logs/preprocess/{{folder}}/{{run_id}}.log",
    conda:
        "../../envs/fmri.yaml"
    # Two runs at once are faster than two threads for one: coregistration takes half of the time, and one thread.
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        preprocess=PLAN.preprocess,
        anatomy=lambda wildcards: PLAN.anatomy_of(wildcards.run_id),
        bids_dir=CONFIG["dataset"]["bids_dir"],
    script:
        "../scripts/preprocess.py"


rule extract:
    input:
        unpack(lambda wildcards: PLAN.extract_inputs(wildcards.run_id)),
        code=source_files("neuroalign.fmri.extract"),
    output:
        series=f"{OUT}/roi/{{run_id}}_timeseries.h5",
        qc=f"{OUT}/roi/{{run_id}}_qc.h5",
    log:
        f"{OUT}/logs/extract/{{run_id}}.log",
    conda:
        "../../envs/fmri.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        run=lambda wildcards: PLAN.run_to_extract(wildcards.run_id),
        fmri=PLAN.section("fmri", but=("preprocess", "selection")),
        bids_dir=CONFIG["dataset"]["bids_dir"],
        preproc=PLAN.preproc,
    script:
        "../scripts/extract.py"
