"""Dialect: what is known of how the messages of one link are written, once its file was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.wire.dialect_meaning import Meaning
from gateway.wire.framing import FramingSpec
from gateway.wire.sub_elements import Layout, layout_for

Spec = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """What a dialect says of one field beyond its bytes: its name and its ISO 8583 type."""

    number: int
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the messages of one link are written.

    `spec` is pyiso8583's, with fields 2..128 as far as the dialect has them; in it `other_pads`,
    which that library does not know, are the pads of an odd field that are read beside its own.
    `frame` is how such messages are usually framed: a hint, as the settings of a link decide.
    `sha256` changes exactly when the bytes that it writes could. `meaning` is what its values say,
    for those who translate, and `layouts` are what is inside its fields; the codec asks neither.
    """

    name: str
    title: str
    spec: Spec
    fields: Mapping[int, FieldInfo]
    sha256: str
    frame: FramingSpec
    extends: str
    meaning: Meaning = field(default_factory=Meaning)
    layouts: Mapping[int, tuple[Layout, ...]] = field(default_factory=dict)

    def layout_of(self, number: int, mti: str, value: str) -> Layout | None:
        """How a field's value is taken apart in a message of this type; None where it is not."""
        return layout_for(self.layouts.get(number, ()), mti, value)
