# Every method writes the same score file; one evaluator reads them all.


rule score:
    input:
        pairs=rules.pair.output,
        model=rules.train_vq.output.model,
        description=rules.train_vq.output.description,
        code=source_files(
            "neuroalign.models.score", "neuroalign.evaluation.scores", "neuroalign.evaluation.leakage"
        ),
    output:
        f"{OUT}/evaluation/scores/neuroalign/{{branch}}.h5",
    log:
        f"{OUT}/logs/score/{{branch}}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    script:
        "../scripts/score.py"


rule contribution:
    input:
        pairs=rules.pair.output,
        model=rules.train_vq.output.model,
        description=rules.train_vq.output.description,
        code=source_files("neuroalign.evaluation.contributions"),
    output:
        f"{OUT}/evaluation/contributions/{{branch}}.tsv",
    log:
        f"{OUT}/logs/contribution/{{branch}}.log",
    conda:
        "../../envs/train.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        evaluate=PLAN.section("evaluate", "block_s", "bootstrap", "confidence", "seed"),
    script:
        "../scripts/contribution.py"


rule baseline:
    input:
        pairs=rules.pair.output,
        code=source_files("neuroalign.evaluation.baselines", "neuroalign.evaluation.baselines.*"),
    output:
        scores=f"{OUT}/evaluation/scores/{{method}}/{{branch}}.h5",
        choices=f"{OUT}/evaluation/scores/{{method}}/{{branch}}.json",
    log:
        f"{OUT}/logs/baseline/{{method}}_{{branch}}.log",
    conda:
        "../../envs/train.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=120,
    script:
        "../scripts/baseline.py"


rule evaluate:
    input:
        pairs=rules.pair.output,
        scores=PLAN.score_files,
        controls=PLAN.control_score_files,
        code=source_files("neuroalign.evaluation.evaluate"),
    output:
        metrics=report(
            f"{OUT}/evaluation/metrics.tsv",
            caption="../report/metrics.rst",
            category="NeuroAlign",
        ),
        comparisons=f"{OUT}/evaluation/comparisons.tsv",
        controls=f"{OUT}/evaluation/controls.tsv",
        ceilings=f"{OUT}/evaluation/ceilings.tsv",
        rankings=f"{OUT}/evaluation/rankings.tsv",
        summary=f"{OUT}/evaluation/summary.tsv",
        provenance=f"{OUT}/evaluation/evaluation.json",
    log:
        f"{OUT}/logs/evaluate/evaluate.log",
    conda:
        "../../envs/train.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        evaluate=CONFIG["evaluate"],
        folds=CONFIG["split"]["folds"],
        guard_s=CONFIG["split"]["guard_s"],
    script:
        "../scripts/evaluate.py"
