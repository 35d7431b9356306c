"""The scorers inside TRL's own trainer."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import RLOOConfig, RLOOTrainer

from rewards import composite

from .conftest import word_tokenizer


def test_every_scorer_is_a_trl_reward_function(
    tmp_path: Path, tiny_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    scorers = [term.scorer for term in composite.build().terms.values()]
    rows = [{"prompt": "Premise: A door.", "goal": "It opens.", "premise": "A door."}] * 4
    settings = RLOOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=8,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    trainer = RLOOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_folder(), dtype="float32"),
        reward_funcs=scorers,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=word_tokenizer(),
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    for scorer in scorers:
        assert f"rewards/{scorer.name}/mean" in logged
