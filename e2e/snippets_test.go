// snippets_test.go owns the nodes that docs/nodes.md shows in other languages: that they sign as the test vectors have it, that
// they enter, and what its table says of each library.

package e2e

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/ethereum/go-ethereum/crypto"
)

const nodesVenv = ".venv/nodes" // where make nodes installs the libraries

var (
	needsNodeJS    = need.Missing{What: "Node.js", Cure: "apt-get install nodejs npm"}
	needsLibraries = need.Missing{What: "the libraries of nodes in other languages", Cure: "make nodes"}
)

// snippets are the nodes of docs/nodes, each with the words that run it before its arguments.
var snippets = []struct {
	name string
	run  func(t *testing.T) []string
}{
	{"Python", func(t *testing.T) []string {
		return []string{nodesPython(t), filepath.Join(checkout(t), "docs/nodes/node.py")}
	}},
	{"JavaScript", func(t *testing.T) []string { return nodesJS(t, "docs/nodes/node.mjs") }},
	{"Go", func(t *testing.T) []string {
		return []string{"go", "run", filepath.Join(checkout(t), "docs/nodes/node.go")}
	}},
}

func checkout(t *testing.T) string {
	t.Helper()
	return must(moduleRoot(t.Context()))(t)
}

// installedNodes is the directory of the libraries.
func installedNodes(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(checkout(t), "e2e", nodesVenv)
	if _, err := os.Stat(filepath.Join(dir, ".installed")); err != nil {
		need.All(t, needsLibraries)
	}
	return dir
}

func nodesPython(t *testing.T) string {
	t.Helper()
	return filepath.Join(installedNodes(t), "bin/python")
}

// nodesJS copies a script beside the libraries that it imports, since Node.js finds them from where the script is.
func nodesJS(t *testing.T, script string) []string {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		need.All(t, needsNodeJS)
	}
	modules := filepath.Join(installedNodes(t), "node_modules")
	content := must(os.ReadFile(filepath.Join(checkout(t), script)))(t)
	copied := filepath.Join(t.TempDir(), filepath.Base(script))
	if err := os.WriteFile(copied, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(modules, filepath.Join(filepath.Dir(copied), "node_modules")); err != nil {
		t.Fatal(err)
	}
	return []string{"node", copied}
}

// runSnippet runs one as a node of the network that the URL and the server name are.
func runSnippet(t *testing.T, words []string, url, serverName, key string) Result {
	t.Helper()
	keyFile := filepath.Join(t.TempDir(), "node.key")
	if err := os.WriteFile(keyFile, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), callTime)
	defer cancel()
	return must(runToEnd(exec.CommandContext(ctx, words[0], append(words[1:], url, serverName, keyFile)...)))(t)
}

// A signedRegistration is one of testdata/signatures.json.
type signedRegistration struct {
	Key        string       `json:"key"`
	ServerName string       `json:"server_name"`
	Body       Registration `json:"body"`
}

func signedRegistrations(t *testing.T) []signedRegistration {
	t.Helper()
	var file struct {
		Registrations []signedRegistration `json:"registrations"`
	}
	content := must(os.ReadFile(filepath.Join(checkout(t), "testdata/signatures.json")))(t)
	if err := json.Unmarshal(content, &file); err != nil || len(file.Registrations) == 0 {
		t.Fatalf("signatures.json: %d registrations, %v", len(file.Registrations), err)
	}
	return file.Registrations
}

// Each snippet sends the three fields of the vectors, byte for byte, and logs in before and after with the password.
func TestSnippetsSign(t *testing.T) {
	for _, snippet := range snippets {
		t.Run(snippet.name, func(t *testing.T) {
			words := snippet.run(t)
			vectors := signedRegistrations(t)
			if !need.Long() {
				vectors = vectors[:2] // with v 27 and 28
			}
			for _, vector := range vectors {
				var calls []string
				network := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					var body map[string]string
					if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
						t.Error(err)
					}
					status := http.StatusOK
					switch r.URL.Path {
					case registerPath:
						got := Registration{body["localpart"], body["displayname"], body["password"]}
						if got != vector.Body || len(body) != 3 {
							t.Errorf("%s: sends %v, want %+v", vector.ServerName, body, vector.Body)
						}
					case "/_matrix/client/r0/login":
						if body["type"] != "m.login.password" || body["user"] != vector.Body.Localpart || body["password"] != vector.Body.Password || len(body) != 3 {
							t.Errorf("%s: logs in with %v", vector.ServerName, body)
						}
						if len(calls) == 0 {
							status = http.StatusForbidden
						}
					}
					calls = append(calls, r.Method+" "+r.URL.Path)
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(status)
					fmt.Fprintf(w, `{"user_id":"@%s:%s"}`, vector.Body.Localpart, vector.ServerName)
				}))
				r := runSnippet(t, words, network.URL, vector.ServerName, vector.Key)
				network.Close()
				if user := "@" + vector.Body.Localpart + ":" + vector.ServerName; r.Code != 0 || strings.TrimSpace(r.Stdout) != user {
					t.Errorf("%s: got exit %d, want %s\n%s%s", vector.ServerName, r.Code, user, r.Stdout, r.Stderr)
				}
				if want := []string{"POST /_matrix/client/r0/login", "POST " + registerPath, "POST /_matrix/client/r0/login"}; !slices.Equal(calls, want) {
					t.Errorf("%s: got the calls %q, want %q", vector.ServerName, calls, want)
				}
			}
		})
	}
}

// Each snippet is a node: it gets its account, logs in again with it, and says why it does not get in.
func testSnippets(t *testing.T, d *Deployment) {
	for _, snippet := range snippets {
		t.Run(snippet.name, func(t *testing.T) {
			words := snippet.run(t)
			secret := make([]byte, 32)
			rand.Read(secret)
			key, err := crypto.ToECDSA(secret)
			if err != nil {
				t.Fatal(err)
			}
			user := "@" + strings.ToLower(crypto.PubkeyToAddress(key.PublicKey).Hex()) + ":" + d.Domain
			for _, attempt := range []string{"registers", "logs in again"} {
				r := runSnippet(t, words, d.NodeURL, d.Domain, hex.EncodeToString(secret))
				if r.Code != 0 || strings.TrimSpace(r.Stdout) != user {
					t.Fatalf("%s: got exit %d, want %s\n%s%s", attempt, r.Code, user, r.Stdout, r.Stderr)
				}
			}
			if accounts := must(d.Homeserver.Accounts(t.Context(), user))(t); accounts != 1 {
				t.Errorf("the homeserver has %d accounts, want 1", accounts)
			}
			rand.Read(secret)
			r := runSnippet(t, words, d.NodeURL, "another."+d.Domain, hex.EncodeToString(secret))
			if r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, "M_INVALID_SIGNATURE") {
				t.Errorf("another server name: got exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
			}
		})
	}
}

// The table of libraries in docs/nodes.md has what each library gives as v, measured with the vectors.
func TestLibrariesSign(t *testing.T) {
	doc := string(must(os.ReadFile(filepath.Join(checkout(t), "docs/nodes.md")))(t))
	vectors := filepath.Join(checkout(t), "testdata/signatures.json")
	for _, language := range []struct {
		name string
		rows func(t *testing.T) string
	}{
		{"Python", func(t *testing.T) string {
			return output(t, nodesPython(t), filepath.Join(checkout(t), "e2e/testdata/nodes/signers.py"), vectors)
		}},
		{"JavaScript", func(t *testing.T) string {
			words := append(nodesJS(t, "e2e/testdata/nodes/signers.mjs"), vectors)
			return output(t, words[0], words[1:]...)
		}},
		{"Go", func(t *testing.T) string {
			return goRow(t, "go-ethereum (Go)", "crypto.Sign(digest, key)", "", func(key, digest []byte) []byte {
				return must(crypto.Sign(digest, must(crypto.ToECDSA(key))(t)))(t)
			}) + goRow(t, "decred secp256k1/v4 (Go)", "ecdsa.SignCompact(key, digest, false)", ", as the **first** byte", func(key, digest []byte) []byte {
				signature := ecdsa.SignCompact(secp256k1.PrivKeyFromBytes(key), digest, false)
				return append(signature[1:], signature[0])
			})
		}},
	} {
		t.Run(language.name, func(t *testing.T) {
			rows := strings.Split(strings.TrimSpace(language.rows(t)), "\n")
			if len(rows) < 2 {
				t.Fatalf("%d rows", len(rows))
			}
			for _, row := range rows {
				if !strings.Contains(doc, row+"\n") {
					t.Errorf("docs/nodes.md has no row\n%s", row)
				}
			}
		})
	}
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	r := must(runToEnd(exec.CommandContext(t.Context(), name, args...)))(t)
	if r.Code != 0 {
		t.Fatalf("%s %q: exit %d\n%s%s", name, args, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// goRow is the row of a library in Go, which signs the texts of the vectors as the file has it.
func goRow(t *testing.T, name, call, note string, sign func(key, digest []byte) []byte) string {
	t.Helper()
	seen := map[byte]bool{}
	for _, vector := range signedRegistrations(t) {
		for text, want := range map[string]string{
			"@" + vector.Body.Localpart + ":" + vector.ServerName: vector.Body.DisplayName[5:],
			vector.ServerName: vector.Body.Password,
		} {
			signature := sign(must(hex.DecodeString(vector.Key))(t), crypto.Keccak256([]byte(text)))
			seen[signature[64]] = true
			if signature[64] < 27 {
				signature[64] += 27
			}
			if got := hex.EncodeToString(signature); got != want {
				t.Errorf("%s signs %q as %s, not %s", name, text, got, want)
			}
		}
	}
	var given []string
	for v := range byte(29) {
		if seen[v] {
			given = append(given, fmt.Sprint(v))
		}
	}
	return fmt.Sprintf("| %s | `%s` | %s%s |\n", name, call, strings.Join(given, " or "), note)
}
