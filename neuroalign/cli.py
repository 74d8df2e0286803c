"""The ``neuroalign`` command: simulate, validate, weights, run, adapt, retrieve, info, config.

Arguments are read here; the work is done in the modules that each command imports when it runs.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from neuroalign import __version__
from neuroalign.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 (something the user can mend) or 2 (wrong usage)."""
    parser = _parser()
    args, extra = parser.parse_known_args(arguments)
    if extra and args.command != "run":
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    args.extra = extra
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        sys.exit(args.function(args))
    except UserError as error:
        sys.exit(f"neuroalign: {error}")
    except BrokenPipeError:
        # The reader of a pipe (head, less) went away: not an error, and nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        # Paths that the user named and the system refuses: a folder for a file, no permission, a full disk.
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        where = f" ({error.filename})" if error.filename is not None else ""
        sys.exit(f"neuroalign: {error.strerror}{where}; check that path, its permissions and the free space.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuroalign",
        description="From raw BIDS fMRI and videos to a model that retrieves one from the other.",
    )
    parser.add_argument("--version", action="version", version=f"neuroalign {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    simulate = commands.add_parser("simulate", help="make a raw BIDS dataset with known ground truth")
    simulate.add_argument(
        "bids_dir", type=Path, help="folder to make; the truth is written beside it, in ../truth"
    )
    simulate.add_argument("--preset", default="small", help="small (the demo) or large (realistic 3 T size)")
    simulate.add_argument("--subjects", type=int, help="number of people")
    simulate.add_argument("--sessions", type=int, help="sessions of the first subject")
    simulate.add_argument("--films", type=int, help="number of different films")
    simulate.add_argument("--film-s", type=float, help="length of a film in seconds")
    simulate.add_argument("--films-per-run", type=int, help="films shown in a run")
    simulate.add_argument("--repeats", type=int, help="showings of the films of the last run")
    simulate.add_argument("--tr-s", type=float, help="repetition time in seconds")
    simulate.add_argument("--voxel-mm", type=float, help="edge of the BOLD voxels in mm")
    simulate.add_argument("--noise", type=float, help="noise relative to published 3 T data (0: none)")
    simulate.add_argument("--seed", type=int, help="seed of everything random")
    simulate.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    simulate.set_defaults(function=_simulate)

    validate = commands.add_parser("validate", help="check config and data; list all problems at once")
    _config_argument(validate)
    _filter_arguments(validate)
    validate.add_argument("--deep", action="store_true", help="also read every compressed image to its end")
    validate.set_defaults(function=_validate)

    weights = commands.add_parser(
        "weights", help="fetch the weights of pretrained models, where there is internet"
    )
    _config_argument(weights)
    weights.set_defaults(function=_weights)

    run = commands.add_parser(
        "run",
        help="validate, then run the workflow",
        epilog="Other options are passed on to snakemake, e.g. -n.",
    )
    _config_argument(run)
    _filter_arguments(run)
    run.add_argument("--cores", default="all", help="cores to use (default: all)")
    run.set_defaults(function=_run)

    retrieve = commands.add_parser("retrieve", help="rank clips for new fMRI, or brain windows for new video")
    retrieve.add_argument(
        "--model", type=Path, required=True, help="a trained model, e.g. results/models/seed-0"
    )
    query = retrieve.add_mutually_exclusive_group(required=True)
    query.add_argument("--fmri", type=Path, help="ROI series of a run (.h5), or regional series (.tsv)")
    query.add_argument("--video", type=Path, help="embedding of a stimulus (.h5)")
    retrieve.add_argument(
        "--gallery", type=Path, required=True, help="folder of embeddings (or of ROI series)"
    )
    retrieve.add_argument(
        "--subject",
        help="whose brain it is (default: the one the series names; for a TSV, an unseen subject)",
    )
    retrieve.add_argument(
        "--onset",
        type=float,
        nargs="+",
        help="seconds at which the query's clips begin, in the run or the film (default: clips end to end)",
    )
    retrieve.add_argument(
        "--captions", type=Path, help="folder of embedded captions of the films (default: video alone)"
    )
    retrieve.add_argument("--top", type=int, default=10, help="results per query")
    retrieve.add_argument(
        "--output", type=Path, help="write a table here instead of the console (.json: JSON, else TSV)"
    )
    retrieve.set_defaults(function=_retrieve)

    adapt = commands.add_parser(
        "adapt",
        help="teach a trained model one more person, from a few minutes of them",
        description="Fit what is a person's own (scaling, delay shift, brain map) to the first minutes of their paired data; "
        "everything else of the model stays as it is. The result is a model folder that knows the person too, and a table of the "
        "clips that were used: do not test on these. Pairs that also hold the people whom the model was trained on make "
        "better use of few minutes.",
    )
    adapt.add_argument(
        "--model", type=Path, required=True, help="a trained model, e.g. results/models/seed-0"
    )
    adapt.add_argument(
        "--pairs",
        type=Path,
        required=True,
        help="folder of paired data (clips.tsv, video.h5, sub-<label>.h5)",
    )
    adapt.add_argument("--subject", required=True, help="label of the new person in the pairs")
    adapt.add_argument(
        "--minutes", type=float, help="minutes to use, from the person's first clip on (default: all)"
    )
    adapt.add_argument(
        "--prior-minutes",
        type=float,
        default=100.0,
        help="how many minutes of data the shared brain map is worth at first (default: 100)",
    )
    adapt.add_argument(
        "--fold", type=int, default=0, help="fold of the split that the model belongs to (default: 0)"
    )
    adapt.add_argument("--out", type=Path, required=True, help="folder of the new model")
    adapt.set_defaults(function=_adapt)

    info = commands.add_parser("info", help="say what a file or folder of NeuroAlign is and what made it")
    info.add_argument("path", type=Path)
    info.set_defaults(function=_info)

    config = commands.add_parser("config", help="show every configuration key with its default")
    config.add_argument("--schema", action="store_true", help="print the JSON schema instead")
    config.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    config.set_defaults(function=_config)
    return parser


def _config_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", "--configfile", type=Path, default=Path("config/config.yaml"), help="configuration file"
    )


# Options that choose a part of the dataset, as fMRIPrep and as the configuration call them, and the filters they set.
_FILTERS = {
    "subject": ("--participant-label", "--participant_label", "--subject"),
    "session": ("--session-id", "--session_id", "--session-label", "--session"),
    "task": ("--task-id", "--task_id", "--task"),
    "run": ("--run-id", "--run_id", "--run"),
}


def _filter_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "part of the dataset", "These options win over dataset.filters of the configuration."
    )
    for entity, options in _FILTERS.items():
        what = "run indices" if entity == "run" else f"{entity} labels"
        group.add_argument(
            *options, nargs="+", dest=entity, metavar="LABEL", help=f"{what}, with or without prefix"
        )
    group.add_argument(
        "--bids-filter-file",
        "--bids_filter_file",
        metavar="FILE",
        help="JSON of queries in fMRIPrep's form, which choose among the bold and t1w images",
    )


def _values(args: argparse.Namespace) -> tuple[dict, bool]:
    """The values of the configuration file with the filters of the command line, and whether there are any."""
    from neuroalign.config.load import parse_config, read_values

    values = read_values(args.config)
    names = (*_FILTERS, "bids_filter_file")
    filters = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if not filters:
        return values, False
    # What is no configuration is told before anything is put into it.
    parse_config(values)
    dataset = dict(values.get("dataset") or {})
    dataset["filters"] = dict(dataset.get("filters") or {}) | filters
    return {**values, "dataset": dataset}, True


def _simulate(args: argparse.Namespace) -> int:
    from neuroalign.simulate import PRESETS, make_dataset

    if args.preset not in PRESETS:
        raise UserError(f"There is no preset '{args.preset}'; choose one of {', '.join(PRESETS)}.")
    names = type(PRESETS[args.preset]).model_fields
    chosen = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    from neuroalign.config import parse_config

    values = PRESETS[args.preset].model_dump() | chosen
    settings = parse_config({"dataset": {"simulate": values}}).dataset.simulate
    assert settings is not None
    plan = make_dataset(settings, args.bids_dir, jobs=args.jobs)
    print(
        f"{len(plan.runs)} runs of {settings.subjects} subjects in {args.bids_dir}, the truth in {plan.truth_dir}"
    )
    return 0


def _validate(args: argparse.Namespace) -> int:
    from neuroalign.config import parse_config
    from neuroalign.validate import validate

    problems = validate(parse_config(_values(args)[0]), deep=args.deep)
    for problem in problems:
        print(f"- {problem}")
    count = "1 problem." if len(problems) == 1 else f"{len(problems)} problems."
    print(count if problems else "No problems found: config and data are ready.")
    return 1 if problems else 0


def _weights(args: argparse.Namespace) -> int:
    from neuroalign.config import load_config
    from neuroalign.video.weights import fetch_weights, summary, weights_request

    config = load_config(args.config)
    requests = weights_request(config)
    for role, request in requests.items():
        print(summary(role, fetch_weights(request, Path(config.output_dir) / "weights" / role)))
    if not requests:
        print("This configuration needs no weights.")
    return 0


def _run(args: argparse.Namespace) -> int:
    from neuroalign.config import parse_config
    from neuroalign.errors import Problems
    from neuroalign.validate import validate

    values, filtered = _values(args)
    config = parse_config(values)
    if problems := validate(config):
        raise Problems(problems)
    snakefile = ROOT / "Snakefile"
    if not snakefile.exists():
        raise UserError(
            f"There is no Snakefile in {ROOT}: `neuroalign run` needs a checkout of the repository."
        )
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
    file = _write_values(values, args.config, config.output_dir) if filtered else args.config
    command += ["--configfile", str(file), "--cores", str(args.cores), *args.extra]
    if not {"-q", "--quiet", "-n", "--dry-run", "--dryrun", "--verbose"} & set(args.extra):
        # Progress and errors, not every job's list of files.
        command += ["--quiet", "rules", "host"]
    started = time.monotonic()
    status = subprocess.run(command, check=False).returncode
    page = Path(config.output_dir) / "report" / "index.html"
    if status and any(Path(".snakemake/locks").glob("*")):
        print(
            "neuroalign: this folder is locked: another run is at work here, or one was killed; if it was killed, "
            f"unlock it with `neuroalign run --config {args.config} --unlock` and run again: it continues.",
            file=sys.stderr,
        )
    elif status:
        print(f"neuroalign: the workflow failed; its logs are in {config.output_dir}/logs.", file=sys.stderr)
    elif page.exists() and "--unlock" not in args.extra:
        print(f"\nDone in {time.monotonic() - started:.0f} s. The report: {page.resolve().as_uri()}")
    return 1 if status else 0


def _write_values(values: dict, origin: Path, output_dir: str) -> Path:
    """Write the configuration that a run with filters uses, so that plain snakemake can go on with it."""
    import yaml

    from neuroalign.io import atomic_path

    path = Path(output_dir) / "config_with_filters.yaml"
    with atomic_path(path) as temporary:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        temporary.write_text(
            f"# {origin} with the filters of the command line; written by `neuroalign run`.\n{text}",
            encoding="utf-8",
        )
    print(f"neuroalign: the configuration with these filters is {path}", file=sys.stderr)
    return path


def _retrieve(args: argparse.Namespace) -> int:
    from neuroalign.retrieve import retrieve

    table = retrieve(
        args.model,
        args.gallery,
        fmri=args.fmri,
        video=args.video,
        subject=args.subject,
        onsets=args.onset,
        captions=args.captions,
        top=args.top,
    )
    if args.output:
        from neuroalign.io import write_json, write_tsv

        if args.output.suffix == ".json":
            write_json(args.output, table.to_dict("records"))
        else:
            write_tsv(args.output, table)
    else:
        print(table.to_csv(sep="\t", index=False, float_format="%.4f"), end="")
    return 0


def _adapt(args: argparse.Namespace) -> int:
    from neuroalign.adapt import adapt_files

    found = adapt_files(
        args.model,
        args.pairs,
        args.subject,
        args.out,
        minutes=args.minutes,
        prior_minutes=args.prior_minutes,
        fold=args.fold,
    )
    label, clips = args.subject.removeprefix("sub-"), found.chosen["clips"]
    print(
        f"{args.out} knows subject {label} from {clips} clips (adaptation.tsv lists them: do not test on these)."
    )
    return 0


def _info(args: argparse.Namespace) -> int:
    from neuroalign.describe import describe

    print(describe(args.path))
    return 0


def _config(args: argparse.Namespace) -> int:
    from neuroalign.config import config_schema
    from neuroalign.config.document import configuration_page

    if args.write:
        schema = ROOT / "workflow" / "schemas" / "config.schema.json"
        schema.write_text(json.dumps(config_schema(), indent=2) + "\n", encoding="utf-8")
        (ROOT / "docs" / "configuration.md").write_text(configuration_page(), encoding="utf-8")
    elif args.schema:
        print(json.dumps(config_schema(), indent=2))
    else:
        print(configuration_page(), end="")
    return 0
