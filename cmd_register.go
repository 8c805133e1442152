// cmd_register.go owns the node's side: it logs in, registers and logs in again as a node does. It is what the
// demo, the end-to-end tests and an operator's smoke test use.

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/urfave/cli/v3"
)

const (
	flagServer      = "server"
	flagRegisterURL = "register-url"
	flagKey         = "key"
	flagGenerate    = "generate"
	flagPrint       = "print"

	loginPath = "/_matrix/client/r0/login"

	nodeCallTime = waitTime + attemptTime + 5*time.Second // longer than the service may take over an answer
)

func registerCommand() *cli.Command {
	return &cli.Command{
		Name:      "register",
		Usage:     "be a node: log in, register if need be, log in again",
		UsageText: programName + " --matrixdomain NAME register --generate FILE",
		Description: "Exits with 0 when the last login succeeded, and with 1 and the step that failed otherwise.\n" +
			"The key is 64 hex digits in a file; whoever has it has the account.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: flagServer, Value: "http://127.0.0.1:8008", Usage: "`URL` where nodes reach the homeserver"},
			&cli.StringFlag{Name: flagRegisterURL, Usage: "`URL` to register at (default: " + registerPath + " at --" + flagServer + ")"},
			&cli.StringFlag{Name: flagKey, Usage: "`FILE` of the node's private key"},
			&cli.StringFlag{Name: flagGenerate, Usage: "`FILE` to write a new private key to; it must not exist"},
			&cli.BoolFlag{Name: flagPrint, Usage: "only print the signed body, password included, and send nothing"},
		},
		Action: registerAction,
	}
}

func registerAction(ctx context.Context, cmd *cli.Command) error {
	c, err := readConfig(cmd)
	if err != nil {
		return err
	}
	server, err := baseURL(flagServer, cmd.String(flagServer))
	if err != nil {
		return err
	}
	registerURL := server + registerPath
	if given := cmd.String(flagRegisterURL); given != "" {
		if registerURL, err = baseURL(flagRegisterURL, given); err != nil {
			return err
		}
	}
	key, err := nodeKey(cmd.String(flagKey), cmd.String(flagGenerate))
	if err != nil {
		return err
	}
	proof, err := sign(key, c.serverName)
	if err != nil {
		return err
	}
	out := cmd.Root().Writer
	if cmd.Bool(flagPrint) {
		return json.NewEncoder(out).Encode(proof)
	}
	return newNodeClient(server, registerURL, c.serverName, proof, out).enter(ctx, proof)
}

// baseURL checks a URL that paths are put behind.
func baseURL(flag, given string) (string, error) {
	u, err := url.Parse(given)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("--%s is not an absolute http or https URL: give one such as http://127.0.0.1:8008", flag)
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

// nodeKey reads the private key, or makes one and writes it before it is used: an account whose key is lost is
// lost for good.
func nodeKey(file, generate string) (*ecdsa.PrivateKey, error) {
	switch {
	case file != "" && generate != "":
		return nil, fmt.Errorf("--%s and --%s are both given: --%s makes a new key", flagKey, flagGenerate, flagGenerate)
	case generate != "":
		key, err := crypto.GenerateKey()
		if err != nil {
			return nil, fmt.Errorf("generate a key: %w", err)
		}
		return key, writeNewFile(generate, []byte(hex.EncodeToString(crypto.FromECDSA(key))+"\n"))
	case file == "":
		return nil, fmt.Errorf("there is no key: give --%s FILE, or --%s FILE for a new one", flagKey, flagGenerate)
	}
	content, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	key, err := crypto.HexToECDSA(strings.TrimPrefix(strings.TrimSpace(string(content)), "0x"))
	if err != nil { // which is not wrapped: it quotes from the file
		return nil, fmt.Errorf("%s does not hold a private key: it should be 64 hex digits", file)
	}
	return key, nil
}

// writeNewFile writes a secret to a file that must not exist, and leaves none behind when it cannot.
func writeNewFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w: use it with --%s, or give another name", err, flagKey)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

// A nodeClient makes a node's calls and prints each step.
type nodeClient struct {
	server      string
	registerURL string
	serverName  string
	secrets     []string // that a server may repeat and nobody should see
	out         io.Writer
}

func newNodeClient(server, registerURL, serverName string, proof registration, out io.Writer) *nodeClient {
	return &nodeClient{
		server: server, registerURL: registerURL, serverName: serverName, out: out,
		secrets: []string{proof.Password, proof.DisplayName[prefixDigits+1:]},
	}
}

// A nodeAnswer is what a node reads of an answer.
type nodeAnswer struct {
	status  int
	UserID  string `json:"user_id"`
	Errcode string `json:"errcode"`
	Message string `json:"error"`
}

// enter does what a node does at start: it registers only when its login is refused, and then logs in again.
func (c *nodeClient) enter(ctx context.Context, proof registration) error {
	userID := userIDOf(proof.Localpart, c.serverName)
	fmt.Fprintf(c.out, "%-9s %s\n", "node", userID)

	login := map[string]string{"type": "m.login.password", "user": proof.Localpart, "password": proof.Password}
	answer, err := c.step(ctx, "login", c.server+loginPath, login)
	if err != nil {
		return err
	}
	if answer.status == http.StatusForbidden {
		answer, err = c.step(ctx, "register", c.registerURL, proof)
		if err := stepResult("register", answer, err, userID); err != nil {
			return err
		}
		answer, err = c.step(ctx, "login", c.server+loginPath, login)
	}
	return stepResult("login", answer, err, userID)
}

// step makes one call and prints what came of it.
func (c *nodeClient) step(ctx context.Context, name, to string, body any) (nodeAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, nodeCallTime)
	defer cancel()
	payload, err := json.Marshal(body)
	if err != nil {
		return nodeAnswer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(payload))
	if err != nil {
		return nodeAnswer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true // nodes send Connection: close

	start := time.Now()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nodeAnswer{}, fmt.Errorf("%s failed: %w", name, err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(io.LimitReader(res.Body, answerLimit))
	if err != nil {
		return nodeAnswer{}, fmt.Errorf("%s failed: the answer broke off: %w", name, err)
	}
	answer := nodeAnswer{status: res.StatusCode}
	if json.Unmarshal(content, &answer) != nil {
		answer.UserID, answer.Errcode = "", ""
		answer.Message = "the answer is not JSON: is this the right server, and does what is behind it run?"
	}
	for _, text := range []*string{&answer.UserID, &answer.Errcode, &answer.Message} {
		*text = printable(*text, c.secrets...)
	}
	fmt.Fprintf(c.out, "%-9s %s (%v)\n", name, answer, time.Since(start).Round(time.Millisecond))
	return answer, nil
}

func (a nodeAnswer) String() string {
	return strings.Join(strings.Fields(fmt.Sprintf("%d %s %s %s", a.status, a.UserID, a.Errcode, a.Message)), " ")
}

// stepResult tells whether a step ended as a node needs it.
func stepResult(name string, answer nodeAnswer, err error, userID string) error {
	switch {
	case err != nil:
		return err
	case answer.status/100 != 2:
		return fmt.Errorf("%s failed: %s", name, answer)
	case answer.UserID != userID:
		return fmt.Errorf("%s failed: the answer is for the user ID %q: is --%s the homeserver's server_name?", name, answer.UserID, flagMatrixDomain)
	}
	return nil
}
