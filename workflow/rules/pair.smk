# Brain and video meet on one clock: clips, splits, HRF-aligned windows.


rule pair:
    input:
        presentations=rules.index.output.presentations,
        series=PLAN.series_files,
        embeddings=PLAN.embedding_files,
        captions=PLAN.captions_files,
        records=PLAN.record_files,
        code=source_files("neuroalign.pairs.build"),
    output:
        clips=f"{OUT}/pairs/clips.tsv",
        brain=PLAN.brain_shards,
        video=f"{OUT}/pairs/video.h5",
        summary=f"{OUT}/pairs/summary.json",
        sweep=PLAN.sweep_files,
    log:
        f"{OUT}/logs/pair/pair.log",
    conda:
        "../../envs/fmri.yaml"
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        run_ids=PLAN.run_ids,
        stimuli=PLAN.stimuli,
        captioned=PLAN.captioned,
        clips=CONFIG["clips"],
        hrf=CONFIG["hrf"],
        split=CONFIG["split"],
        selection=CONFIG["fmri"]["selection"],
        on_damage=CONFIG["video"]["on_damage"],
    script:
        "../scripts/pair.py"
