"""Downloads as a terminal sees them: lists, records, ends, versions; and what files may say."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.clock import Clock
from gateway.errors import InDoubt, NotSent
from gateway.settings.schema_downloads import CODES, DownloadStep
from gateway.settings.schema_downloads import Downloads as DownloadSettings
from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.store.store import Device, DeviceState, PutNote, Store
from gateway.telemetry.events import Event
from gateway.terminals.download_files import (
    Content,
    DownloadSet,
    read_downloads,
    tlv,
    tlv_objects,
)
from gateway.terminals.downloads import Downloads, ListenerDownloads, step_of
from gateway.transactions.request import Request
from gateway.upstreams.pool import Pool
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.framing import Frame
from gateway.wire.message import Kind, Message
from gateway.wire.requirements import requirement_of

CODEC = Codec(shipped_dialects()["unionpay_pos"])
HEADER = bytes.fromhex("600100310000")
DAY_MS = 86_400_000
NOW_MS = 20_000 * DAY_MS  # 2024-10-04


class StoppedClock:
    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_s(self) -> float:
        return 0.0


class Notes:
    """As much of a store as downloads need."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def post(self, *operations: PutNote) -> None:
        for one in operations:
            self.kept[one.name] = one.text

    async def notes(self, prefix: str) -> Mapping[str, str]:
        return {name: text for name, text in self.kept.items() if name.startswith(prefix) and text}


def ca_key(index: str, *, modulus_bytes: int = 128, expires: str = "2030-12-31") -> str:
    """A key's table; its modulus is no one's."""
    rid = "A000000999"
    modulus = hashlib.shake_256(index.encode()).hexdigest(modulus_bytes).upper()
    digest = hashlib.sha1(bytes.fromhex(rid + index + modulus + "03")).hexdigest()  # noqa: S324
    return f"""
[[keys]]
rid = "{rid}"
index = "{index}"
expires = {expires}
exponent = "03"
modulus = "{modulus}"
hash = "{digest}"
"""


AIDS = """
[[aids]]
tlv = "9F0607A0000009990101 DF010100 9F08020030 DF1105D84000A800"

[[aids]]
tags = { 9F06 = "A0000009990102", DF01 = "01" }
"""
PARAMETERS = '[parameters]\n12 = "60"\n14 = "02112345678   "\n'


@dataclass
class Centre:
    """Downloads over files in a folder, and messages to it."""

    folder: Path
    clock: StoppedClock = field(default_factory=StoppedClock)
    notes: Notes = field(default_factory=Notes)
    events: list[tuple[Event, dict[str, object]]] = field(default_factory=list)
    settings: DownloadSettings = field(default_factory=DownloadSettings)

    def __post_init__(self) -> None:
        self.downloads = self.started()

    def started(self) -> Downloads:
        return Downloads(
            self.settings,
            self.content(),
            store=cast("Store", self.notes),
            clock=cast("Clock", self.clock),
            emit=self.emit,
        )

    def content(self) -> DownloadSet:
        content, findings = read_downloads(
            self.folder, answer_bytes_max=self.settings.answer_bytes_max
        )
        assert not findings
        return content

    def write(self, content: Content, text: str) -> None:
        names = {
            Content.KEYS: "ca-keys.toml",
            Content.AIDS: "aids.toml",
            Content.BLACKLIST: "blacklist.txt",
            Content.PARAMETERS: "parameters.toml",
        }
        (self.folder / names[content]).write_text(text)
        self.downloads.use(self.settings, self.content())

    def emit(self, event: Event, /, **fields: object) -> None:
        self.events.append((event, fields))

    def ask(self, code: str, data: bytes = b"", *, terminal: str = "T0000001") -> bytes:
        """DE62 of the answer, which can be written in the terminal's dialect."""
        request = ask(code, data, terminal=terminal)
        step = step_of(request.message, self.settings.codes)
        assert step is not None
        answer = self.downloads.serve(request, step)
        read = CODEC.decode(CODEC.encode(answer))
        assert read.response_code == "00"
        assert read.mti == ("0830" if code in ("362", "372", "382") else "0810")
        assert read.get(60) == request.message.get(60)
        return bytes.fromhex(read.get(62))

    def requirement(self) -> int:
        return self.downloads.requirement("T0000001")


def ask(code: str, data: bytes = b"", *, terminal: str = "T0000001") -> Request:
    fields = {41: terminal, 42: "MERCHANT0000001", 60: f"00000001{code}"}
    if data:
        fields[62] = data.hex().upper()
    mti = "0820" if code in ("362", "372", "382") else "0800"
    # As a terminal sends it: without DE11.
    message = CODEC.decode(CODEC.encode(Message(mti, fields)))
    device = Device(
        device_id=1,
        terminal_id=terminal,
        merchant_id="MERCHANT0000001",
        profile="retail",
        state=DeviceState.ACTIVE,
        activation=1,
    )
    return Request(
        message,
        Kind.NETWORK,
        device,
        listener="pos",
        code_set="unionpay",
        wall_ms=NOW_MS,
        started_s=0.0,
        dialect="unionpay_pos",
    )


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return Centre(tmp_path)


def entries(listed: bytes, per_entry: int) -> list[bytes]:
    """The names in a list: each entry's first objects."""
    objects = list(tlv_objects(listed))
    return [
        b"".join(tlv(tag, value) for tag, value in objects[at : at + per_entry - 1] or objects[at:])
        for at in range(0, len(objects), per_entry)
    ]


def test_the_codes_are_those_of_the_messages() -> None:
    assert {code: step for code, step in CODES.items() if step is DownloadStep.KEY_LIST} == {
        "372": DownloadStep.KEY_LIST,
        "373": DownloadStep.KEY_LIST,
    }
    assert step_of(Message("0200", {60: "00000001370"}), CODES) is None
    assert step_of(Message("0800", {60: "00000001001"}), CODES) is None
    assert step_of(Message("0800", {}), CODES) is None
    assert step_of(Message("0800", {60: "00000001370"}), {}) is None


def test_nothing_to_download_is_said_so(centre: Centre) -> None:
    assert centre.ask("372", b"100") == b"0"
    assert centre.ask("382", b"100") == b"0"
    assert centre.ask("390", b"000") == b"0"
    assert centre.ask("360") == b""
    assert centre.requirement() == 0


def test_keys_are_listed_fetched_and_ended(centre: Centre) -> None:
    centre.write(Content.KEYS, ca_key("01") + ca_key("02", modulus_bytes=248))
    listed = centre.ask("372", b"100")
    assert listed[:1] == b"1"
    # RID, index and expiry, as terminals count on: 23 bytes each.
    assert len(listed) == 1 + 2 * 23
    names = entries(listed[1:], 3)
    assert names[0].hex().upper() == "9F0605A0000009999F220101"
    for name in names:
        record = centre.ask("370", name)
        values = dict(tlv_objects(record[1:]))
        assert record[:1] == b"1"
        assert values["DF05"] == b"20301231"
        key = values["9F06"] + values["9F22"] + values["DF02"] + values["DF04"]
        assert values["DF03"] == hashlib.sha1(key).digest()  # noqa: S324
    assert len(values["DF02"]) == 248
    assert centre.ask("371") == b""


@pytest.mark.parametrize("data", [b"", b"\x9f", b"9F06", tlv("9F06", b"12345"), b"\xff" * 40])
def test_a_record_that_is_not_there_is_said_so(centre: Centre, data: bytes) -> None:
    centre.write(Content.KEYS, ca_key("01"))
    centre.write(Content.AIDS, AIDS)
    assert centre.ask("370", data) == b"0"
    assert centre.ask("380", data) == b"0"


def test_a_long_list_comes_in_parts_and_goes_on_where_it_was_cut_off(centre: Centre) -> None:
    count = 60
    centre.write(Content.KEYS, "".join(ca_key(f"{number:02X}") for number in range(count)))
    known: list[bytes] = []
    parts = 0
    while True:
        listed = centre.ask("372", b"1%02d" % len(known))
        assert len(listed) <= 999
        known += entries(listed[1:], 3)
        parts += 1
        if parts == 1:
            # Asked again, as after a cut, it is the same part.
            assert centre.ask("372", b"100") == listed
        if listed[:1] == b"1":
            break
        assert listed[:1] == b"2"
    assert parts == 2
    assert len(set(known)) == len(known) == count
    assert centre.ask("372", b"1%02d" % count) == b"0"
    assert centre.ask("372", b"199") == b"0"


def test_a_key_that_has_expired_is_offered_no_more(centre: Centre) -> None:
    centre.write(Content.KEYS, ca_key("01", expires="2024-10-04") + ca_key("02"))
    assert len(entries(centre.ask("372", b"100")[1:], 3)) == 2
    centre.clock.now_ms += DAY_MS
    listed = centre.ask("372", b"100")
    assert [name[-1] for name in entries(listed[1:], 3)] == [2]
    assert (
        centre.ask("370", tlv("9F06", bytes.fromhex("A000000999")) + tlv("9F22", b"\x01")) == b"0"
    )


def test_applications_are_listed_and_fetched(centre: Centre) -> None:
    centre.write(Content.AIDS, AIDS)
    listed = centre.ask("382", b"100")
    assert [tag for tag, _ in tlv_objects(listed[1:])] == ["9F06", "9F06"]
    record = centre.ask("380", tlv("9F06", bytes.fromhex("A0000009990101")))
    assert record[1:].hex().upper() == (
        "9F0607A0000009990101" + "DF010100" + "9F08020030" + "DF1105D84000A800"
    )
    assert centre.ask("381") == b""


def test_a_blacklist_comes_by_the_number_of_its_entries(centre: Centre) -> None:
    bins = [f"9{number:05d}" for number in range(250)]
    centre.write(Content.BLACKLIST, "# blocked\n" + "\n".join(bins) + "\n")
    got: list[str] = []
    while True:
        part = centre.ask("390", b"%03d" % len(got))
        last, rest = int(part[1:4]), part[4:].decode()
        assert len(part) <= 999
        while rest:
            size = int(rest[:2])
            got.append(rest[2 : 2 + size])
            rest = rest[2 + size :]
        assert last == len(got) - 1
        if part[:1] != b"2":
            break
    assert got == bins


def test_parameters_come_as_they_are_written(centre: Centre) -> None:
    centre.write(Content.PARAMETERS, PARAMETERS)
    assert centre.ask("360") == b"12601402112345678   "


def test_a_status_is_taken_without_a_long_number(centre: Centre) -> None:
    assert centre.ask("362", b"0110219999994071835268141") == b""
    (_, fields) = centre.events[-1]
    assert "999999407183" not in str(fields)


# --- versions -------------------------------------------------------------------------------------


async def test_a_terminal_is_told_to_come_until_it_has_all(centre: Centre) -> None:
    centre.write(Content.KEYS, ca_key("01"))
    centre.write(Content.PARAMETERS, PARAMETERS)
    assert centre.requirement() == 4
    centre.ask("372", b"100")
    centre.ask("371")
    assert centre.requirement() == 1
    centre.ask("360")
    centre.ask("361")
    assert centre.requirement() == 0
    # Another one has not come yet, and a restart forgets nobody.
    assert centre.downloads.requirement("T0000002") == 4
    again = centre.started()
    await again.restore()
    assert again.requirement("T0000001") == 0
    assert again.requirement("T0000002") == 4
    centre.write(Content.KEYS, ca_key("02"))
    assert centre.requirement() == 4


def test_an_end_counts_for_what_was_begun(centre: Centre) -> None:
    """Not for a version that came in between, and not at all where nothing was fetched."""
    centre.write(Content.AIDS, AIDS)
    centre.ask("381")
    assert centre.requirement() == 5
    centre.ask("382", b"100")
    centre.write(Content.AIDS, AIDS.replace("DF010100", "DF010101"))
    centre.ask("381")
    assert centre.requirement() == 5


def test_versions_are_known_of_so_many_terminals(tmp_path: Path) -> None:
    centre = Centre(tmp_path, settings=DownloadSettings(terminals_max=2))
    centre.write(Content.PARAMETERS, PARAMETERS)
    for number in range(1, 4):
        centre.ask("360", terminal=f"T000000{number}")
        centre.ask("361", terminal=f"T000000{number}")
    told = [centre.downloads.requirement(f"T000000{number}") for number in range(1, 4)]
    assert told == [1, 0, 0]
    assert centre.notes.kept["downloads:T0000001"] == ""


async def test_a_note_that_cannot_be_read_has_its_terminal_come_again(centre: Centre) -> None:
    centre.notes.kept = {"downloads:T0000001": "[1", "downloads:T0000002": '{"keys": "x"}'}
    await centre.downloads.restore()
    centre.write(Content.KEYS, ca_key("01"))
    assert centre.requirement() == 4


def test_the_settings_can_leave_it_to_the_terminal(tmp_path: Path) -> None:
    centre = Centre(tmp_path, settings=DownloadSettings(announce=False))
    centre.write(Content.KEYS, ca_key("01"))
    assert centre.requirement() == 0


# --- on a listener --------------------------------------------------------------------------------


def listener(**changes: Any) -> ListenerSettings:
    return ListenerSettings(
        name="pos",
        listen="127.0.0.1:1",
        security="plain",
        dialect="unionpay_pos",
        code_set="unionpay",
        **changes,
    )


class StubUpstream:
    """An upstream that does one thing with what it is asked."""

    name = "acquirer"

    def __init__(self, act: Callable[[Message], Message]) -> None:
        self.act = act
        self.asked: list[Message] = []
        self.adaptation = self

    def take_stan(self) -> int | None:
        return 77

    def outgoing(self, message: Message, dialect: str = "") -> Message:
        return message

    def incoming(
        self, answer: Message, *, request: Message, sent: Message, dialect: str = ""
    ) -> Message:
        return answer

    async def ask(self, request: Message, *, transaction_id: int, kind: Kind) -> Message:
        assert transaction_id == 0
        self.asked.append(request)
        return self.act(request)


def passing(centre: Centre, upstream: StubUpstream | None) -> ListenerDownloads:
    pool = cast("Pool", {"acquirer": upstream} if upstream is not None else {})
    return ListenerDownloads(
        listener(downloads="pass", downloads_to="acquirer"),
        shared=centre.downloads,
        pool=pool,
        emit=centre.emit,
    )


async def test_what_is_passed_on_comes_back_as_the_terminal_sent_it(centre: Centre) -> None:
    def act(asked: Message) -> Message:
        return Message("0810", {**asked.fields, 39: "00", 62: "31"})

    upstream = StubUpstream(act)
    reply = await passing(centre, upstream).reply(ask("370", b"x"))
    assert reply is not None
    assert upstream.asked[0].stan == "000077"
    assert reply.message.fields == ask("370").message.fields | {39: "00", 62: "31"}
    assert (reply.message.mti, reply.transaction_id) == ("0810", 0)


def _lost(_: Message) -> Message:
    raise InDoubt


def _unsent(_: Message) -> Message:
    raise NotSent


@pytest.mark.parametrize(("act", "code"), [(_lost, "98"), (_unsent, "91"), (None, "91")])
async def test_what_gets_no_answer_is_told_so_and_owes_nothing(
    centre: Centre, act: Callable[[Message], Message] | None, code: str
) -> None:
    upstream = None if act is None else StubUpstream(act)
    reply = await passing(centre, upstream).reply(ask("370", b"x"))
    assert reply is not None
    assert (reply.message.response_code, reply.transaction_id) == (code, 0)
    assert reply.message.get(60) == "00000001370"
    assert centre.events[-1][0] is Event.REQUEST_REFUSED


async def test_what_is_no_download_is_left_to_others(centre: Centre) -> None:
    serving = ListenerDownloads(
        listener(downloads="serve"),
        shared=centre.downloads,
        pool=cast("Pool", {}),
        emit=centre.emit,
    )
    assert await serving.reply(ask("001")) is None
    assert (await serving.reply(ask("360"))) is not None


def test_the_header_tells_a_terminal_to_come(centre: Centre) -> None:
    centre.write(Content.KEYS, ca_key("01"))
    serving = ListenerDownloads(
        listener(downloads="serve"),
        shared=centre.downloads,
        pool=cast("Pool", {}),
        emit=centre.emit,
    )
    purchase = Message("0200", {41: "T0000001"})
    told = serving.telling(Frame(b"", b"", HEADER), purchase)
    assert requirement_of(told.header) == 4
    assert told.header[:2] + told.header[3:] == HEADER[:2] + HEADER[3:]
    # Not while it is at it, and not where there is no such header.
    assert serving.telling(Frame(b"", b"", HEADER), ask("372").message).header == HEADER
    assert serving.telling(Frame(b""), purchase).header == b""
    passed = passing(centre, None)
    assert passed.telling(Frame(b"", b"", HEADER), purchase).header == HEADER


# --- the files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "line", "problem"),
    [
        ("ca-keys.toml", ca_key("01").replace('"03"', '"04"'), 6, "exponent of EMV"),
        ("ca-keys.toml", ca_key("01").replace('"01"', '"02"'), 8, "not that of this key"),
        ("ca-keys.toml", ca_key("01") + ca_key("01"), 10, "there twice"),
        ("ca-keys.toml", ca_key("01", modulus_bytes=32), 7, "has 32 bytes"),
        ("ca-keys.toml", ca_key("01").replace("2030-12-31", '"2030-12-31"'), 5, "no date"),
        ("ca-keys.toml", ca_key("01").replace("A0000009", "A00000"), 3, "has 4 bytes"),
        ("ca-keys.toml", ca_key("01").replace("A0000009", "hello"), 3, "is not hex"),
        ("ca-keys.toml", ca_key("01") + "colour = 1\n", 9, "not known here"),
        ("ca-keys.toml", "[[key]]\n", 1, "not known here"),
        ("ca-keys.toml", "keys = 1\n", 1, "no list of tables"),
        ("ca-keys.toml", "[[keys]\n", 1, "is not TOML"),
        ("ca-keys.toml", "".join(ca_key("01") for _ in range(100)), 1, "has 100 keys"),
        ("aids.toml", '[[aids]]\ntlv = "9F0607A000"\n', 2, "says 7 bytes, and fewer follow"),
        ("aids.toml", '[[aids]]\ntlv = "9F"\n', 2, "has no length"),
        ("aids.toml", '[[aids]]\ntlv = "DF010100"\n', 1, "no application identifier"),
        ("aids.toml", '[[aids]]\ntlv = "DF010100DF010100"\n', 2, "a tag twice"),
        ("aids.toml", "[[aids]]\n", 1, "neither tlv nor tags"),
        ("aids.toml", '[[aids]]\ntags = { 9F = "00" }\n', 2, "is no tag"),
        ("aids.toml", "[[aids]]\ntags = { 9F06 = 5 }\n", 1, "is not hex"),
        ("aids.toml", '[[aids]]\ntlv = "9F06\N{NO-BREAK SPACE}05"\n', 2, "is not hex"),
        (
            "aids.toml",
            f'[[aids]]\ntags = {{ 9F06 = "A000000999", DF20 = "{"00" * 65_536}" }}\n',
            2,
            "DF20 has more than 65535 bytes",
        ),
        (
            "aids.toml",
            f'[[aids]]\ntags = {{ 9F06 = "A000000999", DF20 = "{"00" * 999}" }}\n',
            1,
            "takes 1012 bytes",
        ),
        ("blacklist.txt", "622848\n6228480402564890018\n", 2, "is no BIN"),
        ("blacklist.txt", "62x\n", 1, "is no BIN"),
        ("blacklist.txt", "62\n" * 1_000, 1_000, "one too many"),
        ("parameters.toml", '[parameters]\n1 = "x"\n', 2, "is no parameter"),
        ("parameters.toml", "[parameters]\n12 = 60\n", 2, "is no parameter"),
        ("parameters.toml", f'[parameters]\n12 = "{"x" * 1_000}"\n', 1, "takes 1002 bytes"),
        ("parameters.toml", "[parameter]\n", 1, "not known here"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_line(
    tmp_path: Path, name: str, text: str, line: int, problem: str
) -> None:
    (tmp_path / name).write_text(text)
    _, findings = read_downloads(tmp_path, answer_bytes_max=999)
    assert [(Path(one.file).name, one.line) for one in findings[:1]] == [(name, line)]
    assert problem in findings[0].problem
    assert findings[0].remedy
    assert "6228480402564890018" not in str(findings[0])


def test_of_a_long_file_no_more_is_read_than_shows_that_it_is_too_long(
    tmp_path: Path,
) -> None:
    file = tmp_path / "blacklist.txt"
    with file.open("wb") as long:
        long.truncate(1 << 26)  # of holes: it takes no room on the disk, and would all in memory
    tracemalloc.start()
    try:
        _, findings = read_downloads(tmp_path, answer_bytes_max=999)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 23
    assert [one.problem for one in findings] == ["is longer than 1048576 bytes"]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ca-keys.toml")
    (tmp_path / "aids.toml").mkdir()
    (tmp_path / "blacklist.txt").symlink_to("/dev/zero")
    _, findings = read_downloads(tmp_path, answer_bytes_max=999)
    assert [one.problem for one in findings] == ["is no file"] * 3


def test_the_version_is_that_of_the_content(tmp_path: Path) -> None:
    """What only reads differently has terminals fetch nothing again."""
    (tmp_path / "ca-keys.toml").write_text(ca_key("01"))
    before, _ = read_downloads(tmp_path, answer_bytes_max=999)
    (tmp_path / "ca-keys.toml").write_text("# the same\n" + ca_key("01"))
    after, _ = read_downloads(tmp_path, answer_bytes_max=999)
    assert before.versions == after.versions
    assert list(before.versions or ()) == [Content.KEYS]


def test_long_values_have_long_lengths() -> None:
    for size in (0, 127, 128, 255, 256, 999):
        data = tlv("DF02", bytes(size))
        assert list(tlv_objects(data)) == [("DF02", bytes(size))]
    assert tlv("DF02", bytes(128))[2:4] == b"\x81\x80"
