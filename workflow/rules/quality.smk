# A page for every run, for people to look at before they believe its numbers.


rule run_quality:
    input:
        series=rules.extract.output.series,
        qc=rules.extract.output.qc,
        images=lambda wildcards: PLAN.page_inputs(wildcards.run_id),
        atlas=PLAN.atlas_files,
        template=PLAN.template_files,
        code=source_files("neuroalign.report.run_quality"),
    output:
        f"{OUT}/quality/{{run_id}}.html",
    log:
        f"{OUT}/logs/run_quality/{{run_id}}.log",
    conda:
        "../../envs/quality.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        files=lambda wildcards: PLAN.page_files(wildcards.run_id),
        shown=lambda wildcards: PLAN.shown(wildcards.run_id),
        fmri=PLAN.page_section,
    script:
        "../scripts/run_quality.py"
