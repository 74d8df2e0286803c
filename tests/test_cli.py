"""The `neuroalign` command: what it prints, how it exits, and that wrong input never shows a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from neuroalign import __version__
from neuroalign.cli import main

COMMANDS = ("simulate", "validate", "run", "retrieve", "info", "config")


def run(*arguments: str | Path) -> tuple[int, str]:
    """Exit status, and the message if the command ended with one."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    code = end.value.code
    return (1, code) if isinstance(code, str) else (int(code or 0), "")


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"output_dir: {tmp_path}/out\ndataset: {{simulate: {{}}, bids_dir: {tmp_path}/bids}}\n")
    return path


def test_every_command_has_help(capsys):
    assert run("--help")[0] == 0
    overview = capsys.readouterr().out
    for command in COMMANDS:
        assert command in overview
        assert run(command, "--help")[0] == 0
        assert capsys.readouterr().out.startswith(f"usage: neuroalign {command}")


def test_the_version_is_told_and_wrong_usage_exits_with_two(capsys):
    assert run("--version")[0] == 0
    assert __version__ in capsys.readouterr().out
    for arguments in ((), ("frobnicate",), ("info",), ("validate", "--depe"), ("retrieve", "--model", "x")):
        assert run(*arguments)[0] == 2


def test_the_command_starts_without_heavy_imports():
    code = "import sys, neuroalign.cli as c; c._parser(); print({'torch','nilearn','ants','pandas'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_validate_counts_and_lists_problems(config, tmp_path, capsys):
    assert run("validate", "--config", config)[0] == 0
    assert "No problems found" in capsys.readouterr().out
    config.write_text(
        f"dataset: {{bids_dir: {tmp_path}/none}}\nfmri: {{atlas: {{image: {tmp_path}/atlas.nii}}}}\n"
    )
    assert run("validate", "--config", config)[0] == 1
    *problems, count = capsys.readouterr().out.splitlines()
    assert [problem[:2] for problem in problems] == ["- ", "- "]
    assert count == "2 problems."


def test_one_problem_is_one_line_and_several_are_a_list(config):
    config.write_text("fmri: {sorce: raw}\n")
    assert run("run", "--config", config) == (
        1,
        "neuroalign: Config: unknown key 'fmri.sorce'; did you mean 'source'?",
    )
    config.write_text("fmri: {sorce: raw}\nclip: 3\n")
    code, message = run("run", "--config", config)
    assert code == 1
    assert message.splitlines()[0] == "neuroalign: "
    assert all(line.startswith("- Config: unknown key") for line in message.splitlines()[1:])


@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist; name it with --config"),
        (b"a: [1, 2\nb: }", "is not valid YAML"),
        (b"- a\n- b\n", "must hold `key: value` lines"),
        (b"\xff\xfe\x00\x01", "cannot be read: it is not text"),
        ("folder", "cannot be read: Is a directory"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_one_sentence(tmp_path, command, content, sentence):
    path = tmp_path / "config.yaml"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    code, message = run(command, "--config", path)
    assert code == 1
    assert str(path) in message
    assert sentence in message
    assert "\n" not in message


def test_run_passes_other_options_to_snakemake_and_its_status_on(config, monkeypatch):
    calls = []

    def fake(command, check):
        calls.append(command)
        return subprocess.CompletedProcess(command, 1 if "--fail" in command else 0)

    monkeypatch.setattr(subprocess, "run", fake)
    assert run("run", "--config", config, "--cores", "2", "-n")[0] == 0
    assert calls[0][-1] == "-n"
    assert calls[0][calls[0].index("--cores") + 1] == "2"
    assert run("run", "--config", config, "--fail")[0] == 1


def test_a_locked_folder_says_how_to_go_on(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    run("run", "--config", config)
    assert "the workflow failed; its logs are in" in capsys.readouterr().err
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    (tmp_path / ".snakemake/locks/0.output.lock").touch()
    assert run("run", "--config", config)[0] == 1
    assert f"`neuroalign run --config {config} --unlock`" in capsys.readouterr().err


def test_paths_that_the_system_refuses_are_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    code, message = run("simulate", tmp_path / "file" / "bids", "--subjects", 1)
    assert code == 1
    assert message.startswith("neuroalign: Not a directory (")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--preset", "huge"), "There is no preset 'huge'; choose one of"),
        (("--subjects", 0), "'dataset.simulate.subjects' is 0"),
        (("--tr-s", 50), "'dataset.simulate.tr_s' is 50.0"),
        (("--noise", -1), "'dataset.simulate.noise' is -1.0"),
        (("--seed", -1), "'dataset.simulate.seed' is -1"),
    ],
)
def test_settings_that_make_no_dataset_are_refused(tmp_path, options, sentence):
    code, message = run("simulate", tmp_path / "bids", *options)
    assert code == 1
    assert sentence in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_someone_else_is_left_untouched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    code, message = run("simulate", tmp_path)
    assert code == 1
    assert "left untouched" in message
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_config_shows_every_key(capsys):
    assert run("config")[0] == 0
    assert "`fmri.source`" in capsys.readouterr().out
    assert run("config", "--schema")[0] == 0
    assert capsys.readouterr().out.startswith("{")


def test_info_describes_and_complains(tmp_path, capsys):
    (tmp_path / "a.json").write_text('{"x": 1}')
    assert run("info", tmp_path / "a.json")[0] == 0
    assert '"x": 1' in capsys.readouterr().out
    assert run("info", tmp_path / "none.h5") == (1, f"neuroalign: {tmp_path}/none.h5 does not exist.")


@pytest.fixture
def raw(tmp_path) -> Path:
    """Configuration of a raw dataset of empty images: two subjects, a film and a localizer without events."""
    root = tmp_path / "bids"
    for subject in ("01", "02"):
        for folder in ("func", "anat"):
            (root / f"sub-{subject}/{folder}").mkdir(parents=True)
        (root / f"sub-{subject}/anat/sub-{subject}_T1w.nii.gz").touch()
        for task in ("film", "localizer"):
            (root / f"sub-{subject}/func/sub-{subject}_task-{task}_bold.nii.gz").touch()
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (root / "bold.json").write_text('{"RepetitionTime": 2.0}')
    (root / "task-film_events.tsv").write_text("onset\tduration\tstim_file\n0\t8\ta.mp4\n")
    path = tmp_path / "config.yaml"
    path.write_text(
        f"output_dir: {tmp_path}/out\ndataset: {{bids_dir: {root}, filters: {{subject: '02', task: localizer}}}}\n"
        "fmri: {atlas: {image: atlas.nii}}\n"
    )
    return path


def test_filter_options_win_over_the_configuration(raw, tmp_path, capsys):
    assert run("validate", "--config", raw)[0] == 1
    assert "sub-02_task-localizer has no events.tsv" in capsys.readouterr().out
    assert run("validate", "--config", raw, "--participant-label", "sub-01", "--task", "film")[0] == 1
    printed = capsys.readouterr().out
    assert "sub-01_task-film_bold.nii.gz" in printed
    assert "sub-02" not in printed
    assert "localizer" not in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--participant-label", "03"), "no run matches subject '03'; found subjects: 01, 02"),
        (("--participant_label", "1", "--task-id", "flim"), "no run matches task 'flim'; found tasks: film"),
        (("--session-id", "a"), "no run matches session 'a'; found sessions: none"),
        (("--session", "1"), "no run matches session '1'; found sessions: none"),
        (("--subject", "03"), "no run matches subject '03'; found subjects: 01, 02"),
        (("--run", "3"), "no run matches run '3'; found runs: none"),
        (("--run-id", "2"), "no run matches run '2'; found runs: none"),
        (("--bids-filter-file", "none.json"), "none.json does not exist"),
    ],
)
def test_a_filter_option_that_matches_nothing_says_what_there_is(raw, capsys, options, sentence):
    assert run("validate", "--config", raw, *options)[0] == 1
    assert sentence in capsys.readouterr().out
    assert sentence in run("run", "--config", raw, *options)[1]


def test_a_filter_file_goes_into_the_configuration_that_is_run(raw, tmp_path, monkeypatch):
    import yaml

    from neuroalign import validate

    calls = []

    def fake(command, check):
        calls.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", fake)
    # The images are empty, which is not what is tested here.
    monkeypatch.setattr(validate, "validate", lambda config: [])
    file = tmp_path / "filter.json"
    file.write_text('{"bold": {"task": "film"}}')
    assert run("run", "--config", raw, "--bids-filter-file", file, "--participant-label", "01", "-n")[0] == 0
    written = Path(calls[0][calls[0].index("--configfile") + 1])
    assert written == tmp_path / "out/config_with_filters.yaml"
    values = yaml.safe_load(written.read_text())
    assert values["dataset"]["filters"] == {
        "subject": ["01"],
        "task": "localizer",
        "bids_filter_file": str(file),
    }
    assert values["fmri"] == {"atlas": {"image": "atlas.nii"}}
    assert run("run", "--config", raw, "-n")[0] == 0
    assert calls[1][calls[1].index("--configfile") + 1] == str(raw)
