"""The studio: a page in which people write with the model and rate its stories."""
