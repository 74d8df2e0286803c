"""The configuration: every key documented, wrong ones named with the nearest right one."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from neuroalign.config import Config, config_schema, load_config, parse_config
from neuroalign.config.document import configuration_page
from neuroalign.errors import Problems, UserError

DEMO = {"dataset": {"simulate": {}}}


def test_all_problems_are_named_at_once():
    with pytest.raises(Problems) as error:
        parse_config(
            {**DEMO, "trian": {}, "fmri": {"claen": {}}, "video": {"fps": "fast"}, "split": {"by": "clip"}}
        )
    text = str(error.value)
    assert len(error.value.problems) == 4
    assert "unknown key 'trian'; did you mean 'train'?" in text
    assert "unknown key 'fmri.claen'; did you mean 'clean'?" in text
    assert "'video.fps' is 'fast'" in text
    assert "'split.by' is 'clip'" in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fmri": {"source": "timeseries"}}, "dataset.derivatives"),
        ({**DEMO, "fmri": {"source": "fmriprep"}}, "dataset.simulate"),
        ({**DEMO, "video": {"backbone": "precomputed"}}, "precomputed_dir"),
        ({}, "fmri.atlas.image"),
        ({**DEMO, "hrf": {"window_s": [5, 5]}}, "first < last"),
        ({**DEMO, "split": {"folds": 2, "hold_out": {"task": ["a"]}}}, "exclude each other"),
        ({**DEMO, "split": {"hold_out": {"tusk": ["a"]}}}, "not 'tusk'"),
        ({**DEMO, "fmri": {"levels": {"early": "("}}}, "no regular expression"),
        ({**DEMO, "clips": {"duration_s": 1, "step_s": 2}}, "step_s"),
    ],
)
def test_contradictions_say_what_to_set(values, words):
    with pytest.raises(Problems, match=words):
        parse_config(values)


def test_numbers_given_as_text_are_numbers():
    # Snakemake's --config turns nested numbers into text.
    assert parse_config({"dataset": {"simulate": {"subjects": "4"}}}).dataset.simulate.subjects == 4


def test_labels_survive_yaml_numbers():
    # Whether a number was written in octal is judged where the labels of the dataset are known.
    config = parse_config({**DEMO, "dataset": {"simulate": {}, "filters": {"subject": 1, "run": [1, "02"]}}})
    assert config.dataset.filters.subject == [1]
    assert config.dataset.filters.run == [1, "02"]


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = parse_config(
        {
            "output_dir": "~/out",
            "dataset": {
                **{key: f"~/{key}" for key in ("bids_dir", "derivatives", "stimuli_dir")},
                "filters": {"bids_filter_file": "~/filter.json"},
            },
            "fmri": {
                "atlas": {"image": "~/a~b.nii.gz", "labels": "~/a.tsv"},
                "preprocess": {"template": "~/t.nii"},
            },
            "video": {"precomputed_dir": "~/features"},
        }
    )
    for key in ("bids_dir", "derivatives", "stimuli_dir"):
        assert getattr(config.dataset, key) == f"/home/me/{key}"
    assert config.output_dir == "/home/me/out"
    assert config.dataset.filters.bids_filter_file == "/home/me/filter.json"
    assert (config.fmri.atlas.image, config.fmri.atlas.labels) == ("/home/me/a~b.nii.gz", "/home/me/a.tsv")
    assert config.fmri.preprocess.template == "/home/me/t.nii"
    assert config.video.precomputed_dir == "/home/me/features"


def test_plain_values_round_trip():
    config = parse_config(DEMO)
    assert parse_config(json.loads(json.dumps(config.plain()))) == config


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(), min_size=1, max_size=3))
def test_no_unknown_key_is_ever_accepted(values):
    unknown = {key: value for key, value in values.items() if key not in Config.model_fields}
    if unknown:
        with pytest.raises(Problems):
            parse_config({**DEMO, **unknown})


def test_every_key_has_a_description_and_the_schema_is_current(root):
    schema = config_schema()

    def check(node, where):
        for name, field in node.get("properties", {}).items():
            # A key that says no more than its section is described there.
            section = schema["$defs"].get(field.get("$ref", "").rpartition("/")[2], {})
            assert field.get("description") or section.get("description"), (
                f"{where}.{name} has no description"
            )

    check(schema, "config")
    for name, section in schema["$defs"].items():
        check(section, name)
    assert json.loads((root / "workflow/schemas/config.schema.json").read_text()) == schema, "run `make docs`"
    assert (root / "docs/configuration.md").read_text() == configuration_page(), "run `make docs`"


def test_every_shipped_config_is_valid_and_config_yaml_tells_the_defaults(root):
    for path in (root / "config").rglob("*.yaml"):
        load_config(path)
    text = yaml.safe_load((root / "config" / "config.yaml").read_text())
    # config.yaml shows every section and key, except the many of training, which docs/configuration.md lists.
    for section in set(Config.model_fields) - {"output_dir", "train", "baselines", "ablations", "controls"}:
        missing = set(Config.model_fields[section].annotation.model_fields) - set(text[section])
        assert not missing - {"motion_energy", "batch_size", "device", "confidence", "seed"}, (
            section,
            missing,
        )


def test_demo_yaml_and_config_yaml_describe_the_same_run(root):
    demo, full = (load_config(root / "config" / name) for name in ("demo.yaml", "config.yaml"))
    from neuroalign.plan import make_plan

    assert make_plan(demo).config == make_plan(full).config


@pytest.mark.parametrize("content", ["- a list", "a: [", "\t"])
def test_what_is_no_yaml_mapping_is_one_sentence(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        load_config(path)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_config(tmp_path / "nowhere.yaml")
