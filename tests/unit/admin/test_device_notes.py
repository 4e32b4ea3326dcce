"""What is done with a device's keys is in its history, without a key."""

from __future__ import annotations

from gateway.admin.device_notes import device_notes
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState


def a_key(owner: str) -> StoredKey:
    return StoredKey(
        owner=owner,
        purpose=KeyPurpose.TERMINAL_MASTER,
        version=2,
        algorithm=KeyAlgorithm.TDES_2,
        state=StoredKeyState.ACTIVE,
        start_ms=1,
        check_value="08D7B4",
        kek="k",
        wrapped=b"never shown",
    )


def test_only_terminals_have_a_history() -> None:
    (note,) = device_notes([a_key("terminal:T1"), a_key("upstream:one")], at_ms=5)
    event = note.event
    assert (event.terminal_id, event.at_ms, event.what) == ("T1      ", 5, "key active")
    assert event.detail == "terminal-master.2, TDES-2, check value 08D7B4"
    assert "never" not in repr(note)
