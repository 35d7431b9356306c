"""What goes into the model: readers of prompt files, the turn format, the context, and the starter prompts."""
