# The two stages of NeuroAlign, once per seed (and fold). With several processes a job starts them itself, on GPUs of its own.
# A checkpoint is no output: it outlives a job that was killed, whose outputs Snakemake deletes.


rule train_ntcl:
    input:
        pairs=rules.pair.output,
        code=source_files("neuroalign.training.ntcl", "neuroalign.training.worker"),
    output:
        model=f"{OUT}/models/{{branch}}/ntcl/model.safetensors",
        description=f"{OUT}/models/{{branch}}/ntcl/model.json",
        history=f"{OUT}/models/{{branch}}/ntcl/history.tsv",
        delays=f"{OUT}/models/{{branch}}/ntcl/delays.tsv",
    log:
        f"{OUT}/logs/train_ntcl/{{branch}}.log",
    conda:
        "../../envs/train.yaml"
    threads: 4 * CONFIG["train"]["processes"]
    resources:
        mem_mb=CONFIG["train"]["memory_mb"],
        runtime=240,
        gpu=PLAN.train_gpus,
    params:
        train=PLAN.section("train", but=("seeds", "vq", "memory_mb", *PLAN.unused_training)),
        # How late interaction looks is one setting for both stages' scores.
        near_steps=CONFIG["train"]["vq"]["near_steps"],
    script:
        "../scripts/train_ntcl.py"


rule train_vq:
    input:
        pairs=rules.pair.output,
        ntcl=rules.train_ntcl.output.model,
        description=rules.train_ntcl.output.description,
        code=source_files("neuroalign.training.vq", "neuroalign.training.worker"),
    output:
        model=f"{OUT}/models/{{branch}}/vq/model.safetensors",
        description=f"{OUT}/models/{{branch}}/vq/model.json",
        history=f"{OUT}/models/{{branch}}/vq/history.tsv",
        codes=f"{OUT}/models/{{branch}}/vq/codes.tsv",
        usage=f"{OUT}/models/{{branch}}/vq/usage.tsv",
        clips=f"{OUT}/models/{{branch}}/vq/code_clips.tsv",
        regions=f"{OUT}/models/{{branch}}/vq/code_regions.tsv",
        delays=f"{OUT}/models/{{branch}}/vq/delays.tsv",
    log:
        f"{OUT}/logs/train_vq/{{branch}}.log",
    conda:
        "../../envs/train.yaml"
    threads: 4 * CONFIG["train"]["processes"]
    resources:
        mem_mb=CONFIG["train"]["memory_mb"],
        runtime=240,
        gpu=PLAN.train_gpus,
    params:
        # Stage 2 keeps the stage-1 objective (train.vq.terms.contrast), so it reads that section too.
        train=PLAN.section("train", but=("seeds", "memory_mb", *PLAN.unused_training)),
    script:
        "../scripts/train_vq.py"
