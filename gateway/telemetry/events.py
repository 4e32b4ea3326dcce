"""The closed list of events: everything the gateway ever says about itself, by name."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Event(StrEnum):
    """An event's name; its level is in `LEVELS`, and whether it is an alarm in `ALARMS`."""

    # the node
    NODE_STARTING = "node_starting"
    NODE_READY = "node_ready"
    NODE_STOPPING = "node_stopping"
    NODE_STOPPED = "node_stopped"
    NODE_DRAIN_INCOMPLETE = "node_drain_incomplete"
    RECOVERY_DONE = "recovery_done"
    INVARIANT_BROKEN = "invariant_broken"
    LOG_LINES_DROPPED = "log_lines_dropped"
    LOG_FAILED = "log_failed"
    # listeners and connections
    LISTENER_OPEN = "listener_open"
    CONNECTION_OPEN = "connection_open"
    CONNECTION_CLOSED = "connection_closed"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_CUT = "connection_cut"  # of who is blocked or suspended by now
    CONNECTION_FAILED = "connection_failed"
    HANDSHAKE_FAILED = "handshake_failed"
    ACCEPT_PAUSED = "accept_paused"
    FRAME_REJECTED = "frame_rejected"
    MESSAGE_REJECTED = "message_rejected"
    DEADLINE_PASSED = "deadline_passed"
    HANDLER_FAILED = "handler_failed"
    # certificates
    CRL_LOADED = "crl_loaded"
    CRL_FAILED = "crl_failed"
    CRL_STALE = "crl_stale"
    CERTIFICATE_EXPIRING = "certificate_expiring"
    CERTIFICATE_RENEWED = "certificate_renewed"
    # keys
    KEY_EXPIRING = "key_expiring"
    KEY_DESTROYED = "key_destroyed"
    KEK_CHANGED = "kek_changed"  # the key-encryption key, by `gateway keys rewrap`
    # identity and decisions
    IDENTITY_REFUSED = "identity_refused"
    SIGHTING = "sighting"  # of who is blocked or suspended
    REQUEST_REFUSED = "request_refused"
    NETWORK_MESSAGE = "network_message"
    MAC_FAILED = "mac_failed"
    KSN_WENT_BACK = "ksn_went_back"  # a PIN block of DUKPT that may have been recorded
    LOCKED_OUT = "locked_out"  # an address, after too many wrong MACs
    KEYS_HANDED_OUT = "keys_handed_out"  # to a terminal that signed on
    KEYS_PROVEN = "keys_proven"  # by the first good MAC under them
    SIGN_ON_REFUSED = "sign_on_refused"
    # transactions
    TRANSACTION = "transaction"
    REPEAT_ANSWERED = "repeat_answered"
    UNDELIVERED = "undelivered"
    UPLOAD_DIFFERS = "upload_differs"  # a record of a batch upload, from what the store has
    REVERSAL_OWED = "reversal_owed"
    REVERSAL_SENT = "reversal_sent"
    REVERSAL_DONE = "reversal_done"
    REVERSAL_GIVEN_UP = "reversal_given_up"
    # upstreams
    LINK_UP = "link_up"
    LINK_DOWN = "link_down"
    LINK_FAILED = "link_failed"
    LINK_SUSPECT = "link_suspect"
    LINK_TRUSTED = "link_trusted"
    UPSTREAM_UP = "upstream_up"
    UPSTREAM_DOWN = "upstream_down"
    UPSTREAM_SUSPECT = "upstream_suspect"
    UPSTREAM_TRUSTED = "upstream_trusted"
    UPSTREAM_PROBED = "upstream_probed"
    UPSTREAM_CONTROLLED = "upstream_controlled"
    ANSWER_LATE = "answer_late"
    ANSWER_UNKNOWN = "answer_unknown"
    ANSWER_MISMATCHED = "answer_mismatched"
    UPSTREAM_REQUEST = "upstream_request"
    KEYS_AGREED = "keys_agreed"
    KEYS_REFUSED = "keys_refused"  # by us or by the acquirer
    STANS_EXHAUSTED = "stans_exhausted"
    # the store
    STORE_FAILING = "store_failing"
    STORE_RECOVERED = "store_recovered"
    RETENTION_DONE = "retention_done"
    RETENTION_FAILED = "retention_failed"
    BACKUP_DONE = "backup_done"
    BACKUP_FAILED = "backup_failed"
    RESTORE_GAP = "restore_gap"  # what may be of the time between a backup and its restore
    RESEALED = "resealed"  # nothing is left under older keys of the store
    RESEAL_FAILED = "reseal_failed"
    # operators
    DEVICE_CHANGED = "device_changed"
    DEVICES_IMPORTED = "devices_imported"
    INCIDENT_OPENED = "incident_opened"
    INCIDENT_REPORT_FAILED = "incident_report_failed"
    SERIAL_MISMATCH = "serial_mismatch"  # a message bears another one than the inventory
    ADMIN_FAILED = "admin_failed"
    ALARM_COMMAND_FAILED = "alarm_command_failed"
    OPERATOR_REFUSED = "operator_refused"
    APPROVAL_WANTED = "approval_wanted"
    APPROVAL_DROPPED = "approval_dropped"  # it waited on disk, and is not what was asked for
    AUDIT_HEAD = "audit_head"
    AUDIT_FAILED = "audit_failed"
    AUDIT_RECOVERED = "audit_recovered"
    AUDIT_DAMAGED = "audit_damaged"
    # the configuration
    CONFIG_LOADED = "config_loaded"
    CONFIG_REFUSED = "config_refused"
    CONFIG_WAITS = "config_waits"


DEBUG, INFO, WARNING, ERROR = "debug", "info", "warning", "error"

_OTHER_LEVELS = {
    DEBUG: (Event.CONNECTION_OPEN, Event.CONNECTION_CLOSED),
    WARNING: (
        Event.CONNECTION_REFUSED,
        Event.CONNECTION_CUT,
        Event.SIGHTING,
        Event.CONNECTION_FAILED,
        Event.HANDSHAKE_FAILED,
        Event.ACCEPT_PAUSED,
        Event.FRAME_REJECTED,
        Event.MESSAGE_REJECTED,
        Event.DEADLINE_PASSED,
        Event.CRL_STALE,
        Event.CERTIFICATE_EXPIRING,
        Event.KEY_EXPIRING,
        Event.IDENTITY_REFUSED,
        Event.REQUEST_REFUSED,
        Event.MAC_FAILED,
        Event.KSN_WENT_BACK,
        Event.LOCKED_OUT,
        Event.SIGN_ON_REFUSED,
        Event.KEYS_REFUSED,
        Event.UNDELIVERED,
        Event.UPLOAD_DIFFERS,
        Event.REVERSAL_OWED,
        Event.LINK_DOWN,
        Event.LINK_FAILED,
        Event.LINK_SUSPECT,
        Event.UPSTREAM_DOWN,
        Event.UPSTREAM_SUSPECT,
        Event.ANSWER_LATE,
        Event.ANSWER_UNKNOWN,
        Event.ANSWER_MISMATCHED,
        Event.LOG_LINES_DROPPED,
        Event.NODE_DRAIN_INCOMPLETE,
        Event.OPERATOR_REFUSED,
        Event.CONFIG_WAITS,
        Event.INCIDENT_OPENED,
        Event.SERIAL_MISMATCH,
        Event.RESTORE_GAP,
    ),
    ERROR: (
        Event.INVARIANT_BROKEN,
        Event.LOG_FAILED,
        Event.HANDLER_FAILED,
        Event.CRL_FAILED,
        Event.REVERSAL_GIVEN_UP,
        Event.STANS_EXHAUSTED,
        Event.STORE_FAILING,
        Event.RETENTION_FAILED,
        Event.BACKUP_FAILED,
        Event.RESEAL_FAILED,
        Event.ADMIN_FAILED,
        Event.ALARM_COMMAND_FAILED,
        Event.AUDIT_FAILED,
        Event.AUDIT_DAMAGED,
        Event.CONFIG_REFUSED,
        Event.INCIDENT_REPORT_FAILED,
        Event.APPROVAL_DROPPED,
    ),
}

LEVELS: dict[Event, str] = dict.fromkeys(Event, INFO) | {
    event: level for level, events in _OTHER_LEVELS.items() for event in events
}

# Events that somebody should be woken for: they also run the configured command.
ALARMS = frozenset(
    (
        Event.INVARIANT_BROKEN,
        Event.CRL_FAILED,
        Event.CRL_STALE,
        Event.CERTIFICATE_EXPIRING,
        Event.KEY_EXPIRING,
        Event.MAC_FAILED,
        Event.KSN_WENT_BACK,
        Event.SERIAL_MISMATCH,
        Event.INCIDENT_REPORT_FAILED,
        Event.LOCKED_OUT,
        Event.KEYS_REFUSED,
        Event.REVERSAL_GIVEN_UP,
        Event.STANS_EXHAUSTED,
        Event.UPSTREAM_DOWN,
        Event.STORE_FAILING,
        Event.RETENTION_FAILED,
        Event.BACKUP_FAILED,
        Event.RESTORE_GAP,
        Event.RESEAL_FAILED,
        Event.AUDIT_FAILED,
        Event.AUDIT_DAMAGED,
        Event.CONFIG_REFUSED,
        Event.CONFIG_WAITS,
        Event.APPROVAL_DROPPED,
    )
)

# An event that ends alarms: those named here are over, for the same subject.
CLEARS: dict[Event, tuple[Event, ...]] = {
    Event.KEYS_AGREED: (Event.KEYS_REFUSED,),
    Event.UPSTREAM_UP: (Event.UPSTREAM_DOWN,),
    # Somebody looks after it; it is raised again if the upstream does not come up then.
    Event.UPSTREAM_CONTROLLED: (Event.UPSTREAM_DOWN,),
    Event.STORE_RECOVERED: (Event.STORE_FAILING,),
    Event.RETENTION_DONE: (Event.RETENTION_FAILED,),
    Event.BACKUP_DONE: (Event.BACKUP_FAILED,),
    Event.RESEALED: (Event.RESEAL_FAILED,),
    Event.CRL_LOADED: (Event.CRL_STALE, Event.CRL_FAILED),
    Event.CERTIFICATE_RENEWED: (Event.CERTIFICATE_EXPIRING,),
    Event.AUDIT_RECOVERED: (Event.AUDIT_FAILED,),
    Event.CONFIG_LOADED: (Event.CONFIG_REFUSED, Event.CONFIG_WAITS),
}

# Events of the main path: they are written, and nobody else is told; metrics are counted there.
HOT = frozenset((Event.TRANSACTION,))


class Emit(Protocol):
    """How every part says that something happened: `EventLog.emit`, or a list's in tests."""

    def __call__(self, event: Event, /, **fields: object) -> None: ...
