"""The clients known to the coordinator, as statements."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, insert, select, update

from cloister_coordinator.ledger import Record
from cloister_coordinator.schema import ClientRow

_UPDATE = update(ClientRow).where(ClientRow.id == bindparam("client"))
_INSERT = insert(ClientRow)


def enrol(c: Connection, client_id: str, public_key: bytes, name: str, now_ms: int) -> None:
    """Record a client, or that it is back, perhaps under another name."""
    changed = c.execute(_UPDATE, {"client": client_id, "name": name, "last_seen_at_ms": now_ms})
    if not changed.rowcount:
        values = {"id": client_id, "public_key": public_key, "name": name, "capabilities": b""}
        c.execute(_INSERT, values | {"last_seen_at_ms": now_ms})


def check_in(c: Connection, client_id: str, capabilities: bytes, now_ms: int) -> None:
    """Record what a client offers."""
    values = {"client": client_id, "capabilities": capabilities, "last_seen_at_ms": now_ms}
    c.execute(_UPDATE, values)


def seen(c: Connection, client_id: str, now_ms: int) -> None:
    """Record that a client was there."""
    c.execute(_UPDATE, {"client": client_id, "last_seen_at_ms": now_ms})


def clients(c: Connection, limit: int, after: str) -> Sequence[Record]:
    """Clients above an id, in ascending order."""
    query = select(ClientRow.__table__).where(ClientRow.id > after)
    return c.execute(query.order_by(ClientRow.id).limit(limit)).all()
