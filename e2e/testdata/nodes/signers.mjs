// Signs the texts of signatures.json with libraries of JavaScript, and prints a row of docs/nodes.md for each: what it gives as v.
//
//     node signers.mjs testdata/signatures.json
//
// It fails where r, s or v is not what the file has.
import { readFileSync } from "node:fs";
import { secp256k1 } from "@noble/curves/secp256k1.js";
import { SigningKey, getBytes, id } from "ethers";
import { sign as viemSign } from "viem/accounts";

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const libraries = [
  ["ethers 6 (npm)", "new SigningKey(key).sign(digest).serialized", (key, digest) => new SigningKey(key).sign(digest).serialized.slice(2)],
  ["viem 2 (npm)", 'sign({ hash: digest, privateKey: key, to: "hex" })', async (key, digest) => (await viemSign({ hash: digest, privateKey: key, to: "hex" })).slice(2)],
  ["@noble/curves 2 (npm)", 'secp256k1.sign(digest, key, { prehash: false, format: "recovered" })', (key, digest) => {
    const s = hex(secp256k1.sign(getBytes(digest), getBytes(key), { prehash: false, format: "recovered" }));
    return s.slice(2) + s.slice(0, 2);
  }, ", as the **first** byte"],
];

for (const [name, call, sign, note = ""] of libraries) {
  const seen = new Set();
  for (const { key, server_name, body } of JSON.parse(readFileSync(process.argv[2], "utf8")).registrations) {
    for (const [text, want] of [[`@${body.localpart}:${server_name}`, body.displayname.slice(5)], [server_name, body.password]]) {
      const signature = await sign("0x" + key, id(text));
      const v = Number.parseInt(signature.slice(128), 16);
      if (signature.slice(0, 128) + (v >= 27 ? v : v + 27).toString(16) !== want) {
        throw new Error(`${name} signs ${text} as ${signature}, not ${want}`);
      }
      seen.add(v);
    }
  }
  console.log(`| ${name} | \`${call}\` | ${[...seen].sort().join(" or ")}${note} |`);
}
