"""The history of the tables; Alembic brings a database up to date at each start."""
