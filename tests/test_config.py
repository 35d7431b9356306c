"""Settings survive the way to TOML and back."""

from pathlib import Path

from storyrl.config import TuneConfig, load_config, to_toml


def test_settings_as_toml_and_back(tmp_path: Path) -> None:
    config = TuneConfig(steps=3, policy='a "quoted" folder\n', reward={"goal": 2.0, "pkg.mod:function": 0.5})
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert load_config(path) == config


def test_a_reward_of_ones_own_as_an_override() -> None:
    config = load_config(None, ["reward.pkg.mod:function=0.5", "reward.goal=2"])
    assert config.reward == {"pkg.mod:function": 0.5, "goal": 2}
