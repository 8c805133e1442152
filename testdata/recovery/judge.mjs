// The second judge of make.py: reads [[text, signature], ...] and answers each with its signer, or "-".
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "v/node_modules/"));
const { secp256k1 } = require("@noble/curves/secp256k1");
const { keccak_256 } = require("@noble/hashes/sha3");
const bytes = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));

function signer([text, signature]) {
  try {
    const id = Number.parseInt(signature.slice(128), 16) - 27;
    const parsed = secp256k1.Signature.fromCompact(signature.slice(0, 128)).addRecoveryBit(id);
    const key = parsed.recoverPublicKey(keccak_256(Buffer.from(text, "utf8"))).toBytes(false);
    return "0x" + Buffer.from(keccak_256(key.slice(1)).slice(12)).toString("hex");
  } catch {
    return "-";
  }
}

process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(signer)));
