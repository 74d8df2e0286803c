"""The BIDS filter file: what it selects is what pybids selects; what is wrong with it is one sentence."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroalign.bids.index import build_index
from neuroalign.bids.naming import parse_name
from neuroalign.bids.queries import LONG_NAMES, read_queries
from neuroalign.errors import UserError

NAMES = [
    "sub-01_task-film_bold",
    "sub-01_task-film_run-1_bold",
    "sub-01_task-film_run-02_bold",
    "sub-01_task-film_run-10_echo-1_bold",
    "sub-01_task-film_acq-mb4_dir-AP_bold",
    "sub-01_task-film_acq-mb8_dir-PA_run-2_part-mag_bold",
    "sub-01_task-Film_rec-norm_run-2_part-phase_bold",
    "sub-02_ses-a_task-rest_bold",
    "sub-02_ses-b_task-restful_run-1_echo-2_bold",
    "sub-02_ses-b_task-film_run-1_sbref",
    "sub-02_ses-b_acq-mprage_T1w",
    "sub-02_ses-b_acq-mprage_ce-gad_run-1_T1w",
]
VALUES = {
    "subject": ["01", "02", "03", "0"],
    "session": ["a", "b", "A"],
    "task": ["film", "rest", "Film", "f", "^rest$", "film|rest"],
    "acquisition": ["mb4", "mb8", "mb", "mprage"],
    "ceagent": ["gad"],
    "reconstruction": ["norm"],
    "direction": ["AP", "PA"],
    "run": [1, 2, 10, "1", "02"],
    "echo": [1, 2, "1"],
    "part": ["mag", "phase"],
    "suffix": ["bold", "T1w", "sbref"],
    "datatype": ["func", "anat"],
    "extension": [".nii.gz"],
}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """pybids' view of the files, the oracle."""
    from bids import BIDSLayout

    root = tmp_path_factory.mktemp("bids")
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    for name in NAMES:
        entities = parse_name(name).entities
        folder = root / f"sub-{entities['sub']}"
        if "ses" in entities:
            folder /= f"ses-{entities['ses']}"
        path = folder / ("anat" if name.endswith("T1w") else "func") / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return BIDSLayout(root, validate=False)


def of_pybids(layout, query: dict) -> set[str]:
    """What fMRIPrep would get: null and "*" stand for pybids' constants."""
    from bids.layout import Query

    query = dict(query)
    regex = query.pop("regex_search", False)
    constants = {None: Query.NONE, "*": Query.ANY}
    wanted = {
        entity: [constants.get(v, v) for v in (value if isinstance(value, list) else [value])]
        for entity, value in query.items()
    }
    files = layout.get(return_type="filename", regex_search=regex, **wanted)
    return {path.rpartition("/")[2] for path in files if path.endswith(".nii.gz")}


def of_ours(folder, query: dict) -> set[str]:
    path = folder / "filter.json"
    path.write_text(json.dumps({"bold": query}))
    read = read_queries(path)["bold"]
    return {
        f"{name}.nii.gz"
        for name in NAMES
        if read.matches(parse_name(f"{name}.nii.gz"), "anat" if name.endswith("T1w") else "func")
    }


def _values(entity: str):
    single = st.sampled_from([*VALUES[entity], None, "*"])
    # pybids cannot compare numbers and text, or a constant, within one list.
    kinds = [[v for v in VALUES[entity] if isinstance(v, kind)] for kind in (str, int)]
    lists = [st.lists(st.sampled_from([*k, None]), min_size=1, max_size=3, unique=True) for k in kinds if k]
    return st.one_of(single, *lists)


QUERIES = st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=4).flatmap(
    lambda entities: st.fixed_dictionaries({entity: _values(entity) for entity in entities})
)


@settings(max_examples=150, deadline=None)
@given(QUERIES)
def test_a_query_selects_what_pybids_selects(layout, tmp_path_factory, query):
    assert of_ours(tmp_path_factory.getbasetemp(), query) == of_pybids(layout, query)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["task", "acquisition", "session", "subject"]),
        st.sampled_from(["f", "^film$", "mb[48]", "rest|film", "a", "1", "."]),
        max_size=3,
    )
)
def test_regular_expressions_are_searched_for_as_pybids_does(layout, tmp_path_factory, query):
    query |= {"regex_search": True}
    assert of_ours(tmp_path_factory.getbasetemp(), query) == of_pybids(layout, query)


def test_long_names_and_their_short_keys_are_those_of_pybids(layout):
    patterns = {name: entity.pattern for name, entity in layout.get_entities().items() if entity.pattern}
    keys = {name: re.search(r"([a-z]+)-\(", pattern) for name, pattern in patterns.items()}
    # What is in no file name (the suffix, the folder) has no key.
    assert {n: k[1] for n, k in keys.items() if k and n in LONG_NAMES} == {
        n: short for n, short in LONG_NAMES.items() if keys.get(n)
    }
    assert {n for n, k in keys.items() if k and n not in LONG_NAMES} == set()


def write(tree, content) -> str:
    path = tree.root.parent / "filter.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_queries_choose_images_and_anatomies_of_raw_data(bids):
    for echo in (1, 2):
        bids.run(f"sub-01_task-film_acq-a_echo-{echo}").run(f"sub-01_task-film_acq-b_echo-{echo}")
    bids.file("sub-01/anat/sub-01_acq-fast_T1w.nii.gz").file(
        "sub-01/func/sub-01_task-film_events.tsv", "onset\tduration\tstim_file\n0\t3\ta.mp4\n"
    )
    query = {"bold": {"acquisition": "b", "echo": 1}, "t1w": {"acquisition": "*"}, "fmap": {"x": 1}}
    index = build_index(bids.config(bids_filter_file=write(bids, query)))
    (row,) = index.runs.to_dict("records")
    assert row["run_id"] == "sub-01_task-film_acq-b"
    assert row["bold"].endswith("acq-b_echo-1_bold.nii.gz")
    assert row["t1w"].endswith("acq-fast_T1w.nii.gz")
    assert index.problems == []


def test_a_subject_whose_anatomies_are_all_filtered_out_is_named_with_the_query(bids):
    bids.run("sub-01_task-film").run("sub-02_task-film").file("sub-02/anat/sub-02_acq-x_T1w.nii.gz")
    file = write(bids, {"t1w": {"acquisition": "x"}})
    (problem,) = build_index(bids.config(bids_filter_file=file)).problems
    assert problem.startswith(f'sub-01 has no T1w image that matches {{"acquisition": "x"}} of {file}')


def test_queries_for_raw_data_hold_for_derivatives(bids, derived):
    bids.run("sub-01_task-film").run("sub-02_task-film")
    derived.preprocessed("sub-01_task-film").preprocessed("sub-02_task-film")
    derived.series("sub-01_task-film_desc-simple").series("sub-01_task-film_desc-scrub")
    # Combined outputs bear no echo; the file type is that of the raw images.
    query = {"datatype": "func", "suffix": "bold", "extension": ".nii.gz", "echo": 2, "part": "mag"}
    config = bids.config(
        "fmriprep", derived.root, bids_filter_file=write(bids, {"bold": query | {"subject": "02"}})
    )
    assert build_index(config).runs["subject"].tolist() == ["02"]
    file = write(bids, {"bold": query | {"desc": "scrub"}})
    (path,) = build_index(bids.config("timeseries", derived.root, bids_filter_file=file)).runs["timeseries"]
    assert path.endswith("desc-scrub_timeseries.tsv")


@pytest.mark.parametrize("source", ["raw", "fmriprep", "timeseries"])
def test_a_query_that_nothing_matches_names_query_folder_and_nearest_miss(bids, derived, source):
    bids.run("sub-01_task-film_acq-a")
    derived.preprocessed("sub-01_task-film_acq-a").series("sub-01_task-film_acq-a")
    file = write(bids, {"bold": {"acquisition": "a", "task": "flim"}})
    root = bids.root if source == "raw" else derived.root
    sentence = (
        f'no bold file in {root} matches {{"acquisition": "a", "task": "flim"}} of {file}: the labels of \'task\' '
        "are film; did you mean 'film'?"
    )
    config = bids.config(source, None if source == "raw" else derived.root, bids_filter_file=file)
    with pytest.raises(UserError, match=re.escape(sentence)):
        build_index(config)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not valid JSON"),
        ([], "must hold a JSON object of queries"),
        ({"bold": "film"}, "must hold a JSON object of queries"),
        ({"blod": {}}, "unknown query 'blod'; did you mean 'bold'?"),
        ({"bold": {"acq": "x"}}, "query 'bold' has an unknown entity 'acq'; did you mean 'acquisition'?"),
        ({"bold": {"ses": "1"}}, "unknown entity 'ses'; did you mean 'session'?"),
        (
            {"t1w": {"aquisition": "x"}},
            "query 't1w' has an unknown entity 'aquisition'; did you mean 'acquisition'?",
        ),
        ({"bold": {"qqq": "x"}}, "unknown entity 'qqq'; use pybids' long names"),
        ({"bold": {"task": {"a": 1}}}, "'task' must be a label, a list of labels, null"),
        ({"bold": {"task": []}}, "'task' must be a label, a list of labels, null"),
        ({"bold": {"run": True}}, "'run' must be a label, a list of labels, null"),
        ({"bold": {"task": "(", "regex_search": True}}, "'(' of 'task' is no regular expression"),
        ({"bold": {"regex_search": "yes"}}, "regex_search must be true or false"),
        ({"bold": True}, "query 'bold' must be an object"),
    ],
)
def test_a_file_that_is_no_filter_is_one_sentence(bids, content, sentence):
    file = write(bids, content)
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        read_queries(file)
    assert file in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        read_queries(bids.root / "none.json")
