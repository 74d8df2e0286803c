# Videos become features on a regular time grid, once per stimulus.

EMBED = embed_needs(PLAN.checked.video, PLAN.embed_gpus)


rule normalise:
    input:
        video=lambda wildcards: PLAN.stimulus_file(wildcards.stimulus),
        code=source_files("neuroalign.video.normalise"),
    output:
        video=f"{OUT}/stimuli/{{stimulus}}.mp4",
        record=f"{OUT}/stimuli/{{stimulus}}.json",
    log:
        f"{OUT}/logs/normalise/{{stimulus}}.log",
    cache: "normalise" in SHARED
    conda:
        "../../envs/video.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        video=PLAN.section("video", "fps", "height"),
        # A function of resources is not compared between runs: another choice makes no whole film anew. Rule pair sees to it that
        # no film that was cut short before is used where that is not wanted.
        on_damage=lambda wildcards, resources: CONFIG["video"]["on_damage"],
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
    cache: "embed" in SHARED
    conda:
        "../../envs/video.yaml"
    threads: EMBED["threads"]
    resources:
        mem_mb=EMBED["mem_mb"],
        # A job that ran out of time goes on where it was.
        runtime=lambda wildcards, attempt: attempt * EMBED["runtime"],
        gpu=PLAN.embed_gpus,
    params:
        video=PLAN.section("video", *keys_read(CONFIG["video"]["backbone"])),
    script:
        "../scripts/embed.py"
