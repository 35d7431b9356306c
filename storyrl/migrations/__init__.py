"""Schema changes of the store, run by Alembic from code (no alembic.ini)."""
