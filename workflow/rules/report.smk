# One self-contained page for people.


rule report:
    input:
        index=rules.index.output,
        pairs=rules.pair.output,
        quality=PLAN.quality_files,
        pages=PLAN.quality_pages,
        stimuli=PLAN.mezzanine_files,
        looks=PLAN.stimulus_records,
        overview=PLAN.stimulus_overview,
        models=PLAN.model_files,
        evaluation=rules.evaluate.output,
        contributions=PLAN.contribution_files,
        regions=PLAN.region_map_files,
        curve=PLAN.learning_curve_files,
        truth=PLAN.truth_files,
        code=source_files("neuroalign.report.build"),
    output:
        report(
            f"{OUT}/report/index.html",
            caption="../report/report.rst",
            category="NeuroAlign",
        ),
    log:
        f"{OUT}/logs/report/report.log",
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        config=CONFIG,
    script:
        "../scripts/report.py"
