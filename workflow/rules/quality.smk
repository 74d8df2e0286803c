# A page for every run and every stimulus, for people to look at before they believe its numbers.


rule template_outline:
    input:
        template=PLAN.template_files,
        code=source_files("neuroalign.report.template_outline"),
    output:
        PLAN.template_outline,
    log:
        f"{OUT}/logs/template_outline/template_outline.log",
    conda:
        "../../envs/quality.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        space=CONFIG["fmri"]["space"],
        template=CONFIG["fmri"]["preprocess"]["template"],
    script:
        "../scripts/template_outline.py"


rule region_map:
    input:
        outline=rules.template_outline.output,
        atlas=PLAN.atlas_files,
        code=source_files("neuroalign.report.region_map"),
    output:
        PLAN.region_map,
    log:
        f"{OUT}/logs/region_map/region_map.log",
    conda:
        "../../envs/quality.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        space=CONFIG["fmri"]["space"],
        atlas=CONFIG["fmri"]["atlas"],
    script:
        "../scripts/region_map.py"


rule run_quality:
    input:
        series=rules.extract.output.series,
        qc=rules.extract.output.qc,
        images=lambda wildcards: PLAN.page_inputs(wildcards.run_id),
        atlas=PLAN.atlas_files,
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
        fmri=PLAN.section("fmri", but=("preprocess", "selection")),
    script:
        "../scripts/run_quality.py"


rule stimulus_quality:
    input:
        unpack(lambda wildcards: PLAN.look_inputs(wildcards.stimulus)),
        code=source_files("neuroalign.report.stimulus_page"),
    output:
        page=f"{OUT}/quality/stimuli/{{stimulus}}.html",
        record=f"{OUT}/quality/stimuli/{{stimulus}}.json",
    log:
        f"{OUT}/logs/stimulus_quality/{{stimulus}}.log",
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    script:
        "../scripts/stimulus_quality.py"


rule stimuli_overview:
    input:
        records=PLAN.stimulus_records,
        code=source_files("neuroalign.report.stimuli_overview"),
    output:
        f"{OUT}/quality/stimuli.html",
    log:
        f"{OUT}/logs/stimuli_overview/stimuli_overview.log",
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=1000,
        runtime=15,
    script:
        "../scripts/stimuli_overview.py"
