# A node enters: python node.py http://127.0.0.1:8008 SERVER_NAME KEY_FILE
import sys, requests  # pip install requests eth-keys "eth-hash[pycryptodome]"
from eth_keys import keys
from eth_utils import keccak

url, server_name, key_file = sys.argv[1:]
key = keys.PrivateKey(bytes.fromhex(open(key_file).read().strip()))

def sign(text):
    signature = key.sign_msg_hash(keccak(text=text)).to_bytes()  # r, s, and v as 0 or 1
    return signature[:64].hex() + f"{signature[64] + 27:02x}"

localpart = key.public_key.to_address()  # 0x and 40 lowercase hex digits
displayname = localpart[2:6] + "-" + sign(f"@{localpart}:{server_name}")
proof = {"localpart": localpart, "displayname": displayname, "password": sign(server_name)}
login = {"type": "m.login.password", "user": localpart, "password": proof["password"]}

answer = requests.post(url + "/_matrix/client/r0/login", json=login, timeout=60)
if answer.status_code == 403:
    answer = requests.post(url + "/regapp/1/register", json=proof, timeout=60)
    if answer.ok:
        answer = requests.post(url + "/_matrix/client/r0/login", json=login, timeout=60)
if not answer.ok:
    sys.exit(f"{answer.status_code} {answer.text}")
print(answer.json()["user_id"])
