// A node enters: node node.mjs http://127.0.0.1:8008 SERVER_NAME KEY_FILE
import { readFileSync } from "node:fs"; // Node.js 18 or later
import { SigningKey, computeAddress, id as keccakOfText } from "ethers"; // npm install ethers

const [url, serverName, keyFile] = process.argv.slice(2);
const key = new SigningKey("0x" + readFileSync(keyFile, "utf8").trim());
const sign = (text) => key.sign(keccakOfText(text)).serialized.slice(2); // r, s, and v as 27 or 28

const localpart = computeAddress(key.publicKey).toLowerCase();
const displayname = localpart.slice(2, 6) + "-" + sign(`@${localpart}:${serverName}`);
const proof = { localpart, displayname, password: sign(serverName) };
const login = { type: "m.login.password", user: localpart, password: proof.password };

const headers = { "Content-Type": "application/json" };
const post = (path, body) => fetch(url + path, {
  method: "POST", headers, body: JSON.stringify(body), signal: AbortSignal.timeout(60_000),
});
let answer = await post("/_matrix/client/r0/login", login);
if (answer.status === 403) {
  answer = await post("/regapp/1/register", proof);
  if (answer.ok) answer = await post("/_matrix/client/r0/login", login);
}
if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
console.log((await answer.json()).user_id);
