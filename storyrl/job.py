"""A tuning run as a process of its own, which goes on when its starter ends: start, watch, stop, resume.

JOB/job.json        whose it is, when it was started, the process
JOB/settings.toml   what `storyrl tune` was told
JOB/heldout.jsonl   the held-out prompts
JOB/taste/          the taste that is tuned on, where there is one
JOB/log.txt         what the process said
JOB/run/            the run folder (storyrl/tuning/run.py)

All that is known of a job is read from its folder, so it survives whoever watches. A process is recognised by its
number and the time it was started, so that another one which got the number later is neither waited for nor stopped.
What it leaves out: which jobs there are, and who may have one (storyrl/policies.py).
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from storyrl.config import TuneConfig, load_config, to_toml
from storyrl.errors import InputError
from storyrl.files import atomic_writer, read_jsonl, write_json, write_jsonl
from storyrl.generate import prompt_record
from storyrl.story import Prompt

_NICENESS = 10  # of 19; writing goes before tuning
_PATIENCE = 15.0  # seconds that a process gets to end by itself
_LATEST = 5  # steps by which the time left is judged
_LOG_TAIL = 65_536  # bytes of the log in which its last word is looked for
_SAME_TIME = 2.0  # seconds; the start of a process is not told more exactly everywhere
_children: dict[int, "subprocess.Popen[bytes]"] = {}  # those of this process, which have to be waited for
_starting = threading.Lock()


class State(StrEnum):
    """How a job stands."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # by its owner; can go on
    FAILED = "failed"  # by itself; can go on once its cause is mended


class Phase(StrEnum):
    """What a running job does."""

    LOADING = "loading"
    BEFORE = "before"  # writing the held-out stories
    TUNING = "tuning"
    AFTER = "after"


@dataclass(frozen=True)
class Look:
    """A job at one moment. `rows` are the lines of metrics.jsonl; `seconds_left` is None until it can be told."""

    state: State
    phase: Phase
    config: TuneConfig
    rows: Sequence[Mapping[str, Any]]
    alarms: Sequence[str]
    seconds_left: float | None
    error: str = ""


@dataclass(frozen=True)
class Job:
    """A tuning run in a folder of its own."""

    folder: Path

    @classmethod
    def start(cls, folder: Path, owner: str, config: TuneConfig, heldout: Sequence[Prompt], others: Path) -> "Job":
        """Begin to tune.

        Args:
            folder: of the job; made here.
            owner: whose it is.
            config: the settings; `eval_prompts` is set to `heldout`, and a `taste` is copied into the folder.
            heldout: prompts for the stories before and after; at least one.
            others: the folder of all jobs, one of which may run at a time.

        Raises:
            InputError: one is running already, or the folder cannot be written.
        """
        job = cls(folder)
        with _starting:
            check_free(others)
            try:
                folder.mkdir(parents=True)
                if config.taste:
                    shutil.copytree(config.taste, folder / "taste")
            except OSError as error:
                raise InputError(f"{folder}: cannot write ({error.strerror or error}); free some space") from error
            write_jsonl(folder / "heldout.jsonl", [prompt_record(prompt) for prompt in heldout])
            taste = str(folder / "taste") if config.taste else ""
            places = {"taste": taste, "eval_prompts": str(folder / "heldout.jsonl")}
            with atomic_writer(folder / "settings.toml") as handle:
                handle.write(to_toml(TuneConfig(**{**vars(config), **places})))
            write_json(folder / "job.json", {"owner": owner, "created": datetime.now(UTC).isoformat()})
            job._launch()
        return job

    def resume(self, others: Path) -> None:
        """Go on after the last checkpoint.

        Raises:
            InputError: a job is running already, or this one is finished.
        """
        with _starting:
            check_free(others)
            if self.look().state is State.FINISHED:
                raise InputError("this tuning is finished; there is nothing to go on with")
            self._launch()

    def stop(self) -> None:
        """Let the process end; what it learned up to its last checkpoint is kept. Returns when it has ended."""
        self._note(stopping=True)
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if not (process := self._process()):
                return
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(sign)
            deadline = time.monotonic() + _PATIENCE
            while self._process() and time.monotonic() < deadline:
                time.sleep(0.1)

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    @property
    def owner(self) -> str:
        """Whose job it is; empty when that cannot be read."""
        return str(self._notes().get("owner", ""))

    @property
    def created(self) -> datetime:
        """When it was started first."""
        return datetime.fromisoformat(str(self._notes().get("created", "1970-01-01T00:00:00+00:00")))

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._process() is not None

    @property
    def is_finished(self) -> bool:
        """Whether it has written its last stories and ended."""
        return (self.run / "heldout_after.jsonl").exists() and not self.is_running

    @property
    def config(self) -> TuneConfig:
        """Its settings.

        Raises:
            InputError: they cannot be read.
        """
        settings = self.run / "config.toml"
        return load_config(settings if settings.exists() else self.folder / "settings.toml")

    @property
    def is_usable(self) -> bool:
        """Whether it is finished and its settings can be read."""
        try:
            return self.is_finished and bool(self.config)
        except InputError:
            return False

    def look(self) -> Look:
        """How it stands.

        Raises:
            InputError: the folder holds no job, or one that cannot be read.
        """
        is_running = self.is_running  # first: what it wrote before it ended must be seen
        config, rows = self.config, self._lines("metrics.jsonl")
        alarms = list(dict.fromkeys(str(row["alarm"]) for row in self._lines("alarms.jsonl")))
        phase = self._phase(len(rows), config)
        if is_running:
            return Look(State.RUNNING, phase, config, rows, alarms, self._seconds_left(rows, config))
        if self.is_finished:
            return Look(State.FINISHED, phase, config, rows, alarms, None)
        if self._notes().get("stopping"):
            return Look(State.STOPPED, phase, config, rows, alarms, None)
        lost = "the process ended without a word: it was killed, or the machine was switched off"
        return Look(State.FAILED, phase, config, rows, alarms, None, self._last_word() or lost)

    def stories(self, when: str) -> list[dict[str, Any]]:
        """The held-out stories "before" or "after", as `storyrl generate` writes them; [] while there are none."""
        return self._lines(f"heldout_{when}.jsonl")

    def samples(self) -> list[dict[str, Any]]:
        """The best and the worst story of each step."""
        return self._lines("samples.jsonl")

    def _launch(self) -> None:
        what = ["--resume", str(self.run)]
        if not (self.run / "config.toml").exists():
            what = ["--config", str(self.folder / "settings.toml"), "--out", str(self.run)]
        with (self.folder / "log.txt").open("ab") as log:
            start = log.tell()
            child = subprocess.Popen(
                [sys.executable, "-m", "storyrl", "tune", *what],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl+C in the terminal of the studio is not meant for it
            )
        if hasattr(os, "setpriority"):
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, child.pid, _NICENESS)
        _children[child.pid] = child
        self._note(pid=child.pid, started=psutil.Process(child.pid).create_time(), log_from=start, stopping=False)

    def _notes(self) -> dict[str, Any]:
        try:
            notes = json.loads((self.folder / "job.json").read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return notes if isinstance(notes, dict) else {}

    def _note(self, **values: Any) -> None:
        write_json(self.folder / "job.json", {**self._notes(), **values})

    def _process(self) -> psutil.Process | None:
        """The job's process, if it is there and is the one that was started."""
        notes = self._notes()
        pid, started = notes.get("pid"), notes.get("started")
        if not isinstance(pid, int) or not isinstance(started, int | float):
            return None
        if (child := _children.get(pid)) and child.poll() is not None:
            del _children[pid]
        try:
            process = psutil.Process(pid)
            is_ours = abs(process.create_time() - started) < _SAME_TIME and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, ValueError, OverflowError):
            return None
        return process if is_ours else None

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.run / name
        return [row for _, row in read_jsonl(path, torn_end=True)] if path.exists() else []

    def _phase(self, steps: int, config: TuneConfig) -> Phase:
        if not (self.run / "config.toml").exists():
            return Phase.LOADING
        if not (self.run / "heldout_before.jsonl").exists():
            return Phase.BEFORE
        return Phase.TUNING if steps < config.steps else Phase.AFTER

    def _seconds_left(self, rows: Sequence[Mapping[str, Any]], config: TuneConfig) -> float | None:
        """By the latest steps, and by how long the held-out stories took before."""
        if not rows:
            return None
        latest = rows[-_LATEST:]
        a_step = sum(sum(row["seconds"].values()) for row in latest) / len(latest)
        settings, before = (self.run / name for name in ("config.toml", "heldout_before.jsonl"))
        evaluation = before.stat().st_mtime - settings.stat().st_mtime
        return a_step * max(0, config.steps - len(rows)) + max(0.0, evaluation)

    def _last_word(self) -> str:
        """What the process said last of all to the person at the terminal, without its name."""
        try:
            with (self.folder / "log.txt").open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(int(self._notes().get("log_from", 0)), size - _LOG_TAIL))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except (OSError, ValueError):
            return ""
        return next((line.removeprefix("storyrl: ") for line in reversed(lines) if line.startswith("storyrl: ")), "")


def jobs(others: Path) -> list[Job]:
    """The jobs in a folder, the latest first."""
    if not others.is_dir():
        return []
    found = [Job(folder) for folder in others.iterdir() if (folder / "job.json").is_file()]
    return sorted(found, key=lambda job: job.created, reverse=True)


def running(others: Path) -> Job | None:
    """The job that runs, if one does."""
    return next((job for job in jobs(others) if job.is_running), None)


def check_free(others: Path) -> None:
    """Raises InputError while a job runs."""
    if running(others):
        raise InputError("a tuning is running on this machine already; wait until it has ended, or stop it")
