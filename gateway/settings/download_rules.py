"""What has to go together for downloads: a listener with its dialect and its upstream."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.settings.draft import Part
from gateway.settings.findings import Findings, shown_value
from gateway.wire.dialect import Dialect


def check_downloads(top: Part, dialects: Mapping[str, Dialect], findings: Findings) -> None:
    """Report listeners whose terminals' downloads could be neither served nor passed on."""
    upstreams = [upstream.text("name") for upstream in top.parts("upstreams")]
    for listener in top.parts("listeners"):
        how, to = listener.text("downloads"), listener.text("downloads_to")
        dialect = dialects.get(listener.text("dialect") or "")
        if how == "serve" and dialect is not None:
            data = dialect.spec.get("62", {})
            if "60" not in dialect.spec or data.get("data_enc") != "b":
                findings.error(
                    listener.at("downloads"),
                    f"dialect {dialect.name} has no DE60, or no DE62 of raw bytes",
                    'write a UnionPay dialect, or downloads = "pass"',
                )
        if how == "pass" and to is None:
            findings.error(
                listener.at("downloads"),
                "says to pass downloads on, and downloads_to does not say to whom",
                "write the name of an upstream in downloads_to",
            )
        if to is not None and how != "pass":
            findings.error(
                listener.at("downloads_to"),
                f'has no meaning with downloads = "{how}"',
                'write downloads = "pass", or remove it',
            )
        elif to is not None and to not in upstreams:
            findings.error(
                listener.at("downloads_to"),
                f"no upstream is named {shown_value(to)}",
                f"there are: {', '.join(filter(None, upstreams))}",
            )
