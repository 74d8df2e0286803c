# Text, the third modality: words about each window of a film, and their vectors.


if PLAN.captions_files:

    rule caption:
        input:
            unpack(lambda wildcards: PLAN.captions_inputs(wildcards.stimulus)),
            code=source_files(PLAN.caption_module),
        output:
            f"{OUT}/captions/{{stimulus}}.h5",
        log:
            f"{OUT}/logs/caption/{{stimulus}}.log",
        conda:
            "../../envs/video.yaml"
        threads: 2
        resources:
            **PLAN.caption_resources,
        params:
            text=PLAN.text,
        script:
            "../scripts/caption.py"
