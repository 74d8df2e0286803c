# Videos become features on a regular time grid, once per stimulus.


rule normalise:
    input:
        video=lambda wildcards: PLAN.stimulus_file(wildcards.stimulus),
        code=source_files("neuroalign.video.normalise"),
    output:
        video=f"{OUT}/stimuli/{{stimulus}}.mp4",
        record=f"{OUT}/stimuli/{{stimulus}}.json",
    log:
        f"{OUT}/logs/normalise/{{stimulus}}.log",
    conda:
        "../../envs/video.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        video=PLAN.section("video", "fps", "height"),
    script:
        "../scripts/normalise.py"


rule embed:
    input:
        video=rules.normalise.output.video,
        weights=PLAN.weights_files("backbone"),
        code=source_files("neuroalign.video.embed", PLAN.backbone_module),
    output:
        f"{OUT}/embeddings/{CONFIG['video']['backbone']}/{{stimulus}}.h5",
    log:
        f"{OUT}/logs/embed/{{stimulus}}.log",
    conda:
        "../../envs/video.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=PLAN.embed_gpus,
    params:
        video=PLAN.section("video", but=("precomputed_dir",)),
    script:
        "../scripts/embed.py"
