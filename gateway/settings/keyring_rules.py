"""The rules of the keyring: what a key-encryption key's source needs, and production asks for."""

from __future__ import annotations

from typing import Final

from gateway.settings.draft import Part
from gateway.settings.findings import Findings

_OF_SOURCE: Final = {
    "passphrase": ("passphrase_file", "scrypt_log2_n"),
    "components": ("component_files",),
    "pkcs11": ("pkcs11_module", "token_label", "key_label", "pin_file"),
}


def check_keyring(top: Part, findings: Findings) -> None:
    """Report what a source lacks, or does not use, and what production does not allow."""
    keys = top.part("keys")
    production = top.part("node").flag("production")
    for name in ("kek", "kek_next"):
        if keys.has(name):
            _kek(keys.part(name), findings)
    if not production:
        return
    if keys.flag("create"):
        findings.error(
            keys.at("create"),
            "a production node does not make its own keyring",
            "make it once by `gateway keys init`, and remove create = true",
        )
    if not keys.has("kek"):
        findings.error(
            keys.at("keyring"),
            "the key-encryption key would be beside it, in a file that goes with each copy",
            "write a [keys.kek] table: source, and where it is",
        )


def _kek(kek: Part, findings: Findings) -> None:
    source = kek.text("source")
    if source not in _OF_SOURCE:
        return  # reported as no choice
    for other, keys in _OF_SOURCE.items():
        for key in keys:
            if other != source and kek.has(key):
                findings.error(
                    kek.at(key),
                    f"is not used: source is {source!r}",
                    f"remove it, or write {other!r}",
                )
    if len(list(kek.texts("component_files"))) == 1:
        findings.error(
            kek.at("component_files"),
            "names one file, and one person would have the whole key",
            "name two or three, each held by somebody else; or none, to be asked",
        )
    if source == "pkcs11":
        for key in ("pkcs11_module", "token_label", "key_label", "pin_file"):
            if not kek.text(key):
                findings.error(
                    kek.at(key) if kek.has(key) else kek.at("source"),
                    f"{key} must be written for a token",
                    f"add {key}",
                )
