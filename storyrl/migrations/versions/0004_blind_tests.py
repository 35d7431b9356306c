"""Blind tests between two policies: their pairs of stories and the answers."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "blind_tests",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("before", sa.Text, nullable=False),
        sa.Column("after", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_blind_tests_owner", "blind_tests", ["owner"])
    op.create_table(
        "blind_answers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("test_id", sa.Integer, sa.ForeignKey("blind_tests.id", ondelete="CASCADE"), nullable=False),
        sa.Column("prompt", sa.JSON, nullable=False),
        sa.Column("text_before", sa.Text, nullable=False),
        sa.Column("text_after", sa.Text, nullable=False),
        sa.Column("after_is_a", sa.Boolean, nullable=False),
        sa.Column("answer", sa.String(20)),
        sa.Column("answered", sa.DateTime(timezone=True)),
        sa.CheckConstraint("answer in ('A', 'B', 'tie')", name="ck_blind_answers_answer"),
    )
    op.create_index("ix_blind_answers_test_id", "blind_answers", ["test_id"])


def downgrade() -> None:
    op.drop_table("blind_answers")
    op.drop_table("blind_tests")
