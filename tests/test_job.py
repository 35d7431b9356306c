"""Tuning as a process of its own: started, seen from its folder, stopped, resumed; another process is left alone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rewards.taste import Taste
from storyrl.config import TuneConfig, load_config, to_toml
from storyrl.errors import InputError
from storyrl.files import write_jsonl
from storyrl.job import Job, Phase, State, jobs, running
from storyrl.story import Prompt
from storyrl.tuning.run import TuningRun

_HELDOUT = [Prompt(id="h", premise="A hen waits.", goal="The hen leaves.")]
_TINY: dict[str, Any] = {
    "prompts_per_step": 2,
    "samples_per_prompt": 2,
    "max_tokens": 8,
    "save_every": 1,
    "reward": {"goal": 0, "preference": 1},
}


def _row(step: int, seconds: float) -> dict[str, Any]:
    return {"step": step, "reward": 0.1 * step, "kl": 0.0, "scores": {}, "seconds": {"a": seconds - 1, "b": 1}}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job of 10 steps whose process is not there."""
    made = Job(tmp_path / "runs" / "one")
    made.run.mkdir(parents=True)
    (made.folder / "settings.toml").write_text(to_toml(TuneConfig(steps=10)))
    _note(made, owner="mira", created="2026-01-02T03:04:05+00:00")
    return made


@pytest.fixture
def sleeper() -> Iterator[psutil.Process]:
    """A process that has nothing to do with storyrl."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield psutil.Process(child.pid)
    child.kill()
    child.wait()


def _note(job: Job, **values: Any) -> None:
    path = job.folder / "job.json"
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


def _runs_as(job: Job, process: psutil.Process, started: float | None = None) -> None:
    _note(job, pid=process.pid, started=process.create_time() if started is None else started)


def test_phases_are_read_from_the_folder(job: Job, sleeper: psutil.Process) -> None:
    _runs_as(job, sleeper)
    assert (job.look().state, job.look().phase) == (State.RUNNING, Phase.LOADING)
    (job.run / "config.toml").write_text(to_toml(TuneConfig(steps=3)))
    assert job.look().phase is Phase.BEFORE
    write_jsonl(job.run / "heldout_before.jsonl", [{"text": "A."}])
    assert job.look().phase is Phase.TUNING
    write_jsonl(job.run / "metrics.jsonl", [_row(n, 2.0) for n in range(3)])
    assert (job.look().phase, len(job.look().rows)) == (Phase.AFTER, 3)
    write_jsonl(job.run / "heldout_after.jsonl", [{"text": "B."}])
    assert job.look().state is State.RUNNING  # the report is still to be written
    sleeper.kill()
    sleeper.wait()
    assert job.look().state is State.FINISHED
    assert [row["text"] for when in ("before", "after") for row in job.stories(when)] == ["A.", "B."]


def test_time_left_is_that_of_the_latest_steps_and_of_the_stories_after(job: Job, sleeper: psutil.Process) -> None:
    _runs_as(job, sleeper)
    (job.run / "config.toml").write_text(to_toml(TuneConfig(steps=10)))
    write_jsonl(job.run / "heldout_before.jsonl", [{"text": "A."}])
    os.utime(job.run / "config.toml", (1000, 1000))
    os.utime(job.run / "heldout_before.jsonl", (1030, 1030))
    assert job.look().seconds_left is None
    write_jsonl(job.run / "metrics.jsonl", [_row(0, 100.0), *(_row(n, 4.0) for n in range(1, 6))])
    assert job.look().seconds_left == pytest.approx(4 * 4.0 + 30)  # the first, slow step is six steps ago


def test_a_line_that_is_being_written_is_not_read(job: Job) -> None:
    (job.run / "metrics.jsonl").write_text(json.dumps(_row(0, 2.0)) + '\n{"step": 1, "rew')
    assert len(job.look().rows) == 1


def test_a_recycled_number_is_another_process(job: Job, sleeper: psutil.Process) -> None:
    _runs_as(job, sleeper, started=sleeper.create_time() - 60)
    assert not job.is_running
    job.stop()
    assert sleeper.is_running()
    assert running(job.folder.parent) is None
    _runs_as(job, sleeper)
    assert running(job.folder.parent) == job
    job.stop()
    sleeper.wait(20)
    assert job.look().state is State.STOPPED


@pytest.mark.parametrize("notes", ['{"pid": "1", "started": 0}', '{"pid": -5, "started": 0}', "[]", "{", "[" * 100_000])
def test_a_broken_note_is_no_process(job: Job, notes: str) -> None:
    (job.folder / "job.json").write_text(notes)
    assert not job.is_running
    assert job.owner == ""
    assert jobs(job.folder.parent) == [job]


def test_the_error_is_the_last_word_since_the_last_start(job: Job) -> None:
    assert "ended without a word" in job.look().error
    old = "storyrl: an error of the first attempt\n"
    (job.folder / "log.txt").write_text(old + "step 0: reward +0.1\n")
    _note(job, log_from=len(old))
    assert "ended without a word" in job.look().error
    with (job.folder / "log.txt").open("a") as log:
        log.write("Traceback ...\nstoryrl: the disk is full; free some space\n")
    assert (job.look().state, job.look().error) == (State.FAILED, "the disk is full; free some space")


def test_alarms_are_told_once(job: Job) -> None:
    write_jsonl(job.run / "alarms.jsonl", [{"step": 1, "alarm": "a"}, {"step": 2, "alarm": "a"}])
    assert job.look().alarms == ["a"]


def _config(tiny_folder: Any, tmp_path: Path, steps: int) -> TuneConfig:
    (tmp_path / "prompts.txt").write_text("A cat waits.\nA dog waits.\n")
    return TuneConfig(policy=str(tiny_folder()), prompts=str(tmp_path / "prompts.txt"), steps=steps, **_TINY)


def _wait(job: Job, until: Any) -> None:
    for _ in range(1200):
        if until():
            return
        assert job.is_running, (job.folder / "log.txt").read_text()
        time.sleep(0.1)
    raise AssertionError((job.folder / "log.txt").read_text())


@pytest.mark.slow
def test_started_stopped_resumed_finished(tiny_folder: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    config = _config(tiny_folder, tmp_path, steps=400)
    job = Job.start(runs / "one", "mira", config, _HELDOUT, runs)
    try:
        if hasattr(os, "getpriority"):
            assert os.getpriority(os.PRIO_PROCESS, json.loads((job.folder / "job.json").read_text())["pid"]) >= 10
        with pytest.raises(InputError, match="running on this machine already"):
            Job.start(runs / "two", "tom", config, _HELDOUT, runs)
        assert not (runs / "two").exists()
        _wait(job, lambda: len(job.look().rows) >= 2)
        assert job.look().seconds_left is not None
        assert Job(job.folder).look().state is State.RUNNING  # as a restarted server sees it
    finally:
        job.stop()
    look = job.look()
    assert (look.state, look.error) == (State.STOPPED, "")
    done = json.loads((job.run / "checkpoint" / "state.json").read_text())["step"]
    assert done >= len(look.rows) - 1 >= 1

    (job.run / "config.toml").write_text(to_toml(TuneConfig(**{**vars(job.config), "steps": len(look.rows) + 1})))
    job.resume(runs)
    _wait(job, lambda: job.is_finished)
    look = job.look()
    assert (look.state, look.phase) == (State.FINISHED, Phase.AFTER)
    assert [row["step"] for row in look.rows] == list(range(look.config.steps))
    assert [record["prompt"]["id"] for record in job.stories("after")] == ["h"]
    with pytest.raises(InputError, match="is finished"):
        job.resume(runs)


@pytest.mark.slow
def test_an_error_of_the_process_is_its_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    runs = tmp_path / "runs"
    job = Job.start(runs / "one", "mira", TuneConfig(policy=str(tmp_path / "empty")), _HELDOUT, runs)
    for _ in range(1200):
        if not job.is_running:
            break
        time.sleep(0.1)
    look = job.look()
    assert look.state is State.FAILED
    assert "holds no model" in look.error
    assert "\n" not in look.error


def test_a_job_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="cannot write"):
        Job.start(tmp_path / "runs" / "one", "mira", TuneConfig(), _HELDOUT, tmp_path / "runs")


# --- the setting `taste` ----------------------------------------------------------------------------------------------


def test_taste_is_a_setting(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('taste = "mine"\n')
    assert load_config(tmp_path / "t.toml").taste == "mine"
    assert load_config(None, ["taste=mine"]).taste == "mine"
    (tmp_path / "again.toml").write_text(to_toml(TuneConfig(taste='a "b"\\c')))
    assert load_config(tmp_path / "again.toml").taste == 'a "b"\\c'


def test_a_run_rewards_with_the_taste(tiny_folder: Any, tmp_path: Path) -> None:
    config = _config(tiny_folder, tmp_path, steps=1)
    taste = Taste.unknown()
    taste.delta[0] = 0.2
    taste.save(tmp_path / "taste")
    values = {**vars(config), "eval_prompts": "", "taste": str(tmp_path / "taste")}
    scorer: Any = TuningRun(TuneConfig(**values), tmp_path / "run").reward.terms["preference"].scorer
    assert float(scorer.taste.delta[0]) == pytest.approx(0.2)
    plain: Any = TuningRun(TuneConfig(**{**values, "taste": ""}), tmp_path / "plain").reward.terms["preference"].scorer
    assert plain.taste is None
    with pytest.raises(InputError, match="no weights that can be read"):
        TuningRun(TuneConfig(**{**values, "taste": str(tmp_path)}), tmp_path / "none")


def test_trl_has_no_taste(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "storyrl", "tune", "--engine", "trl", "--taste", "t", "--out", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (
        2,
        "storyrl: --engine trl: has no 'taste'; leave it out or use our engine",
    )
    assert not (tmp_path / "o").exists()
