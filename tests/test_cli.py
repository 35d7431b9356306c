"""The command line on tiny models: results, exit codes, one-line errors."""

import contextlib
import io
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from rewards.composite import DEFAULT_WEIGHTS
from storyrl.cli import main
from storyrl.store import Answer, Comparison, Store
from storyrl.story import Prompt


def storyrl(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command: in this process (imports are slow), or with options for subprocess.run in its own."""
    words = list(map(str, arguments))
    if options:
        command = [sys.executable, "-m", "storyrl", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["storyrl", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def refused(*arguments: object, says: str, **options: Any) -> None:
    done = storyrl(*arguments, **options)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "a", "premise": "A door.", "goal": "It opens."}\n{"id": "b", "premise": "B."}\n')
    return path


def test_unknown_model(prompts: Path, tmp_path: Path) -> None:
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin", "HOME": str(Path.home())}
    says = "did you mean 'storyteller'"
    refused("generate", prompts, "--out", tmp_path / "o.jsonl", "--policy", "storytellr", says=says, env=environment)


def test_broken_prompt_file(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"gaol": "x"}\n')
    refused("generate", bad, "--out", tmp_path / "o.jsonl", says=f"{bad}:1: field")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("betta=1", "did you mean 'beta'"),
        ("beta=high", "expected float"),
        ("steps=0", "at least 1"),
        ("method=all", "expected one of"),
        ("reward.gaol=1", "did you mean 'goal'"),
        ("beta", "expected key=value"),
    ],
)
def test_bad_settings(tmp_path: Path, tiny_folder: Any, override: str, says: str) -> None:
    policy = tiny_folder()
    refused("tune", "--out", tmp_path / "run", "--policy", policy, "--quiet", "--set", override, says=says)
    assert not (tmp_path / "run").exists()


def test_config_file_with_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "tune.toml").write_text("step = 5\n")
    refused("tune", "--out", tmp_path / "run", "--config", tmp_path / "tune.toml", says="did you mean 'steps'")


def test_full_disk(prompts: Path, tmp_path: Path, tiny_folder: Any) -> None:
    """Files may not grow beyond 100 bytes: the same error path as a full disk."""
    out = tmp_path / "o.jsonl"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # noqa: E731
    arguments = ["generate", prompts, "--out", out, "--policy", tiny_folder(), "--quiet", "--turns", 2]
    refused(*arguments, says=f"{out}: cannot write", preexec_fn=limit)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_generate_score_report(prompts: Path, tmp_path: Path, tiny_folder: Any, kind: str) -> None:
    policy, out, again = tiny_folder(kind), tmp_path / "o.jsonl", tmp_path / "again.jsonl"
    for path in (out, again):
        arguments = ["--policy", policy, "--turns", 3, "--candidates", 2, "--seed", 7, "--batch-size", 1, "--quiet"]
        done = storyrl("generate", prompts, "--out", path, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert out.read_text() == again.read_text()
    fields = {"id", "prompt", "turns", "text", "scores", "reward", "policy", "seed", "tokens"}
    assert [set(record) for record in records] == [fields] * 2
    assert records[0]["prompt"] == {"id": "a", "premise": "A door.", "goal": "It opens."}
    assert set(records[0]["scores"]) == {name for name, weight in DEFAULT_WEIGHTS.items() if weight}
    assert all(set(turn) == {"kind", "actor", "text"} for turn in records[0]["turns"])

    scored = tmp_path / "scored.jsonl"
    assert storyrl("score", out, "--out", scored, "--quiet").returncode == 0
    for before, after in zip(records, map(json.loads, scored.read_text().splitlines()), strict=True):
        assert after["reward"] == pytest.approx(before["reward"], abs=1e-3)
    done = storyrl("report", "--before", out, "--after", again, "--out", tmp_path / "r.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.html").exists()


def test_weights_and_own_rewards_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def words(completions, **columns):\n    return [len(c.split()) for c in completions]\n")
    Path("s.jsonl").write_text('{"text": "A tale of four words and more.", "goal": "It ends."}\n')
    weights = ["--reward", "mine:words=0.5", "--reward", "goal=0", "--reward", "preference=0", "--reward", "short=0"]
    done = storyrl("score", "s.jsonl", "--out", "o.jsonl", *weights)
    assert done.returncode == 0, done.stderr
    row = json.loads(Path("o.jsonl").read_text())
    assert row["scores"]["mine:words"] == 7
    assert "goal" not in row["scores"]
    assert row["reward"] == pytest.approx(3.5)
    refused("score", "s.jsonl", "--out", "o.jsonl", "--reward", "goal", says="expected name=weight")
    refused("score", "s.jsonl", "--out", "o.jsonl", "--reward", "mine:none=1", says="cannot import it")


def test_score_refuses_rows_without_text(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"text": "A tale."}\n{"goal": "x"}\n')
    refused("score", tmp_path / "s.jsonl", "--out", tmp_path / "o.jsonl", says="s.jsonl:2: field 'text'")


def test_sft_tune_and_use_the_run(prompts: Path, tmp_path: Path, tiny_folder: Any) -> None:
    policy, adapter, run = tiny_folder(), tmp_path / "adapter", tmp_path / "run"
    story = {"premise": "A.", "goal": "B.", "turns": [{"kind": "narrate", "actor": None, "text": "It rained."}]}
    stories = tmp_path / "stories.jsonl"
    stories.write_text("".join(json.dumps({"id": str(i), **story}) + "\n" for i in range(12)))
    options = ["--stories", stories, "--policy", policy, "--held-out", 2, "--epochs", 2, "--quiet"]
    done = storyrl("sft", "--out", adapter, *options)
    assert done.returncode == 0, done.stderr
    assert "perplexity_after" in done.stdout
    settings = ["steps=2", "prompts_per_step=2", "samples_per_prompt=2", "max_tokens=16", f'eval_prompts="{prompts}"']
    sets = [word for setting in settings for word in ("--set", setting)]
    done = storyrl("tune", "--out", run, "--prompts", prompts, "--policy", adapter, "--quiet", *sets)
    assert done.returncode == 0, done.stderr
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [0, 1]
    assert metrics[0]["kl"] == 0
    assert (run / "report.html").exists()
    shown = storyrl("models", "show", run)
    assert f"{run} on {adapter} on {policy}" in shown.stdout
    exported = storyrl("models", "export", "--policy", run, "--out", tmp_path / "plain")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "plain" / "model.safetensors").exists()
    refused("tune", "--out", run, "--policy", policy, "--quiet", says="exists already")


def test_ratings_export_and_fit(tmp_path: Path) -> None:
    db, out = tmp_path / "r.db", tmp_path / "pairs.jsonl"
    prompt = Prompt(premise="A door.", goal="It opens.")
    refused("fit", "preference", "--db", db, "--out", tmp_path / "taste", says="no comparisons yet")
    Store(str(db)).add_comparison(Comparison(prompt, "It was dark.", "The door opened at last.", Answer.B))
    assert storyrl("ratings", "export", "--db", db, "--out", out).returncode == 0
    pair = json.loads(out.read_text())
    assert (pair["chosen"], pair["rejected"]) == ("The door opened at last.", "It was dark.")
    assert pair["prompt"] == "Premise: A door.\nGoal: It opens."
    assert storyrl("fit", "preference", "--pairs", out, "--out", tmp_path / "taste").returncode == 0
    assert (tmp_path / "taste" / "taste.safetensors").exists()
    done = storyrl("fit", "preference", "--db", db, "--out", tmp_path / "again")
    assert "learned from 1 choices" in done.stdout, done.stderr


def test_help_has_an_example_for_each_command() -> None:
    commands = ["sft", "tune", "generate", "score", "studio", "report", "doctor", "models list", "models pull"]
    commands += ["models show", "models export", "ratings export", "fit preference"]
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    for command in commands:
        assert f"Example: storyrl {command}" in " ".join(storyrl(*command.split(), "--help").stdout.split()), command
        assert f"storyrl {command}" in readme, f"the README does not mention `storyrl {command}`"


def test_doctor() -> None:
    done = storyrl("doctor")
    assert done.returncode == 0, done.stderr
    assert "GFLOP/s" in done.stdout


def test_resume_takes_a_run_as_it_was_started(tmp_path: Path) -> None:
    refused("tune", says="give --out FOLDER for a new run, or --resume FOLDER")
    refused("tune", "--resume", tmp_path, "--out", tmp_path / "new", says="give --out FOLDER for a new run")
    for other in (("--steps", 3), ("--set", "beta=1"), ("--engine", "trl"), ("--policy", "smollm2")):
        refused("tune", "--resume", tmp_path, *other, says="goes on as the run was started")
