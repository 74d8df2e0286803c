# The dataset: made on the spot (demo), or indexed.


if PLAN.simulated:

    rule simulate:
        input:
            code=source_files("neuroalign.simulate.dataset"),
        output:
            dataset=PLAN.dataset_files,
            truth=PLAN.truth_files,
        log:
            f"{OUT}/logs/simulate/simulate.log",
        conda:
            "../../envs/simulate.yaml"
        threads: 8
        resources:
            mem_mb=4000,
            runtime=60,
        params:
            simulate=CONFIG["dataset"]["simulate"],
        script:
            "../scripts/simulate.py"


rule index:
    input:
        events=PLAN.events_files,
        code=source_files("neuroalign.bids.index"),
    output:
        runs=f"{OUT}/index/runs.tsv",
        presentations=f"{OUT}/index/presentations.tsv",
    log:
        f"{OUT}/logs/index/index.log",
    conda:
        "../../envs/fmri.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        # The index was read when the workflow was parsed; its content decides whether anything reruns.
        digest=PLAN.digest,
    script:
        "../scripts/index.py"
