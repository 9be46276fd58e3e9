"""Rollouts as rows. A save writes what has changed, within the caller's transaction."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from camcloud.rollout.plan import (
    Execution,
    ExecutionState,
    Plan,
    Rollout,
    RolloutState,
    Strategy,
)
from camcloud.store.fleet_tables import rollout_executions, rollouts
from camsdk.errors import NotFound

MAX_DETAIL_CHARS = 500
_ENDED = tuple(state.value for state in RolloutState if state.has_ended)


def save(connection: Connection, before: Rollout | None, after: Rollout) -> None:
    """Writes ``after`` over ``before``, the value that the rows hold now (``None``: no rows)."""
    head = _head(after)
    if before is None:
        connection.execute(insert(rollouts).values(**head))
        rows = [_execution_row(after.rollout_id, item) for item in after.executions]
        if rows:
            connection.execute(insert(rollout_executions), rows)
        return
    connection.execute(
        update(rollouts).where(rollouts.c.rollout_id == after.rollout_id).values(**head)
    )
    for old, new in zip(before.executions, after.executions, strict=True):
        if old != new:
            row = _execution_row(after.rollout_id, new)
            connection.execute(
                update(rollout_executions)
                .where(
                    rollout_executions.c.rollout_id == after.rollout_id,
                    rollout_executions.c.device_id == new.device_id,
                )
                .values(**row)
            )


def load(connection: Connection, rollout_id: str) -> Rollout:
    """The rollout of that name.

    Raises:
        NotFound: There is none.
    """
    query = select(rollouts).where(rollouts.c.rollout_id == rollout_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"There is no rollout {rollout_id[:80]!r}.", "camctl rollout list shows all")
    return _rollout(connection, row)


def load_all(connection: Connection, fleet: str = "") -> tuple[Rollout, ...]:
    """Rollouts, the newest first, of one fleet or of all."""
    query = select(rollouts).order_by(rollouts.c.created_timestamp_s.desc())
    if fleet:
        query = query.where(rollouts.c.fleet == fleet)
    return tuple(_rollout(connection, row) for row in connection.execute(query).all())


def load_active(connection: Connection) -> tuple[Rollout, ...]:
    """Rollouts that have not ended; at most one a fleet."""
    query = select(rollouts).where(rollouts.c.state.not_in(_ENDED))
    return tuple(_rollout(connection, row) for row in connection.execute(query).all())


def find_ordering(connection: Connection, device_id: str, attempt: int) -> str | None:
    """The rollout that gave a device its order of that number."""
    table = rollout_executions
    query = select(table.c.rollout_id).where(
        table.c.device_id == device_id,
        table.c.attempt == attempt,
        # An execution that was never told holds the number of an order before it.
        table.c.told_timestamp_s > 0,
    )
    row = connection.execute(query).first()
    return None if row is None else row.rollout_id


def is_reverting(connection: Connection, device_id: str, attempt: int) -> bool:
    """Whether the device's last order sends it back and it has not confirmed yet."""
    table = rollout_executions
    query = select(table.c.rollout_id).where(
        table.c.device_id == device_id,
        table.c.attempt == attempt,
        table.c.state == ExecutionState.REVERTING.value,
    )
    return connection.execute(query).first() is not None


def _head(rollout: Rollout) -> dict[str, object]:
    plan = asdict(rollout.plan) | {"strategy": rollout.plan.strategy.value}
    return {
        "rollout_id": rollout.rollout_id,
        "fleet": rollout.fleet,
        "digest": rollout.digest,
        "plan": plan,
        "state": rollout.state.value,
        "waves_begun": rollout.waves_begun,
        "detail": rollout.detail[:MAX_DETAIL_CHARS],
        "created_timestamp_s": rollout.created_timestamp_s,
        "ended_timestamp_s": rollout.ended_timestamp_s,
        "revision": rollout.revision,
    }


def _execution_row(rollout_id: str, execution: Execution) -> dict[str, object]:
    return asdict(execution) | {
        "rollout_id": rollout_id,
        "state": execution.state.value,
        "detail": execution.detail[:MAX_DETAIL_CHARS],
    }


def _rollout(connection: Connection, row: Row[Any]) -> Rollout:
    values = dict(row._mapping)
    plan = values["plan"]
    query = (
        select(rollout_executions)
        .where(rollout_executions.c.rollout_id == row.rollout_id)
        .order_by(rollout_executions.c.wave, rollout_executions.c.device_id)
    )
    values["plan"] = Plan(**{**plan, "strategy": Strategy(plan["strategy"])})
    values["state"] = RolloutState(values["state"])
    values["executions"] = tuple(_execution(item) for item in connection.execute(query))
    return Rollout(**values)


def _execution(row: Row[Any]) -> Execution:
    values = dict(row._mapping)
    del values["rollout_id"]
    values["state"] = ExecutionState(values["state"])
    return Execution(**values)
