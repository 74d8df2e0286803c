# Weights of pretrained models, fetched once: the only step that needs internet, and only for weights of the hub.


if PLAN.weights:

    rule weights:
        input:
            local=lambda wildcards: PLAN.weights_inputs(wildcards.role),
            code=source_files("neuroalign.video.weights"),
        output:
            f"{OUT}/weights/{{role}}/weights.json",
        log:
            f"{OUT}/logs/weights/{{role}}.log",
        wildcard_constraints:
            role="|".join(PLAN.weights),
        conda:
            "../../envs/video.yaml"
        resources:
            mem_mb=1000,
            runtime=240,
        params:
            request=lambda wildcards: PLAN.weights[wildcards.role],
        localrule: True
        script:
            "../scripts/weights.py"
