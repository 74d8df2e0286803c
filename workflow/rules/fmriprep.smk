# fMRIPrep as the engine (fmri.preprocess.engine: fmriprep): one job per person, in the official container
# (`--sdm apptainer`) or with the command on the machine. People whose runs differ have rules of their own.
if PLAN.engine == "fmriprep":
    FMRIPREP = PLAN.fmriprep
    FMRIPREP.bind(os.environ)

    for batch in PLAN.fmriprep_batches:

        rule:
            name:
                batch.name
            input:
                bold=lambda wildcards: PLAN.raw_files(wildcards.subject, "bold"),
                t1w=lambda wildcards: PLAN.raw_files(wildcards.subject, "t1w"),
                sidecars=lambda wildcards: PLAN.raw_sidecars(wildcards.subject),
            output:
                batch.outputs,
            log:
                f"{OUT}/logs/fmriprep/sub-{{subject}}.log",
            wildcard_constraints:
                subject=batch.pattern,
            container:
                CONFIG["fmri"]["preprocess"]["fmriprep"]["container"]
            threads: CONFIG["fmri"]["preprocess"]["fmriprep"]["threads"]
            resources:
                mem_mb=CONFIG["fmri"]["preprocess"]["fmriprep"]["mem_mb"],
                runtime=3 * 24 * 60,
            params:
                # What decides the outputs; paths, threads and memory are not among it.
                arguments=PLAN.fmriprep_arguments,
                filters=PLAN.fmriprep_filter,
                container=CONFIG["fmri"]["preprocess"]["fmriprep"]["container"],
            shell:
                r"""
                who=sub-{wildcards.subject}
                fail() {{ printf '\nneuroalign fmriprep: %s\n\n' "$who: $*" | tee -a {log:q} >&2; exit 1; }}
                : > {log:q}
                command -v fmriprep > /dev/null || fail "there is no command 'fmriprep'; run the workflow with" \
                    "--sdm apptainer, which takes it from its container, or install fMRIPrep."
                license={FMRIPREP.license:q}
                [ -f "$license" ] || fail "the FreeSurfer license '$license' is not there; set" \
                    "fmri.preprocess.fmriprep.fs_license to the file."
                # The machine's Python path would reach into the container.
                [ -z "${{APPTAINER_CONTAINER:-}}${{SINGULARITY_CONTAINER:-}}" ] || unset PYTHONPATH PYTHONHOME

                work={FMRIPREP.work:q}/$who
                mkdir -p "$work" || fail "the work folder $work cannot be made; set fmri.preprocess.fmriprep.work_dir."
                select=()
                if [ {params.filters:q} != '{{}}' ]; then
                    printf '%s\n' {params.filters:q} > "$work/filter.json"
                    select=(--bids-filter-file "$work/filter.json")
                fi
                # Above eight threads a single process gains nothing; some memory is left to the system.
                fmriprep {FMRIPREP.bids_dir:q} {FMRIPREP.folder:q} participant \
                    --participant-label {wildcards.subject} "${{select[@]}}" {params.arguments} \
                    --nprocs {threads} --omp-nthreads $(( {threads} < 8 ? {threads} : 8 )) \
                    --mem-mb $(( {resources.mem_mb} * 9 / 10 )) --fs-license-file "$license" -w "$work" \
                    --notrack --stop-on-first-crash >> {log:q} 2>&1 \
                    || fail "fMRIPrep ended with an error; the end of" {log:q} "says which."

                missing=()
                for file in {output:q}; do [ -s "$file" ] || missing+=("$file"); done
                if [ ${{#missing[@]}} -gt 0 ]; then
                    found=$(find {FMRIPREP.folder:q}/$who -name '*_desc-preproc_bold.nii.gz' -printf ' %f' | head -c 500)
                    fail "fMRIPrep ended well but did not write ${{missing[*]}}; it wrote${{found:- no such image}};" \
                        "check fmri.space, fmri.resolution and the filters."
                fi
                rm -rf "$work"
                """
