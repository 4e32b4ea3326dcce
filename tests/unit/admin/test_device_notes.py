"""What is done with a device's keys is in its history, without a key."""

from __future__ import annotations

from dataclasses import replace

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
    (note,) = device_notes([a_key("terminal:T1"), a_key("upstream:one")], at_ms=5, who="ada")
    event = note.event
    assert (event.terminal_id, event.at_ms, event.what) == ("T1      ", 5, "key active")
    assert event.who == "ada"
    assert event.detail == "terminal-master.2, TDES-2, check value 08D7B4"
    assert "never" not in repr(note)


def test_that_a_session_key_is_over_is_no_event_of_a_devices_life() -> None:
    session = replace(a_key("terminal:T1"), purpose=KeyPurpose.PIN)
    assert not device_notes([session], at_ms=5, who="")
    assert len(device_notes([session], at_ms=5, who="ada")) == 1
    assert len(device_notes([a_key("terminal:T1")], at_ms=5, who="")) == 1
