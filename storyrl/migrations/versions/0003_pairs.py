"""Stories to compare, the pair that is open, repeated pairs, marks that belong to an answer; what edits began from."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "pool_stories",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("prompt", sa.JSON, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("created", _TIME, nullable=False),
    )
    op.create_index("ix_pool_stories_owner", "pool_stories", ["owner"])
    _refer("comparisons", "SET NULL", story_a_id="pool_stories", story_b_id="pool_stories", repeat_of="comparisons")
    _refer("ratings", "CASCADE", comparison_id="comparisons")
    _refer("candidates", "SET NULL", turn_id="turns")
    op.create_index("ix_ratings_comparison_id", "ratings", ["comparison_id"])
    op.create_table(
        "open_pairs",
        sa.Column("owner", sa.String(200), primary_key=True),
        sa.Column("key", sa.String(40), nullable=False),
        sa.Column("story_a_id", sa.Integer, sa.ForeignKey("pool_stories.id", ondelete="CASCADE"), nullable=False),
        sa.Column("story_b_id", sa.Integer, sa.ForeignKey("pool_stories.id", ondelete="CASCADE"), nullable=False),
        sa.Column("repeat_of", sa.Integer, sa.ForeignKey("comparisons.id", ondelete="SET NULL")),
        sa.Column("draft", sa.JSON, nullable=False),
    )
    op.create_table(
        "forgotten_preferences",
        sa.Column("better_id", sa.Integer, sa.ForeignKey("candidates.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("worse_id", sa.Integer, sa.ForeignKey("candidates.id", ondelete="CASCADE"), primary_key=True),
    )


def _refer(table: str, when_deleted: str, **columns: str) -> None:
    """Add columns that refer to the ids of other tables. No other table refers to this one yet."""
    with op.batch_alter_table(table) as batch:
        for column, target in columns.items():
            batch.add_column(sa.Column(column, sa.Integer))
            batch.create_foreign_key(f"fk_{table}_{column}", target, [column], ["id"], ondelete=when_deleted)
