"""Keys that protect nothing: weak ones of DES, and those that stand in books."""

from __future__ import annotations

import hashlib
import itertools
from typing import Final

from gateway.keys.block_ciphers import DES_FAMILY
from gateway.keys.des_keys import is_weak, with_odd_parity
from gateway.keys.records import KeyAlgorithm

# The first 16 bytes of SHA-256 over published keys, the lowest bit of each byte (the parity of DES)
# cleared: from ANSI X9.24, TR-31, NIST's examples, the cards of developers, manuals and articles.
_PUBLISHED: Final = frozenset(
    (
        "0967d7c9c06bdf81ae94129dbb905a81",
        "0a610a1c49d04025bf375c4686614c81",
        "18f9781b1b2c2d85dc80ea6af8a7acf9",
        "1ab9a97a5be9565b5b52ce7bf966ad6a",
        "23296b615e0a0cfd494279b5d3bd8872",
        "31e0fdfc71880e5437e8da8f1593bf5b",
        "33a54ee6fbd18b155faac757d472146d",
        "364d4c81a8b9fea5042e29ac22962140",
        "3a5b70e6d789b7a940787709d362f726",
        "3cf817e25b6559874f9b416740959e50",
        "47e69b828b4f8cd9ea86e765ee32d650",
        "491ed5e60e5872452515d11904e820db",
        "4f700ea6574803b1cd6365a99cde5d78",
        "51a488e06e9c69c555b8ad5e2c4629bb",
        "532c741c6e3dd49d5f64b63eb224d3f2",
        "604b4203c4d1652f03641a86eb4bc5b3",
        "6084a011a88f5bad0ce0a7e3a2e02630",
        "68657685cafeadc34182281d374efeb3",
        "69f274af9e437f91101717671b8182dd",
        "74034e737f941f3afaa11a7089371daf",
        "745f8ff996d173980b95693e604c3ccd",
        "7ea6a26c528239ba6f6fdd4fea16a628",
        "86b9896566fd5d56ec142dd944758671",
        "8bfe526f6c940f6a5d3b29369cf04888",
        "8f97ec0c4c40f16bc21ac8e037a1a11f",
        "991642493ee50f8b8bbe4f65ca096abc",
        "99a029808fceba8d58d7bbaa5b38dfdf",
        "9af9faed355e2e0160bd42902e44ede8",
        "a45ab678048964e88e1407a937dc9981",
        "a546eadf21696880bbf5c0b4b6856e29",
        "acc26758222c468d86a49e1fcaef14f2",
        "b54f858bfaf691e5bb8bd3f12e915584",
        "cfb5992f33a1b8a263992e0db75f5c29",
        "df29e99fea0ab339b1f4627e2fc0e9bf",
        "df9a791e69d331f6de0394a982eb7a55",
        "eac80bb1928894a5d2819b5bbb5c83e2",
        "eae2083b5b3a68e9eba8f49e941d2560",
        "f3864885f377f92ce7111e3c62a639e0",
        "f3f8218fbff92c31e7915acefbc9163f",
        "f946395be62ace5201ccd7359cc7c537",
    )
)


def weakness(algorithm: KeyAlgorithm, clear: bytes) -> str:
    """Why a key must never be used, in words; "" where nothing speaks against it.

    A part that is weak or semi-weak for DES, two neighbouring parts that are equal (which make
    triple DES single DES), and a key of zeros.
    """
    if not any(clear):
        return "the key is all zeros"
    if algorithm not in DES_FAMILY:
        return ""
    if is_weak(clear):
        return "a part of the key is a weak key of DES"
    odd = with_odd_parity(clear)
    parts = [odd[at : at + 8] for at in range(0, len(odd), 8)]
    if any(one == other for one, other in itertools.pairwise(parts)):
        return "two parts of the key are equal, which makes triple DES single DES"
    return ""


def is_known(clear: bytes) -> bool:
    """Whether a key is one that everybody knows: equal or counting bytes, or a published one."""
    steps = {(after - before) % 256 for before, after in itertools.pairwise(clear)}
    if len(steps) <= 1:
        return True
    bare = bytes(byte & 0xFE for byte in clear)
    return hashlib.sha256(bare).hexdigest()[:32] in _PUBLISHED
