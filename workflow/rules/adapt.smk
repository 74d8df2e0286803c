# Unseen people: the model adapted on their first minutes, and the learning curve. Part of the plan in splits by subject.


rule adapt:
    input:
        pairs=rules.pair.output,
        model=rules.train_vq.output.model,
        description=rules.train_vq.output.description,
        code=source_files("neuroalign.evaluation.learning_curve"),
    output:
        known=f"{OUT}/evaluation/adaptation/{{branch}}/known.h5",
        new=f"{OUT}/evaluation/adaptation/{{branch}}/new.h5",
        choices=f"{OUT}/evaluation/adaptation/{{branch}}/adaptation.json",
    log:
        f"{OUT}/logs/adapt/{{branch}}.log",
    conda:
        "../../envs/train.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        adapt=CONFIG["adapt"],
        guard_s=CONFIG["split"]["guard_s"],
    script:
        "../scripts/adapt.py"


rule learning_curve:
    input:
        pairs=rules.pair.output,
        scores=PLAN.adaptation_files,
        code=source_files("neuroalign.evaluation.learning_curve"),
    output:
        f"{OUT}/evaluation/learning_curve.tsv",
    log:
        f"{OUT}/logs/learning_curve/learning_curve.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        evaluate=CONFIG["evaluate"],
        folds=CONFIG["split"]["folds"],
    script:
        "../scripts/learning_curve.py"
