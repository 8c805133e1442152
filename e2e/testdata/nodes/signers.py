"""Signs the texts of signatures.json with libraries of Python, and prints a row of docs/nodes.md for each: what it gives as v.

    python signers.py testdata/signatures.json

It fails where r, s or v is not what the file has.
"""

import json
import sys

import coincurve
from eth_account import Account
from eth_keys import keys
from eth_keys.backends import CoinCurveECCBackend, NativeECCBackend
from eth_utils import keccak


def eth_keys(backend):
    return lambda key, digest: keys.PrivateKey(key, backend=backend()).sign_msg_hash(digest).to_bytes()


libraries = [
    ("eth-keys (PyPI)", "PrivateKey.sign_msg_hash(digest).to_bytes()", eth_keys(NativeECCBackend)),
    ("eth-keys (PyPI)", "PrivateKey.sign_msg_hash(digest).to_bytes()", eth_keys(CoinCurveECCBackend)),
    ("eth-account (PyPI)", "Account.unsafe_sign_hash(digest, key).signature", lambda key, digest: bytes(Account.unsafe_sign_hash(digest, key).signature)),
    ("coincurve (PyPI)", "PrivateKey.sign_recoverable(digest, hasher=None)", lambda key, digest: coincurve.PrivateKey(key).sign_recoverable(digest, hasher=None)),
]

rows = {}
registrations = json.load(open(sys.argv[1]))["registrations"]
for name, call, sign in libraries:
    seen = set()
    for r in registrations:
        body = r["body"]
        for text, want in ((f"@{body['localpart']}:{r['server_name']}", body["displayname"][5:]), (r["server_name"], body["password"])):
            signature = sign(bytes.fromhex(r["key"]), keccak(text=text))
            offset = 0 if signature[64] >= 27 else 27
            if signature[:64].hex() + f"{signature[64] + offset:02x}" != want:
                sys.exit(f"{name} signs {text!r} as {signature.hex()}, not {want}")
            seen.add(signature[64])
    rows[f"| {name} | `{call}` | {' or '.join(map(str, sorted(seen)))} |"] = True
print("\n".join(rows))
