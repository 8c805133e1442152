// docs_nodes_test.go owns that docs/nodes.md is true: its worked example, and the nodes that it shows.

package main

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"
)

func readNodesPage(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("docs/nodes.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// Each step of the worked example follows from the key and the server name, and is what the test vectors have.
func TestWorkedExample(t *testing.T) {
	page := readNodesPage(t)
	_, example, _ := strings.Cut(page, "\n### A worked example\n")
	example, _, _ = strings.Cut(example, "\n### ")
	var cells [][2]string
	for _, row := range regexp.MustCompile("(?m)^\\| ([^|]+?) \\| `([^`]+)` \\|$").FindAllStringSubmatch(example, -1) {
		cells = append(cells, [2]string{row[1], row[2]})
	}
	if len(cells) != 14 || cells[0][0] != "key" || cells[3][0] != "server name" {
		t.Fatalf("the example has another form: %q", cells)
	}
	key, err := crypto.HexToECDSA(cells[0][1])
	if err != nil {
		t.Fatal(err)
	}
	serverName := cells[3][1]
	proof, err := sign(key, serverName)
	if err != nil {
		t.Fatal(err)
	}
	public := crypto.FromECDSAPub(&key.PublicKey)[1:]
	want := []string{hex.EncodeToString(crypto.FromECDSA(key)), hex.EncodeToString(public), "0x" + hex.EncodeToString(crypto.Keccak256(public)[12:]), serverName}
	for text, signature := range map[string]string{"@" + proof.Localpart + ":" + serverName: proof.DisplayName[prefixDigits+1:], serverName: proof.Password} {
		steps := []string{text, hex.EncodeToString(crypto.Keccak256([]byte(text))), signature[:64], signature[64:128], signature[128:]}
		if text == serverName {
			want = append(want, steps...)
		} else {
			want = append(want[:4:4], append(steps, want[4:]...)...)
		}
	}
	for i, cell := range cells {
		if cell[1] != want[i] {
			t.Errorf("%s: the page has %s, want %s", cell[0], cell[1], want[i])
		}
	}
	body, _ := json.Marshal(proof)
	if !strings.Contains(example, "```json\n"+string(body)+"\n```\n") {
		t.Errorf("the page does not have the body %s", body)
	}
	vectors, err := os.ReadFile("testdata/signatures.json")
	if err != nil || !strings.Contains(string(vectors), proof.Password) {
		t.Errorf("the example is not among the test vectors (%v)", err)
	}
}

// The page shows each file of docs/nodes, whole.
func TestNodesPageShowsTheFiles(t *testing.T) {
	page := readNodesPage(t)
	files, err := filepath.Glob("docs/nodes/*")
	if err != nil || len(files) != 3 {
		t.Fatalf("got %q, %v, want three files", files, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		language := map[string]string{".py": "python", ".mjs": "js", ".go": "go"}[filepath.Ext(file)]
		if !strings.Contains(page, "```"+language+"\n"+string(content)+"```\n") {
			t.Errorf("docs/nodes.md does not show %s as it is", file)
		}
	}
}
