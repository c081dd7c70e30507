"""Clipping norms, and what differential privacy has released."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the change."""
    for table, column, kind in (
        ("round", "clip_norm", sa.Double()),
        ("round", "releases", sa.BigInteger()),
        ("round", "epsilon", sa.Double()),
        ("version", "clip_norm", sa.Double()),
    ):
        op.add_column(table, sa.Column(column, kind, nullable=False, server_default="0"))


def downgrade() -> None:
    """Take it back."""
    op.drop_column("round", "epsilon")
    op.drop_column("round", "releases")
    op.drop_column("round", "clip_norm")
    op.drop_column("version", "clip_norm")
