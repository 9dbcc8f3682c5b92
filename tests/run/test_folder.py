"""What --overwrite and --resume may do to a folder: nothing that is needed, and nothing that is not a run's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pocketvit.cli import main
from pocketvit.config import Settings
from pocketvit.errors import UserError
from pocketvit.run.folder import CONFIG, LOCK, OWN, OWNER, RunFolder
from pocketvit.run.opening import discard, hold, open_run, settle
from pocketvit.verbs import train

SIZES = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_heads": 2}
TINY = [
    *(f"--model.{name}={value}" for name, value in SIZES.items()),
    "--resnet.depth=8",
    "--device=cpu",
    "--precision=float32",
]


def test_init_in_the_folder_that_would_be_overwritten_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert main(["pretrain", "digits", *TINY, "--epochs=1", "--out", out]) == 0
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    again = ["finetune", "digits", *TINY, "--epochs=1", "--init", out, "--out", out, "--overwrite"]
    assert main(again) == 2
    assert "holds the weights of --init, which --overwrite would delete" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def run_in(folder: Path) -> Path:
    return open_run(folder, "name", Settings(), overwrite=False, resume=False)


def test_images_in_the_folder_that_would_be_overwritten_are_kept(tmp_path: Path) -> None:
    images = run_in(tmp_path / "run") / "stages" / "cat"
    images.mkdir()
    with pytest.raises(UserError, match="holds the images"):
        open_run(tmp_path / "run", "name", Settings(), overwrite=True, resume=False, needed={"the images": images})
    assert images.is_dir()


def test_what_pocketvit_did_not_write_is_never_deleted(tmp_path: Path) -> None:
    folder = run_in(tmp_path / "run")
    (folder / "thesis.tex").write_text("years of work")
    (folder / "summary.json").write_text("{}")
    open_run(folder, "name", Settings(), overwrite=True, resume=False)
    settle(folder)
    assert sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK) == [
        OWNER,
        CONFIG,
        "stages",
        "thesis.tex",
    ]


def test_a_config_of_something_else_does_not_make_a_run(tmp_path: Path) -> None:
    for text in ("", "lr: 0.1\nmodel: resnet50\n", "- data", "{"):
        (tmp_path / CONFIG).write_text(text)
        (tmp_path / "model.safetensors").write_text("somebody else's weights")
        with pytest.raises(UserError, match="exists and is not a run directory"):
            open_run(tmp_path, "name", Settings(), overwrite=True, resume=False)
        assert (tmp_path / "model.safetensors").is_file()


def test_a_command_that_is_refused_leaves_the_run_that_was_there(tmp_path: Path) -> None:
    folder = run_in(tmp_path / "run")
    (folder / "model.safetensors").write_text("a week of training")
    command = ["fit", "digits", *TINY, "--time-limit=1s", "--out", str(folder), "--overwrite"]
    assert main(command) == 2
    assert (folder / "model.safetensors").read_text() == "a week of training"
    assert (folder / CONFIG).is_file()
    assert {entry.name for entry in folder.iterdir()} <= OWN | {LOCK, OWNER}


def test_a_command_that_is_interrupted_as_it_plans_leaves_the_run_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_in(tmp_path / "run")
    (folder / "model.safetensors").write_text("a week of training")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "outlay", interrupted)
    assert main(["fit", "digits", *TINY, "--out", str(folder), "--overwrite"]) == 130
    assert (folder / "model.safetensors").read_text() == "a week of training"


def test_a_kill_as_it_plans_costs_no_run_when_the_command_is_repeated(tmp_path: Path) -> None:
    folder = run_in(tmp_path / "run")
    (folder / "summary.json").write_text("the first")
    for _ in range(2):  # neither comes to its begin
        open_run(folder, "name", Settings(), overwrite=True, resume=False)
        assert not (folder / "summary.json").exists()
    discard(folder)
    assert (folder / "summary.json").read_text() == "the first"


def test_a_run_that_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    discard(run_in(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_name_that_no_file_system_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be a directory"):
        run_in(tmp_path / ("x" * 300))


def test_a_link_to_a_run_is_emptied_and_stays(tmp_path: Path) -> None:
    place = run_in(tmp_path / "otherdisk")
    (place / "summary.json").write_text("{}")
    (tmp_path / "link").symlink_to(place)
    open_run(tmp_path / "link", "name", Settings(), overwrite=True, resume=False)
    settle(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert sorted(entry.name for entry in place.iterdir() if entry.name != LOCK) == [OWNER, CONFIG, "stages"]


def test_all_that_a_run_writes_can_be_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["fit", "digits", *TINY, "--epochs=1", "--finetune.epochs=1", "--finetune.min_steps=0", "--seeds=1"]
    assert main([*command, "--out", str(out)]) == 0
    assert {entry.name for entry in out.iterdir()} <= OWN | {LOCK, OWNER}
    assert main([*command, "--out", str(out), "--overwrite"]) == 0


def test_resuming_what_is_not_there_yet_begins_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for _ in range(2):  # a scheduler's line: the same each time
        assert main(["pretrain", "digits", *TINY, "--epochs=1", "--out", str(out), "--resume"]) == 0
    assert (out / "model.safetensors").is_file()


def test_a_run_from_before_a_setting_was_there_goes_on(tmp_path: Path) -> None:
    config = run_in(tmp_path / "run") / CONFIG
    older = "".join(line for line in config.read_text().splitlines(True) if "label_column" not in line)
    assert older != config.read_text()
    config.write_text(older)
    assert open_run(tmp_path / "run", "name", Settings(), overwrite=False, resume=True) == tmp_path / "run"
    with pytest.raises(UserError, match="the settings differ"):
        open_run(tmp_path / "run", "name", Settings(seed=5), overwrite=False, resume=True)


def test_a_run_of_another_format_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "run")
    command = ["pretrain", "digits", *TINY, "--epochs=1", "--out", str(folder.root)]
    assert main(command) == 0
    today = json.loads(folder.origin.read_text())
    capsys.readouterr()
    # The first format did not name itself.
    for before in ({key: value for key, value in today.items() if key != "format"}, {**today, "format": 99}):
        folder.origin.write_text(json.dumps(before))
        written = folder.weights.read_bytes(), folder.summary.read_bytes()
        assert main([*command, "--resume"]) == 2
        refusal = f"--resume: {folder.root} was begun by another version of PocketViT: start afresh"
        assert capsys.readouterr().err == f"pocketvit: {refusal}\n"
        assert (folder.weights.read_bytes(), folder.summary.read_bytes()) == written


def test_one_process_at_a_time_writes_into_a_run(tmp_path: Path) -> None:
    folder = run_in(tmp_path / "run")
    code = "import sys, time; from pathlib import Path; from pocketvit.run.opening import hold; "
    code += "lock = hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"process {other.pid} on .* is writing there"):
            open_run(folder, "name", Settings(), overwrite=True, resume=False)
    finally:
        other.kill()
        other.wait()
    # Its death has released the lock, and who holds it may have it again.
    first, second = hold(folder), hold(folder)
    assert first is not None
    assert second is first


@pytest.mark.parametrize("name", ["origin", "clock", "pretrain-mae", "call"])
def test_a_damaged_file_of_a_run_is_named(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["pretrain", "digits", *TINY, "--epochs=1", "--out", str(out)]) == 0
    capsys.readouterr()
    (out / "stages" / f"{name}.json").write_text("{")
    assert main(["resume", str(out)]) == 2
    assert f"{name}.json: damaged" in capsys.readouterr().err
