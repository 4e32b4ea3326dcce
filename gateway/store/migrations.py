"""The schema of the SQLite store, as the ordered steps that lead to it."""

from __future__ import annotations

import apsw

from gateway.errors import OperatorError

# What a commit does is written here, as triggers on a view, and not in the writer: the operations
# of all callers that wait are one INSERT into that view, and one INSERT is one call of SQLite: it
# lets the interpreter lock go once and wins it back once. With BEGIN, a statement for each kind of
# operation and COMMIT, a busy loop holds up every batch five times as often.
#
# A row of the view is the number of the operation, the row it is about, and seven values whose
# meaning is the operation's; `rows.py` writes them.
_FIRST = """
CREATE TABLE transactions (
    transaction_id INTEGER PRIMARY KEY,
    repeat_key TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    upstream TEXT NOT NULL,
    upstream_stan INTEGER NOT NULL,
    facts TEXT NOT NULL, -- JSON array of what never changes; view "ledger" names its parts
    image BLOB NOT NULL, -- sealed, so that its bytes may stay in free pages when it is wiped
    terminal_day INTEGER NOT NULL -- the UTC day it was made on, and the terminal's hash
) STRICT;
CREATE UNIQUE INDEX transactions_by_repeat_key ON transactions (repeat_key);
-- The day comes first, so that what is written goes to few pages of the index.
CREATE INDEX transactions_by_terminal_day ON transactions (terminal_day);

-- Voids, completions, adjustments and refunds, by what they follow.
CREATE TABLE follow_ups (
    original_id INTEGER NOT NULL,
    transaction_id INTEGER NOT NULL,
    PRIMARY KEY (original_id, transaction_id)
) STRICT, WITHOUT ROWID;

-- Holds the intents without an outcome, and only those: recovery reads it from end to end.
CREATE TABLE open_intents (transaction_id INTEGER PRIMARY KEY) STRICT;

-- Apart from transactions: outcomes are appended, where an update would write the whole row again.
CREATE TABLE outcomes (
    transaction_id INTEGER PRIMARY KEY,
    state TEXT NOT NULL,
    response_code TEXT NOT NULL,
    approval_code TEXT NOT NULL,
    answer BLOB NOT NULL, -- sealed
    answered_ms INTEGER NOT NULL,
    delivered_ms INTEGER NOT NULL,
    rrn TEXT NOT NULL
) STRICT;
-- Not "state IN (…)": SQLite would build a table of them for each row that is written. A query has
-- to name these states as they are named here.
CREATE INDEX outcomes_still_open ON outcomes (state)
    WHERE state = 'timed_out' OR state = 'reversal_owed' OR state = 'advice_owed'
        OR state = 'given_up';
CREATE INDEX outcomes_by_rrn ON outcomes (rrn) WHERE rrn <> '';

CREATE TABLE reversals (
    transaction_id INTEGER PRIMARY KEY,
    upstream TEXT NOT NULL,
    upstream_stan INTEGER NOT NULL,
    reason TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    next_attempt_ms INTEGER NOT NULL,
    given_up INTEGER NOT NULL,
    advice INTEGER NOT NULL,
    amount_minor INTEGER NOT NULL
) STRICT;

-- What is left of transactions after a partial reversal; kept when the reversal is done.
CREATE TABLE partly_reversed (
    transaction_id INTEGER PRIMARY KEY,
    amount_minor INTEGER NOT NULL
) STRICT;

CREATE TABLE tombstones (
    key_prefix TEXT PRIMARY KEY,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstones_by_time ON tombstones (created_ms);

CREATE TABLE batches (
    terminal_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    opened_ms INTEGER NOT NULL,
    closed_ms INTEGER NOT NULL,
    debits INTEGER NOT NULL,
    debits_minor INTEGER NOT NULL,
    credits INTEGER NOT NULL,
    credits_minor INTEGER NOT NULL,
    balanced INTEGER NOT NULL,
    reported TEXT NOT NULL,
    carries TEXT NOT NULL,
    PRIMARY KEY (terminal_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX batches_by_close ON batches (closed_ms);

CREATE TABLE uploads (
    upload_id INTEGER PRIMARY KEY,
    terminal_id TEXT NOT NULL,
    batch INTEGER NOT NULL,
    stan TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    record BLOB NOT NULL, -- sealed
    compared TEXT NOT NULL, -- same, differs or unknown
    UNIQUE (terminal_id, batch, stan)
) STRICT;
CREATE INDEX uploads_by_time ON uploads (received_ms);

CREATE TABLE stan_blocks (
    upstream TEXT NOT NULL,
    first INTEGER NOT NULL,
    reserved_ms INTEGER NOT NULL,
    PRIMARY KEY (upstream, first)
) STRICT, WITHOUT ROWID;

CREATE TABLE notes (
    name TEXT PRIMARY KEY,
    text TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
    device_id INTEGER PRIMARY KEY,
    terminal_id TEXT NOT NULL,
    merchant_id TEXT NOT NULL,
    activation INTEGER NOT NULL,
    state TEXT NOT NULL,
    profile TEXT NOT NULL,
    certificate_sha256 TEXT NOT NULL,
    serial TEXT NOT NULL,
    model TEXT NOT NULL,
    place TEXT NOT NULL,
    networks TEXT NOT NULL,
    enrolled_ms INTEGER NOT NULL,
    last_seen_ms INTEGER NOT NULL,
    device_group TEXT NOT NULL,
    inspected TEXT NOT NULL, -- YYYY-MM-DD
    inspected_by TEXT NOT NULL,
    state_reason TEXT NOT NULL,
    state_since_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,
    keys_of TEXT NOT NULL,
    inherits TEXT NOT NULL, -- JSON array of [terminal_id, activation] pairs
    known_by_name INTEGER NOT NULL,
    old_certificate_sha256 TEXT NOT NULL,
    old_until_ms INTEGER NOT NULL
) STRICT;

-- What was done to devices, written in one commit with the change itself.
CREATE TABLE device_history (
    event_id INTEGER PRIMARY KEY,
    terminal_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX device_history_by_terminal ON device_history (terminal_id, event_id);
CREATE INDEX device_history_by_time ON device_history (at_ms); -- for retention

CREATE TABLE incidents (
    incident_id INTEGER PRIMARY KEY,
    terminal_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    opened_ms INTEGER NOT NULL,
    who TEXT NOT NULL,
    reason TEXT NOT NULL,
    closed_ms INTEGER NOT NULL,
    report TEXT NOT NULL -- JSON, masked
) STRICT;

-- facts: JSON object, with both devices as they were before.
CREATE TABLE replacements (replacement_id INTEGER PRIMARY KEY, facts TEXT NOT NULL) STRICT;

CREATE TABLE revoked_certificates (
    sha256 TEXT PRIMARY KEY,
    terminal_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Keys of terminals and upstreams, wrapped; the key-encryption key is not in the store.
CREATE TABLE keys (
    owner TEXT NOT NULL,
    purpose TEXT NOT NULL,
    version INTEGER NOT NULL,
    algorithm TEXT NOT NULL,
    state TEXT NOT NULL,
    start_ms INTEGER NOT NULL,
    end_ms INTEGER NOT NULL, -- 0: no end
    check_value TEXT NOT NULL,
    kek TEXT NOT NULL,
    wrapped BLOB NOT NULL, -- empty once destroyed
    exportable INTEGER NOT NULL, -- 0: its sender did not let it go further
    PRIMARY KEY (owner, purpose, version)
) STRICT, WITHOUT ROWID;

-- For people: `SELECT * FROM ledger ORDER BY transaction_id DESC LIMIT 20`.
CREATE VIEW ledger AS
SELECT transaction_id,
    strftime('%Y-%m-%dT%H:%M:%fZ', created_ms / 1000.0, 'unixepoch') AS created,
    facts ->> 1 AS terminal_id,
    facts ->> 2 AS merchant_id,
    facts ->> 4 AS kind,
    facts ->> 6 AS stan,
    coalesce(nullif(rrn, ''), facts ->> 7) AS rrn,
    facts ->> 8 AS amount_minor,
    facts ->> 9 AS currency,
    facts ->> 10 AS card_masked,
    facts ->> 13 AS original_id,
    facts ->> 14 AS batch,
    upstream,
    upstream_stan,
    coalesce(state, 'intended') AS state,
    response_code,
    approval_code,
    answered_ms - created_ms AS answered_after_ms
FROM transactions LEFT JOIN outcomes USING (transaction_id);

CREATE VIEW operations AS SELECT
    0 AS operation, 0 AS id, 0 AS a, 0 AS b, 0 AS c, 0 AS d, 0 AS e, 0 AS f, 0 AS g
    WHERE 0;
CREATE VIEW other_operations AS SELECT
    0 AS operation, 0 AS id, 0 AS a, 0 AS b, 0 AS c, 0 AS d, 0 AS e, 0 AS f, 0 AS g
    WHERE 0;

-- changes() is the number of rows that the statement before it changed.
CREATE TRIGGER intend INSTEAD OF INSERT ON operations WHEN new.operation = 0 BEGIN
    INSERT INTO transactions VALUES (new.id, new.a, new.b, new.c, new.d, new.e, new.f, new.g)
        ON CONFLICT (repeat_key) DO NOTHING;
    INSERT INTO open_intents SELECT new.id WHERE changes() = 1;
END;

CREATE TRIGGER settle INSTEAD OF INSERT ON operations WHEN new.operation = 1 BEGIN
    INSERT INTO outcomes VALUES (new.id, new.a, new.b, new.c, new.d, new.e, 0, new.g)
        ON CONFLICT (transaction_id) DO UPDATE SET
            state = excluded.state,
            response_code = excluded.response_code,
            approval_code = excluded.approval_code,
            answer = excluded.answer,
            answered_ms = excluded.answered_ms,
            rrn = iif(excluded.rrn = '', rrn, excluded.rrn);
    UPDATE transactions SET image = x'' WHERE new.f AND transaction_id = new.id;
    DELETE FROM open_intents WHERE transaction_id = new.id;
    SELECT RAISE(ABORT, 'no such transaction') WHERE changes() = 0
        AND NOT EXISTS (SELECT 1 FROM transactions WHERE transaction_id = new.id);
END;

CREATE TRIGGER mark_delivered INSTEAD OF INSERT ON operations WHEN new.operation = 2 BEGIN
    UPDATE outcomes
        SET delivered_ms = new.a, state = iif(state = 'answered', 'delivered', state)
        WHERE transaction_id = new.id;
END;

-- Each trigger costs each operation a little: those seldom used stand behind one.
CREATE TRIGGER other INSTEAD OF INSERT ON operations WHEN new.operation > 2 BEGIN
    INSERT INTO other_operations
        VALUES (new.operation, new.id, new.a, new.b, new.c, new.d, new.e, new.f, new.g);
END;

CREATE TRIGGER reroute INSTEAD OF INSERT ON other_operations WHEN new.operation = 3 BEGIN
    UPDATE transactions SET upstream = new.a, upstream_stan = new.b WHERE transaction_id = new.id;
    SELECT RAISE(ABORT, 'no such transaction') WHERE changes() = 0;
END;

-- a: JSON array of upstream, reason, created_ms, advice and amount_minor.
CREATE TRIGGER owe_reversal INSTEAD OF INSERT ON other_operations WHEN new.operation = 4 BEGIN
    INSERT INTO outcomes
        VALUES (new.id, new.b, new.c, '', iif(new.c = '', x'', new.d), 0, 0, '')
        ON CONFLICT (transaction_id) DO UPDATE SET
            state = new.b,
            response_code = iif(new.c = '', response_code, new.c),
            answer = iif(new.c = '', answer, new.d);
    -- One that is owed already goes on as it is; one that was given up starts anew.
    INSERT INTO reversals VALUES (
            new.id, new.a ->> 0, 0, new.a ->> 1, new.a ->> 2, 0, 0, 0, new.a ->> 3, new.a ->> 4
        )
        ON CONFLICT (transaction_id) DO UPDATE SET
            attempts = iif(given_up, 0, attempts),
            next_attempt_ms = iif(given_up, 0, next_attempt_ms),
            given_up = 0;
    DELETE FROM partly_reversed WHERE transaction_id = new.id;
    INSERT INTO partly_reversed SELECT transaction_id, amount_minor
        FROM reversals WHERE transaction_id = new.id AND amount_minor >= 0;
    DELETE FROM open_intents WHERE transaction_id = new.id;
    SELECT RAISE(ABORT, 'no such transaction') WHERE changes() = 0
        AND NOT EXISTS (SELECT 1 FROM transactions WHERE transaction_id = new.id);
END;

CREATE TRIGGER note_attempt INSTEAD OF INSERT ON other_operations WHEN new.operation = 5 BEGIN
    UPDATE reversals SET upstream_stan = new.a, attempts = new.b, next_attempt_ms = new.c
        WHERE transaction_id = new.id;
    SELECT RAISE(ABORT, 'no such reversal') WHERE changes() = 0;
END;

CREATE TRIGGER give_reversal_up INSTEAD OF INSERT ON other_operations WHEN new.operation = 6 BEGIN
    UPDATE outcomes SET state = new.a WHERE transaction_id = new.id;
    UPDATE reversals SET given_up = 1 WHERE transaction_id = new.id;
    SELECT RAISE(ABORT, 'no such reversal') WHERE changes() = 0;
END;

CREATE TRIGGER end_reversal INSTEAD OF INSERT ON other_operations WHEN new.operation = 7 BEGIN
    DELETE FROM reversals WHERE transaction_id = new.id;
    UPDATE transactions SET image = x'' WHERE transaction_id = new.id AND NOT EXISTS (
        SELECT 1 FROM partly_reversed AS p
        WHERE p.transaction_id = new.id AND p.amount_minor > 0 AND new.a = 'reversed'
    );
    UPDATE outcomes SET state = new.a WHERE transaction_id = new.id;
    SELECT RAISE(ABORT, 'no such reversal') WHERE changes() = 0;
END;

CREATE TRIGGER reserve_stans INSTEAD OF INSERT ON other_operations WHEN new.operation = 8 BEGIN
    INSERT INTO stan_blocks VALUES (new.a, new.id, new.b)
        ON CONFLICT (upstream, first) DO UPDATE SET reserved_ms = excluded.reserved_ms;
END;

CREATE TRIGGER put_device INSTEAD OF INSERT ON other_operations WHEN new.operation = 9 BEGIN
    INSERT OR REPLACE INTO devices VALUES (
        new.id, new.a ->> 0, new.a ->> 1, new.a ->> 2, new.a ->> 3, new.a ->> 4, new.a ->> 5,
        new.a ->> 6, new.a ->> 7, new.a ->> 8, new.a ->> 9, new.a ->> 10, new.a ->> 11,
        new.a ->> 12, new.a ->> 13, new.a ->> 14, new.a ->> 15, new.a ->> 16, new.a ->> 17,
        new.a ->> 18, new.a ->> 19, new.a ->> 20, new.a ->> 21, new.a ->> 22
    );
END;

CREATE TRIGGER touch_device INSTEAD OF INSERT ON other_operations WHEN new.operation = 10 BEGIN
    UPDATE devices SET last_seen_ms = new.a WHERE device_id = new.id;
END;

-- a: JSON array of [transaction_id, delivered_ms] pairs.
CREATE TRIGGER mark_many_delivered INSTEAD OF INSERT ON other_operations
WHEN new.operation = 11 BEGIN
    UPDATE outcomes
        SET delivered_ms = marks.value ->> 1, state = iif(state = 'answered', 'delivered', state)
        FROM json_each(new.a) AS marks WHERE transaction_id = marks.value ->> 0;
END;

-- Follows the row of its intent, which may have been a repeat: then there is nothing to follow.
CREATE TRIGGER follow_up INSTEAD OF INSERT ON other_operations WHEN new.operation = 12 BEGIN
    INSERT INTO follow_ups SELECT new.a, new.id WHERE EXISTS (
        SELECT 1 FROM transactions WHERE transaction_id = new.id AND repeat_key = new.b
    );
END;

CREATE TRIGGER put_tombstone INSTEAD OF INSERT ON other_operations WHEN new.operation = 13 BEGIN
    INSERT OR REPLACE INTO tombstones VALUES (new.a, new.b);
END;

CREATE TRIGGER put_batch INSTEAD OF INSERT ON other_operations WHEN new.operation = 14 BEGIN
    INSERT OR REPLACE INTO batches VALUES (
        new.a ->> 0, new.a ->> 1, new.a ->> 2, new.a ->> 3, new.a ->> 4, new.a ->> 5, new.a ->> 6,
        new.a ->> 7, new.a ->> 8, new.a ->> 9, new.a ->> 10
    );
END;

-- A record that is sent again takes the place of the first.
CREATE TRIGGER put_upload INSTEAD OF INSERT ON other_operations WHEN new.operation = 15 BEGIN
    INSERT INTO uploads (terminal_id, batch, stan, received_ms, record, compared)
        VALUES (new.a, new.id, new.b, new.c, new.d, new.e)
        ON CONFLICT (terminal_id, batch, stan) DO UPDATE SET
            received_ms = excluded.received_ms,
            record = excluded.record,
            compared = excluded.compared;
END;

-- a: JSON array of ids. What is open is not deleted, and the highest id is not given out twice.
CREATE TRIGGER forget INSTEAD OF INSERT ON other_operations WHEN new.operation = 16 BEGIN
    DELETE FROM transactions WHERE transaction_id IN (SELECT value FROM json_each(new.a))
        AND transaction_id < (SELECT max(transaction_id) FROM transactions)
        AND NOT EXISTS (
            SELECT 1 FROM open_intents AS i WHERE i.transaction_id = transactions.transaction_id
        )
        AND NOT EXISTS (
            SELECT 1 FROM reversals AS r WHERE r.transaction_id = transactions.transaction_id
        )
        AND NOT EXISTS (
            SELECT 1 FROM outcomes AS o WHERE o.transaction_id = transactions.transaction_id
                AND o.state IN ('timed_out', 'reversal_owed', 'advice_owed', 'given_up')
        );
    DELETE FROM outcomes WHERE transaction_id IN (SELECT value FROM json_each(new.a))
        AND NOT EXISTS (
            SELECT 1 FROM transactions AS t WHERE t.transaction_id = outcomes.transaction_id
        );
    DELETE FROM follow_ups WHERE original_id IN (SELECT value FROM json_each(new.a))
        AND NOT EXISTS (
            SELECT 1 FROM transactions AS t WHERE t.transaction_id = follow_ups.original_id
        );
    DELETE FROM partly_reversed WHERE transaction_id IN (SELECT value FROM json_each(new.a))
        AND NOT EXISTS (
            SELECT 1 FROM transactions AS t WHERE t.transaction_id = partly_reversed.transaction_id
        );
END;

CREATE TRIGGER trim INSTEAD OF INSERT ON other_operations WHEN new.operation = 17 BEGIN
    DELETE FROM tombstones WHERE new.a = 'tombstones' AND key_prefix IN (
        SELECT key_prefix FROM tombstones WHERE created_ms < new.b ORDER BY created_ms LIMIT new.c
    );
    DELETE FROM uploads WHERE new.a = 'uploads' AND upload_id IN (
        SELECT upload_id FROM uploads AS u WHERE received_ms < new.b AND NOT EXISTS (
            SELECT 1 FROM batches AS b
            WHERE b.terminal_id = u.terminal_id AND b.number = u.batch AND b.closed_ms = 0
        )
        ORDER BY received_ms LIMIT new.c
    );
    DELETE FROM batches WHERE new.a = 'batches' AND (terminal_id, number) IN (
        SELECT terminal_id, number FROM batches WHERE closed_ms > 0 AND closed_ms < new.b
        ORDER BY closed_ms LIMIT new.c
    );
    DELETE FROM device_history WHERE new.a = 'device_history' AND event_id IN (
        SELECT event_id FROM device_history WHERE at_ms < new.b AND terminal_id NOT IN (
            SELECT terminal_id FROM incidents WHERE closed_ms = 0
        )
        ORDER BY at_ms LIMIT new.c
    );
END;

CREATE TRIGGER free_key INSTEAD OF INSERT ON other_operations WHEN new.operation = 19 BEGIN
    UPDATE transactions SET repeat_key = repeat_key || '#' || transaction_id
        WHERE transaction_id = new.id;
    SELECT RAISE(ABORT, 'no such transaction') WHERE changes() = 0;
END;

-- a: JSON array of owner, purpose, algorithm, state, start_ms, end_ms, check_value, kek
-- and exportable.
CREATE TRIGGER put_key INSTEAD OF INSERT ON other_operations WHEN new.operation = 20 BEGIN
    INSERT INTO keys VALUES (
            new.a ->> 0, new.a ->> 1, new.id, new.a ->> 2, new.a ->> 3, new.a ->> 4, new.a ->> 5,
            new.a ->> 6, new.a ->> 7, new.b, new.a ->> 8
        )
        ON CONFLICT (owner, purpose, version) DO UPDATE SET
            algorithm = excluded.algorithm,
            state = excluded.state,
            start_ms = excluded.start_ms,
            end_ms = excluded.end_ms,
            check_value = excluded.check_value,
            kek = excluded.kek,
            wrapped = excluded.wrapped,
            exportable = excluded.exportable
            WHERE keys.state <> 'destroyed';
    SELECT RAISE(ABORT, 'the key is destroyed') WHERE changes() = 0;
END;

-- b: JSON array of purposes; empty: all.
CREATE TRIGGER destroy_keys INSTEAD OF INSERT ON other_operations WHEN new.operation = 21 BEGIN
    UPDATE keys SET
            state = 'destroyed',
            wrapped = x'',
            end_ms = iif(end_ms = 0, new.c, min(end_ms, new.c))
        WHERE owner = new.a AND state <> 'destroyed' AND (
            new.b = '[]' OR purpose IN (SELECT value FROM json_each(new.b))
        );
END;

-- c: the name of the key-encryption key and d: the wrapped key, as they were; e and f: as they are.
CREATE TRIGGER rewrap_key INSTEAD OF INSERT ON other_operations WHEN new.operation = 22 BEGIN
    UPDATE keys SET kek = new.e, wrapped = new.f
        WHERE owner = new.a AND purpose = new.b AND version = new.id
            AND kek = new.c AND wrapped = new.d AND state <> 'destroyed';
END;

-- The highest version stays: the next is counted from it.
CREATE TRIGGER forget_keys INSTEAD OF INSERT ON other_operations WHEN new.operation = 23 BEGIN
    DELETE FROM keys
        WHERE owner = new.a AND purpose = new.b AND version < new.id
            AND state IN ('expired', 'destroyed')
            AND version < (
                SELECT max(version) FROM keys WHERE owner = new.a AND purpose = new.b
            );
END;

-- b: JSON array of the rest, in the order of the table's columns.
CREATE TRIGGER note_device INSTEAD OF INSERT ON other_operations WHEN new.operation = 24 BEGIN
    INSERT INTO device_history (terminal_id, at_ms, who, what, reason, detail) VALUES (
        new.a, new.b ->> 0, new.b ->> 1, new.b ->> 2, new.b ->> 3, new.b ->> 4
    );
END;

CREATE TRIGGER put_incident INSTEAD OF INSERT ON other_operations WHEN new.operation = 25 BEGIN
    INSERT OR REPLACE INTO incidents VALUES (
        new.id, new.a ->> 0, new.a ->> 1, new.a ->> 2, new.a ->> 3, new.a ->> 4, new.a ->> 5,
        new.a ->> 6
    );
END;

CREATE TRIGGER put_replacement INSTEAD OF INSERT ON other_operations WHEN new.operation = 26 BEGIN
    INSERT OR REPLACE INTO replacements VALUES (new.id, new.a);
END;

CREATE TRIGGER revoke_certificate INSTEAD OF INSERT ON other_operations
WHEN new.operation = 27 BEGIN
    INSERT OR REPLACE INTO revoked_certificates VALUES (new.a, new.b, new.c);
END;

-- a: images, answers or uploads; b: the value as it was. What was wiped meanwhile stays wiped.
CREATE TRIGGER reseal INSTEAD OF INSERT ON other_operations WHEN new.operation = 40 BEGIN
    UPDATE transactions SET image = new.c
        WHERE new.a = 'images' AND transaction_id = new.id AND image = new.b;
    UPDATE outcomes SET answer = new.c
        WHERE new.a = 'answers' AND transaction_id = new.id AND answer = new.b;
    UPDATE uploads SET record = new.c
        WHERE new.a = 'uploads' AND upload_id = new.id AND record = new.b;
END;

CREATE TRIGGER put_note INSTEAD OF INSERT ON other_operations WHEN new.operation = 18 BEGIN
    INSERT OR REPLACE INTO notes SELECT new.a, new.b WHERE new.b <> '';
    DELETE FROM notes WHERE name = new.a AND new.b = '';
END;
"""

# A step that was released is never changed; a new one is added at the end.
MIGRATIONS: tuple[str, ...] = (_FIRST,)


def version_of(connection: apsw.Connection) -> int:
    """How many steps a database has behind it; 0 for a new one."""
    version = connection.pragma("user_version")
    assert isinstance(version, int)  # noqa: S101 (for the type checker: it is a 32-bit number)
    return version


def migrate(connection: apsw.Connection, steps: tuple[str, ...] = MIGRATIONS) -> None:
    """Take a database through the steps it lacks, each in a transaction of its own.

    Raises OperatorError where a newer gateway has written it, apsw.Error where a step fails; the
    database is then at the step before.
    """
    version = version_of(connection)
    if version > len(steps):
        raise OperatorError(
            f"the store has schema {version}, and this gateway knows schemas up to {len(steps)}: "
            "run the newer gateway that wrote it, or restore a backup from before"
        )
    for number, step in enumerate(steps[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(step)
            connection.pragma("user_version", number)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
