"""storyrl: a story-generation agent whose language model is tuned by reinforcement learning."""

__version__ = "0.1.0"
