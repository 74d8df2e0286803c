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
        video=PLAN.section("video", "fps", "height", "on_damage"),
    script:
        "../scripts/normalise.py"


rule embed:
    input:
        video=rules.normalise.output.video,
        code=source_files(
            "neuroalign.video.embed", f"neuroalign.video.backbones.{CONFIG['video']['backbone']}"
        ),
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
        video=PLAN.section("video", but=("precomputed_dir", "on_damage")),
    script:
        "../scripts/embed.py"
