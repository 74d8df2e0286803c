# Ablations and retrained controls: the model's own rules, with a part of it (or a signal in the pairs) taken away.


use rule train_ntcl as vary_ntcl with:
    input:
        pairs=rules.pair.output,
        code=source_files("neuroalign.training.ntcl", "neuroalign.pairs.variants"),
    output:
        model=f"{OUT}/models/{{variant}}/{{branch}}/ntcl/model.safetensors",
        description=f"{OUT}/models/{{variant}}/{{branch}}/ntcl/model.json",
        history=f"{OUT}/models/{{variant}}/{{branch}}/ntcl/history.tsv",
        delays=f"{OUT}/models/{{variant}}/{{branch}}/ntcl/delays.tsv",
    log:
        f"{OUT}/logs/vary_ntcl/{{variant}}_{{branch}}.log",
    params:
        train=lambda wildcards: PLAN.variant_section(wildcards.variant, "vq"),
        near_steps=CONFIG["train"]["vq"]["near_steps"],
        change=lambda wildcards: PLAN.variant(wildcards.variant).pairs,


use rule train_vq as vary_vq with:
    input:
        pairs=rules.pair.output,
        ntcl=lambda wildcards: PLAN.stage_1(wildcards.variant, wildcards.branch, "model.safetensors"),
        description=lambda wildcards: PLAN.stage_1(wildcards.variant, wildcards.branch, "model.json"),
        code=source_files("neuroalign.training.vq", "neuroalign.pairs.variants"),
    output:
        model=f"{OUT}/models/{{variant}}/{{branch}}/vq/model.safetensors",
        description=f"{OUT}/models/{{variant}}/{{branch}}/vq/model.json",
        history=f"{OUT}/models/{{variant}}/{{branch}}/vq/history.tsv",
        codes=f"{OUT}/models/{{variant}}/{{branch}}/vq/codes.tsv",
        usage=f"{OUT}/models/{{variant}}/{{branch}}/vq/usage.tsv",
        clips=f"{OUT}/models/{{variant}}/{{branch}}/vq/code_clips.tsv",
        delays=f"{OUT}/models/{{variant}}/{{branch}}/vq/delays.tsv",
    log:
        f"{OUT}/logs/vary_vq/{{variant}}_{{branch}}.log",
    params:
        train=lambda wildcards: PLAN.variant_section(wildcards.variant),
        change=lambda wildcards: PLAN.variant(wildcards.variant).pairs,


use rule score as vary_score with:
    input:
        pairs=rules.pair.output,
        model=lambda wildcards: PLAN.scored_model(wildcards.variant, wildcards.branch, "model.safetensors"),
        description=lambda wildcards: PLAN.scored_model(wildcards.variant, wildcards.branch, "model.json"),
        code=source_files(
            "neuroalign.models.score",
            "neuroalign.evaluation.scores",
            "neuroalign.evaluation.leakage",
            "neuroalign.pairs.variants",
        ),
    output:
        f"{OUT}/evaluation/scores/neuroalign_{{variant}}/{{branch}}.h5",
    log:
        f"{OUT}/logs/vary_score/{{variant}}_{{branch}}.log",
    params:
        change=lambda wildcards: PLAN.variant(wildcards.variant).pairs,
