"""The database: how it is opened, and brought up to date."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from cloister_coordinator.errors import ConfigurationError

_BUSY_SECONDS = 30
"""How long to wait for another process (a backup, a shell) that holds the database."""


def open_database(url: str) -> Engine:
    """Connect and migrate to the newest schema.

    Raises:
        ConfigurationError: the database cannot be opened or migrated.
    """
    try:
        engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
        with engine.begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except (SQLAlchemyError, ImportError) as e:
        raise ConfigurationError(f"the database cannot be opened: {e}") from e
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    # FULL: a commit is on the disk when it returns, not only safe from corruption.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000}")
