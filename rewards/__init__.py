"""Scorers, one a file, and their weighted sum: the reward."""
