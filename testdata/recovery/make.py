#!/usr/bin/env python3
"""Makes cases.tsv: signatures with edge values of r, s and v, and who signed them by other implementations.

    python3 -m venv v && v/bin/pip install eth-keys==0.8.0 "eth-hash[pycryptodome]==0.8.0" pycryptodome==3.24.1
    npm install --prefix v @noble/curves@1.9.7 @noble/hashes@1.8.0
    v/bin/python make.py

Two judges decide each case: eth-keys with its native backend, and @noble/curves (judge.mjs). Neither shares code with
go-ethereum's backends. Where they disagree, nothing is written. The cases come from a fixed seed, so that a run repeats
the file byte for byte.

A line is: kind, text, signature (r, s, v in hex), signer; "-" where the rule accepts no signer. The rule: r and s from 1
to the order less one, s at most half the order, v 27 or 28, and a point that can be recovered.
"""

import json
import os
import random
import subprocess

os.environ["ECC_BACKEND_CLASS"] = "eth_keys.backends.NativeECCBackend"
from eth_keys import keys  # noqa: E402
from eth_keys.exceptions import BadSignature, ValidationError  # noqa: E402
from eth_utils import keccak  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HALF = N // 2
rng = random.Random("recovery")
cases = []


def add(kind, text, r, s, v):
    cases.append((kind, text, f"{r:064x}{s:064x}{v:02x}"))


def key():
    return keys.PrivateKey(rng.randrange(1, N).to_bytes(32, "big"))


def sign(private, text):
    signature = private.sign_msg_hash(keccak(text.encode()))
    return signature.r, signature.s, signature.v + 27


def digest(text):
    return int.from_bytes(keccak(text.encode()), "big")


def on_curve(x):
    square = (pow(x, 3, P) + 7) % P
    return pow(square, (P - 1) // 2, P) == 1


TEXTS = ["transport02.smartmesh.cn", "", "a", "é ü 中文", "0" * 200]

# What nodes sign, and what others might.
for n in range(600):
    private = key()
    address = private.public_key.to_address()
    text = [f"@{address}:transport02.smartmesh.cn", f"@{address}:x.org:8448"][n % 2] if n % 3 else TEXTS[n // 3 % len(TEXTS)]
    r, s, v = sign(private, text)
    add("signed", text, r, s, v)
    if n % 4 == 0:
        add("other v", text, r, s, 55 - v)
        add("high s", text, r, N - s, 55 - v)
        add("high s, v as before", text, r, N - s, v)
        add("r and s exchanged", text, s, r, v)
        add("another text", text + "!", r, s, v)
    if n % 8 == 1:
        bit = 1 << rng.randrange(256)
        add("a bit of r", text, r ^ bit, s, v)
        add("a bit of s", text, r, s ^ bit, v)

# Every v, of a signature that is good with one of them.
text = "every v"
r, s, v = sign(key(), text)
for value in range(256):
    add("v", text, r, s, value)

# Values of r and s around every bound, each with each.
x = next(x for x in range(1, 100) if on_curve(x))
off = next(x for x in range(1, 100) if not on_curve(x))
top = next(x for x in range(N - 1, 0, -1) if on_curve(x))
middle = next(x for x in range(2**255, 2**256) if on_curve(x))
R = [0, 1, off, x, 2**128, middle, HALF, top, N - 1, N, N + 1, N + x, P - 1, P, P + 1, 2**256 - 1]
S = [0, 1, 2, 2**128, HALF - 1, HALF, HALF + 1, HALF + 2, N - 2, N - 1, N, N + 1, P, 2**256 - 1]
for r in R:
    for s in S:
        for v in (27, 28):
            add("bounds", "bounds", r, s, v)
        for v in (0, 1, 29, 30, 31, 32):
            if s in (1, HALF):
                add("bounds, odd v", "bounds", r, s, v)

# r below p less the order: its point may have the x r plus the order as well, which the recovery ids 2 and 3 stand for.
for n in range(40):
    r = rng.randrange(1, P - N)
    for v in (27, 28, 29, 30):
        add("small r", "small r", r, rng.randrange(1, HALF), v)

# Short r and s: leading zeros.
for bits in (8, 16, 32, 64, 127, 200, 240, 247):
    for n in range(8):
        for v in (27, 28):
            add("short", "short", rng.randrange(1, 2**bits), rng.randrange(1, 2**bits), v)

# The point at infinity: s times R is the digest times the generator, so that no key is left.
for n in range(40):
    text = f"infinity {n}"
    while True:
        k = rng.randrange(1, N)
        point = keys.PrivateKey(k.to_bytes(32, "big")).public_key.to_bytes()
        r, y = int.from_bytes(point[:32], "big"), int.from_bytes(point[32:], "big")
        s = digest(text) * pow(k, -1, N) % N
        if r < N:
            break
    v = 27 + y % 2
    if s > HALF:
        s, v = N - s, 55 - v
    add("infinity", text, r, s, v)
    add("infinity's other v", text, r, s, 55 - v)

# Anything at all.
for n in range(500):
    add("random", "random", rng.randrange(2**256), rng.randrange(2**256), 27 + n % 2)
    add("random, s low", "random", rng.randrange(2**256), rng.randrange(HALF), 27 + n % 2)


def by_eth_keys(text, signature):
    r, s, v = int(signature[:64], 16), int(signature[64:128], 16), int(signature[128:], 16) - 27
    try:
        public = keys.Signature(vrs=(v, r, s)).recover_public_key_from_msg_hash(keccak(text.encode()))
        return public.to_address()
    except (BadSignature, ValidationError):
        return "-"


def by_noble():
    asked = json.dumps([[text, signature] for _, text, signature in cases])
    answer = subprocess.run(["node", os.path.join(HERE, "judge.mjs")], input=asked, capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


rows, disagreed = [], 0
for (kind, text, signature), noble in zip(cases, by_noble(), strict=True):
    r, s, v = int(signature[:64], 16), int(signature[64:128], 16), int(signature[128:], 16)
    in_form = 0 < r < N and 0 < s <= HALF and v in (27, 28)
    eth_keys = by_eth_keys(text, signature) if in_form else "-"
    if in_form and eth_keys != noble:
        disagreed += 1
        print(f"{kind}: {signature}: eth-keys {eth_keys}, noble {noble}")
    rows.append("\t".join((kind, text, signature, eth_keys if in_form else "-")))
if disagreed:
    raise SystemExit(f"the judges disagree on {disagreed} cases")
with open(os.path.join(HERE, "cases.tsv"), "w", encoding="utf-8") as out:
    out.write("\n".join(rows) + "\n")
print(f"{len(rows)} cases, {sum(not row.endswith('-') for row in rows)} with a signer")
