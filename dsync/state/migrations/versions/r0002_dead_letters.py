"""Dead letters that were written again or given up stay on record, without what they held."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("dead_letters", sa.Column("resolution", sa.Text, nullable=False, server_default=""))
    op.add_column("dead_letters", sa.Column("resolved_at", sa.BigInteger))
