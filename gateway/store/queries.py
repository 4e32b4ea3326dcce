"""What the SQLite store is asked: its queries, each with the index that answers it in mind."""

from __future__ import annotations

from typing import Final

# To be followed by WHERE, ORDER BY and LIMIT.
SELECT_TRANSACTIONS: Final = """
SELECT t.transaction_id, t.repeat_key, t.created_ms, t.upstream, t.upstream_stan, t.facts, t.image,
    o.state, o.response_code, o.approval_code, o.answer, o.answered_ms, o.delivered_ms, o.rrn,
    p.amount_minor
FROM transactions AS t LEFT JOIN outcomes AS o USING (transaction_id)
    LEFT JOIN partly_reversed AS p USING (transaction_id)
"""
_AMONG_OPEN_INTENTS: Final = """
WHERE t.transaction_id IN
    (SELECT transaction_id FROM open_intents ORDER BY transaction_id LIMIT ?)
ORDER BY t.transaction_id
"""
UNSETTLED: Final = SELECT_TRANSACTIONS + _AMONG_OPEN_INTENTS
# The plus keeps SQLite from walking all transactions backwards for the sake of the order.
BY_KEY_RANGE: Final = (
    SELECT_TRANSACTIONS
    + "WHERE t.repeat_key >= ? AND t.repeat_key < ? ORDER BY +t.transaction_id DESC LIMIT ?"
)
BY_RRN: Final = (
    SELECT_TRANSACTIONS + "WHERE o.rrn = ? AND o.rrn <> '' ORDER BY o.transaction_id DESC LIMIT ?"
)
_AMONG_FOLLOW_UPS: Final = """
WHERE t.transaction_id IN (SELECT transaction_id FROM follow_ups WHERE original_id = ?)
ORDER BY t.transaction_id
"""
FOLLOW_UPS: Final = SELECT_TRANSACTIONS + _AMONG_FOLLOW_UPS
# Codes that approve, in ISO 8583 (00 to 16) or on UnionPay (00, 11, 16, A2 to A6).
_APPROVING: Final = "('00', '08', '10', '11', '16', 'A2', 'A4', 'A5', 'A6')"
# Without an index: one would cost each payment an entry and its removal.
_NOT_DELIVERED: Final = f"""
WHERE t.transaction_id IN (
    SELECT transaction_id FROM outcomes
    WHERE transaction_id BETWEEN ? AND ?
        AND state = 'answered' AND delivered_ms = 0 AND response_code IN {_APPROVING}
        AND answered_ms >= ? AND answered_ms < ?
    ORDER BY transaction_id LIMIT ?
)
ORDER BY t.transaction_id
"""  # noqa: S608 (constants only)
UNDELIVERED: Final = SELECT_TRANSACTIONS + _NOT_DELIVERED
SELECT_REVERSALS: Final = """
SELECT transaction_id, upstream, upstream_stan, reason, created_ms, attempts, next_attempt_ms,
    given_up, advice, amount_minor FROM reversals
"""
OLDEST: Final = """
SELECT t.transaction_id, t.repeat_key, t.created_ms, t.upstream, t.upstream_stan, t.facts, x'',
    o.state, o.response_code, o.approval_code, x'', o.answered_ms, o.delivered_ms, o.rrn,
    p.amount_minor
FROM transactions AS t LEFT JOIN outcomes AS o USING (transaction_id)
    LEFT JOIN partly_reversed AS p USING (transaction_id)
WHERE t.transaction_id > ? AND t.created_ms < ? ORDER BY t.transaction_id LIMIT ?
"""
# Ids are given in order of time, so the caller knows the first one: no index on time is needed.
SPENT: Final = """
SELECT t.transaction_id, t.created_ms, t.upstream, t.facts, o.state, o.response_code, p.amount_minor
FROM transactions AS t LEFT JOIN outcomes AS o USING (transaction_id)
LEFT JOIN partly_reversed AS p USING (transaction_id)
WHERE t.transaction_id >= ? ORDER BY t.transaction_id LIMIT ?
"""
# What `Trim` would delete.
TRIMMABLE: Final = {
    "tombstones": "SELECT count(*) FROM tombstones WHERE created_ms < ?",
    "uploads": """
SELECT count(*) FROM uploads AS u WHERE received_ms < ? AND NOT EXISTS (
    SELECT 1 FROM batches AS b
    WHERE b.terminal_id = u.terminal_id AND b.number = u.batch AND b.closed_ms = 0
)
""",
    "batches": "SELECT count(*) FROM batches WHERE closed_ms > 0 AND closed_ms < ?",
    "device_history": """
SELECT count(*) FROM device_history WHERE at_ms < ? AND terminal_id NOT IN (
    SELECT terminal_id FROM incidents WHERE closed_ms = 0
)
""",
}
# Two seeks; "SELECT min(…), max(…)" in one would read everything.
FIRST_AND_LAST_ID: Final = """
SELECT (SELECT min(transaction_id) FROM transactions),
    (SELECT max(transaction_id) FROM transactions)
"""
TERMINAL_DAYS: Final = """
SELECT (SELECT min(terminal_day) FROM transactions), (SELECT max(terminal_day) FROM transactions)
"""
COUNT_BY_STATE: Final = """
SELECT 'intended', count(*) FROM open_intents UNION ALL
SELECT state, count(*) FROM outcomes
    WHERE state = 'timed_out' OR state = 'reversal_owed' OR state = 'advice_owed'
        OR state = 'given_up' GROUP BY state
"""
OPEN_BATCHES: Final = "SELECT * FROM batches WHERE closed_ms = 0 ORDER BY terminal_id, number"
BATCHES_OF: Final = "SELECT * FROM batches WHERE terminal_id = ? ORDER BY number DESC LIMIT ?"
BATCH: Final = "SELECT * FROM batches WHERE terminal_id = ? AND number = ?"
# Parameters: terminal_day of the first and the last day, terminal, batch. The days between are
# found one after the other: other terminals' rows lie between them. What a void undoes is not
# counted, nor is the void. An advice that was answered in the acquirer's place counts as what the
# terminal was told, whatever became of its delivery.
BATCH_TOTALS: Final = f"""
WITH RECURSIVE
days (terminal_day) AS (
    SELECT ?1 UNION ALL
    SELECT terminal_day + (1 << 32) FROM days WHERE terminal_day < ?2
),
counted (refund, amount_minor) AS (
    SELECT t.facts ->> 4 = 'refund', coalesce(p.amount_minor, t.facts ->> 8)
    FROM days CROSS JOIN transactions AS t USING (terminal_day)
    JOIN outcomes AS o USING (transaction_id)
    LEFT JOIN partly_reversed AS p USING (transaction_id)
    WHERE t.facts ->> 1 = ?3 AND t.facts ->> 14 = ?4
        AND t.facts ->> 4 IN
            ('purchase', 'cash', 'cashback', 'completion', 'refund', 'offline', 'adjustment')
        AND (
            o.response_code IN {_APPROVING}
            -- Found by a restart: not known what was told, but it will be delivered.
            OR o.response_code = '' AND o.state IN ('advice_owed', 'given_up')
                AND t.facts ->> 4 IN ('offline', 'adjustment')
        )
        AND (
            o.state IN ('answered', 'delivered', 'advice_owed', 'advised')
            OR o.state IN ('given_up', 'closed', 'booked')
                AND t.facts ->> 4 IN ('offline', 'adjustment')
            OR p.amount_minor > 0
        )
        AND NOT EXISTS (
            SELECT 1 FROM follow_ups AS f
            JOIN transactions AS void ON void.transaction_id = f.transaction_id
            JOIN outcomes AS voided ON voided.transaction_id = f.transaction_id
            WHERE f.original_id = t.transaction_id
                AND void.facts ->> 4 IN ('void', 'completion_void')
                AND voided.response_code IN {_APPROVING}
                AND voided.state IN ('answered', 'delivered')
        )
)
SELECT count(*) FILTER (WHERE NOT refund),
    coalesce(sum(amount_minor) FILTER (WHERE NOT refund), 0),
    count(*) FILTER (WHERE refund),
    coalesce(sum(amount_minor) FILTER (WHERE refund), 0)
FROM counted
"""  # noqa: S608 (constants only)
