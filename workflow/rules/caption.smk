# Text, the third modality: words about each window of a film, and their vectors. Two steps, so that another text model
# never describes a film again.


if PLAN.described_files:

    rule describe:
        input:
            film=f"{OUT}/stimuli/{{stimulus}}.mp4",
            weights=PLAN.weights_files("blip2"),
            code=source_files("neuroalign.text.described"),
        output:
            said=f"{OUT}/captions/blip2/{{stimulus}}.tsv",
            record=f"{OUT}/captions/blip2/{{stimulus}}.json",
        log:
            f"{OUT}/logs/describe/{{stimulus}}.log",
        conda:
            "../../envs/video.yaml"
        threads: 2
        resources:
            # BLIP-2 with OPT-2.7b is 15 GB in float32.
            mem_mb=20000,
            runtime=1440,
            gpu=PLAN.describe_gpus,
        params:
            text=PLAN.section("text", but=("source", "captions_dir", "embedding")),
        script:
            "../scripts/describe.py"


if PLAN.captions_files:

    rule caption:
        input:
            unpack(lambda wildcards: PLAN.captions_inputs(wildcards.stimulus)),
            code=source_files("neuroalign.text.build"),
        output:
            f"{OUT}/captions/{{stimulus}}.h5",
        log:
            f"{OUT}/logs/caption/{{stimulus}}.log",
        conda:
            "../../envs/video.yaml"
        resources:
            mem_mb=4000,
            runtime=60,
        params:
            text=PLAN.section("text", "source", "embedding", "window_s", "stride_s", "batch_size", "device"),
        script:
            "../scripts/caption.py"
