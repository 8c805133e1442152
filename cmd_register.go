// cmd_register.go owns the node's side: it logs in, registers and logs in again as a node does. The demo, the end-to-end tests
// and operators who try their setup use it.

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
	"github.com/ethereum/go-ethereum/accounts/keystore"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/google/uuid"
	"github.com/urfave/cli/v3"
)

const (
	flagServer       = "server"
	flagRegisterURL  = "register-url"
	flagKey          = "key"
	flagKeystore     = "keystore"
	flagPasswordFile = "password-file"
	flagGenerate     = "generate"
	flagPrint        = "print"
	flagJSON         = "json"

	stepRegister = "register"

	nodeCallTime = answerTime + 5*time.Second
)

func registerCommand() *cli.Command {
	return &cli.Command{
		Name:      "register",
		Usage:     "be a node: log in, register if need be, log in again, log out",
		UsageText: programName + " --matrixdomain NAME register --generate FILE",
		Description: "Exits with 0 when every step succeeded, and with 1 and the step that failed otherwise.\n" +
			"The key is 64 hex digits in a file, or an Ethereum V3 keystore with its password in another; anyone who has it has the account.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: flagServer, Value: "http://127.0.0.1:8008", Usage: "`URL` where nodes reach the homeserver"},
			&cli.StringFlag{Name: flagRegisterURL, Usage: "`URL` to register at (default: " + registerPath + " at --" + flagServer + ")"},
			&cli.StringFlag{Name: flagKey, Usage: "`FILE` of the node's private key, 64 hex digits"},
			&cli.StringFlag{Name: flagKeystore, Usage: "`FILE` of the node's private key, an Ethereum V3 keystore"},
			&cli.StringFlag{Name: flagPasswordFile, Usage: "`FILE` whose first line is the keystore's password"},
			&cli.StringFlag{Name: flagGenerate, Usage: "`FILE` to write a new private key to, a keystore where --" + flagPasswordFile + " is given; it must not exist"},
			&cli.BoolFlag{Name: flagPrint, Usage: "only print the signed body, password included, and send nothing"},
			&cli.BoolFlag{Name: flagJSON, Usage: "print one JSON object at the end instead of a line a step"},
		},
		Action: registerAction,
	}
}

func registerAction(ctx context.Context, cmd *cli.Command) error {
	given := config.ReadValues(cmd)
	if given.Err() != nil {
		return given.Err()
	}
	serverName := given.Text(config.FlagMatrixDomain)
	if err := config.CheckServerName(serverName); err != nil {
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
	key, err := nodeKey(cmd)
	if err != nil {
		return err
	}
	proof, err := sign(key, serverName)
	if err != nil {
		return err
	}
	out := cmd.Root().Writer
	if cmd.Bool(flagPrint) {
		return json.NewEncoder(out).Encode(proof)
	}
	for flag, given := range map[string]string{flagServer: server, flagRegisterURL: registerURL} {
		if u, err := url.Parse(given); err == nil && names.IsPlainRemote(u) && (flag == flagServer || u.Host != names.URLHost(server)) {
			fmt.Fprintf(cmd.Root().ErrWriter, "%s: warning: --%s is plain http to another machine: anyone on the way can read the password, which can never be changed: use https\n", programName, flag)
		}
	}
	client := newNodeClient(server, registerURL, serverName, proof)
	if !cmd.Bool(flagJSON) {
		client.out = out
		return client.enter(ctx, proof)
	}
	client.out = io.Discard
	failed := client.enter(ctx, proof)
	return errors.Join(failed, client.writeReport(out, names.UserID(proof.Localpart, serverName), failed))
}

// baseURL checks a URL that paths are appended to.
func baseURL(flag, given string) (string, error) {
	u, err := url.Parse(given)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("--%s is not an absolute http or https URL: give one such as http://127.0.0.1:8008", flag)
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

// nodeKey reads the private key, or makes one. It writes a new key to its file before anything uses it: an account is lost
// for good with its key.
func nodeKey(cmd *cli.Command) (*ecdsa.PrivateKey, error) {
	file, store, generate := cmd.String(flagKey), cmd.String(flagKeystore), cmd.String(flagGenerate)
	given := 0
	for _, name := range []string{file, store, generate} {
		if name != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return nil, fmt.Errorf("--%s, --%s and --%s exclude each other: the last makes a new key", flagKey, flagKeystore, flagGenerate)
	case given == 0:
		return nil, fmt.Errorf("there is no key: give --%s FILE or --%s FILE, or --%s FILE for a new one", flagKey, flagKeystore, flagGenerate)
	case file != "":
		return readKey(file)
	}
	password, err := keystorePassword(cmd.String(flagPasswordFile), store != "")
	if err != nil {
		return nil, err
	}
	if generate != "" {
		return generateKey(generate, password)
	}
	content, err := files.Read(store)
	if err != nil {
		return nil, fmt.Errorf("read the keystore: %w", err)
	}
	key, err := decryptKey([]byte(files.WithoutMark(string(content))), password)
	switch {
	case errors.Is(err, keystore.ErrDecrypt):
		return nil, fmt.Errorf("%s cannot be decrypted: is the first line of --%s its password?", store, flagPasswordFile)
	case errors.Is(err, errCostly), errors.Is(err, errOtherAddress):
		return nil, fmt.Errorf("%s %w", store, err)
	case err != nil:
		return nil, fmt.Errorf("%s is not an Ethereum V3 keystore", store)
	}
	return key.PrivateKey, nil
}

// Bounds of a keystore's parameters. geth's own take 256 MiB; memory beyond that of the machine ends a Go program at once.
const (
	keystoreMemory = 1 << 30  // bytes
	keystoreWork   = 1 << 24  // n·r·p of scrypt, eight times as much as geth's
	keystoreRounds = 10 << 20 // of pbkdf2, forty times as many as geth's
	keystoreLength = 1 << 10  // of the derived key, of which 32 bytes are used
)

var (
	errCostly       = errors.New("asks for more memory or time than a keystore needs: geth's defaults take 256 MiB (n 262144, r 8, p 1); make it again with those")
	errOtherAddress = errors.New("has an address that is not its key's: it was changed, or combined from two; give the keystore of the right node")
)

// checkCost refuses parameters of the key's derivation that the machine has no room for.
func checkCost(c keystore.CryptoJSON) error {
	number := func(key string) float64 {
		value, _ := c.KDFParams[key].(float64) // go-ethereum takes no other
		return value
	}
	n, r, p := number("n"), number("r"), number("p")
	switch {
	case 128*n*r > keystoreMemory, 128*r*p > keystoreMemory, n*r*p > keystoreWork, number("c") > keystoreRounds, number("dklen") > keystoreLength:
		return errCostly
	}
	return nil
}

// decryptKey is keystore.DecryptKey without its panic, go-ethereum 1.17 panics on a keystore that lacks a field, and with what it
// leaves out: bounds, and that the address is the key's.
func decryptKey(content []byte, password string) (key *keystore.Key, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("a field is missing or of another type")
		}
	}()
	var file struct {
		Address string              `json:"address"`
		Crypto  keystore.CryptoJSON `json:"crypto"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, err
	}
	if err := checkCost(file.Crypto); err != nil {
		return nil, err
	}
	if key, err = keystore.DecryptKey(content, password); err != nil {
		return nil, err
	}
	own := hex.EncodeToString(key.Address[:])
	if file.Address != "" && !strings.EqualFold(strings.TrimPrefix(file.Address, "0x"), own) { // some leave it out, to tell nobody
		return nil, errOtherAddress
	}
	return key, nil
}

// keystorePassword is the first line of the file, as geth reads it.
func keystorePassword(path string, required bool) (string, error) {
	if path == "" && !required {
		return "", nil
	}
	if path == "" {
		return "", fmt.Errorf("--%s is missing: name the file that holds the keystore's password", flagPasswordFile)
	}
	content, err := files.Read(path)
	if err != nil {
		return "", fmt.Errorf("read the keystore's password: %w", err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", fmt.Errorf("%s has an empty first line: it should be the keystore's password", path)
	}
	return line, files.RefuseMark(path, line) // geth takes it for a part of the password
}

// readKey reads a key in hex.
func readKey(path string) (*ecdsa.PrivateKey, error) {
	content, err := files.Read(path)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	key, err := crypto.HexToECDSA(strings.TrimPrefix(strings.TrimSpace(files.WithoutMark(string(content))), "0x"))
	if err != nil { // which is not wrapped: it quotes from the file
		return nil, fmt.Errorf("%s does not hold a private key: it should be 64 hex digits", path)
	}
	return key, nil
}

// generateKey makes a key and writes it, as a keystore where there is a password for it.
func generateKey(path, password string) (*ecdsa.PrivateKey, error) {
	key, err := crypto.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("generate a key: %w", err)
	}
	content := []byte(hex.EncodeToString(crypto.FromECDSA(key)) + "\n")
	if password != "" {
		id, err := uuid.NewRandom()
		if err != nil {
			return nil, fmt.Errorf("generate a key: %w", err)
		}
		whole := &keystore.Key{Id: id, Address: crypto.PubkeyToAddress(key.PublicKey), PrivateKey: key}
		if content, err = keystore.EncryptKey(whole, password, keystore.StandardScryptN, keystore.StandardScryptP); err != nil {
			return nil, fmt.Errorf("encrypt the key: %w", err)
		}
	}
	if err := files.WriteNew(path, content); errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%w: use it with --%s, or give another name", err, flagKey)
	} else if err != nil {
		return nil, err
	}
	return key, nil
}

// A nodeClient makes a node's calls and prints each step.
type nodeClient struct {
	server      string
	registerURL string
	serverName  string
	secrets     []string // a server may repeat them, and nobody should see them
	http        *http.Client
	out         io.Writer
	steps       []nodeStep
}

// A nodeStep is one call that was made, as --json prints it.
type nodeStep struct {
	Step       string `json:"step"`
	Status     int    `json:"status"`
	Errcode    string `json:"errcode,omitempty"`
	Error      string `json:"error,omitempty"`
	DurationMS int64  `json:"duration_ms"`
}

func newNodeClient(server, registerURL, serverName string, proof registration) *nodeClient {
	return &nodeClient{
		server: server, registerURL: registerURL, serverName: serverName, out: io.Discard,
		http:    homeserver.NewHTTPClient(homeserver.ClientOptions{HeaderTime: nodeCallTime}),
		secrets: []string{proof.Password, proof.DisplayName[prefixDigits+1:]},
	}
}

// writeReport prints all steps as one JSON object.
func (c *nodeClient) writeReport(out io.Writer, userID string, failed error) error {
	report := struct {
		OK     bool       `json:"ok"`
		UserID string     `json:"user_id"`
		Steps  []nodeStep `json:"steps"`
		Error  string     `json:"error,omitempty"`
	}{OK: failed == nil, UserID: userID, Steps: c.steps}
	if failed != nil {
		report.Error = failed.Error()
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(report)
}

// A nodeAnswer is what a node reads of an answer.
type nodeAnswer struct {
	status  int
	UserID  string `json:"user_id"`
	Token   string `json:"access_token"`
	Errcode string `json:"errcode"`
	Message string `json:"error"`
}

// enter does what a node does at start: it registers only when its login is refused, and then logs in again. At the
// end it logs out, so that a check leaves no session behind.
func (c *nodeClient) enter(ctx context.Context, proof registration) error {
	userID := names.UserID(proof.Localpart, c.serverName)
	fmt.Fprintf(c.out, "%-9s %s\n", "node", userID)

	login := map[string]string{"type": "m.login.password", "user": proof.Localpart, "password": proof.Password}
	answer, err := c.step(ctx, "login", c.server+homeserver.LoginPath, "", login)
	if err != nil {
		return err
	}
	if answer.status == http.StatusForbidden {
		answer, err = c.step(ctx, stepRegister, c.registerURL, "", proof)
		if err := stepResult(stepRegister, answer, err, userID); err != nil {
			return err
		}
		answer, err = c.step(ctx, "login", c.server+homeserver.LoginPath, "", login)
	}
	if err := stepResult("login", answer, err, userID); err != nil {
		return err
	}
	answer, err = c.step(ctx, "logout", c.server+homeserver.LogoutPath, answer.Token, struct{}{})
	answer.UserID = userID // the answer does not name it
	return stepResult("logout", answer, err, userID)
}

// step makes one call and prints its outcome.
func (c *nodeClient) step(ctx context.Context, name, to, token string, body any) (nodeAnswer, error) {
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
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Close = true // nodes send Connection: close

	start := time.Now()
	res, err := c.http.Do(req)
	if err != nil && c.hintOfTLS(ctx, to, err) != "" {
		return nodeAnswer{}, fmt.Errorf("%s failed: %s: %s", name, redact.Mask(redact.Line(err.Error(), c.secrets...)), c.hintOfTLS(ctx, to, err))
	}
	if err != nil {
		return nodeAnswer{}, fmt.Errorf("%s failed: %s: are --%s and --%s the URLs that nodes use, and do the servers there run?", name, redact.Mask(redact.Line(err.Error(), c.secrets...)), flagServer, flagRegisterURL)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(io.LimitReader(res.Body, homeserver.AnswerLimit))
	if err != nil {
		return nodeAnswer{}, fmt.Errorf("%s failed: the answer broke off: %s", name, redact.Mask(redact.Line(err.Error(), c.secrets...)))
	}
	took := time.Since(start)
	answer := nodeAnswer{status: res.StatusCode}
	if res.StatusCode/100 == 3 {
		answer.Message = fmt.Sprintf("it redirects to %s, which is not followed, since the password goes along: give --%s the URL that it leads to",
			cmp.Or(homeserver.RedirectsTo(res, c.secrets...), "nowhere"), cmp.Or(map[string]string{stepRegister: flagRegisterURL}[name], flagServer))
	} else if json.Unmarshal(content, &answer) != nil {
		answer = nodeAnswer{status: res.StatusCode, Message: "the answer is not JSON: is this the right server, and does the server behind it run?"}
	}
	if res.StatusCode == http.StatusBadRequest {
		answer.Message = cmp.Or(c.hintOfTLS(ctx, to, nil), answer.Message)
	}
	for _, text := range []*string{&answer.UserID, &answer.Errcode, &answer.Message} {
		*text = redact.Line(*text, c.secrets...)
	}
	c.steps = append(c.steps, nodeStep{name, answer.status, answer.Errcode, answer.Message, took.Milliseconds()})
	fmt.Fprintf(c.out, "%-9s %s (%v)\n", name, answer, took.Round(time.Millisecond))
	return answer, nil
}

// hintOfTLS says what to do about a call that failed between TLS and plain HTTP; "" where that is not the reason.
func (c *nodeClient) hintOfTLS(ctx context.Context, to string, err error) string {
	u, parseErr := url.Parse(to)
	switch {
	case parseErr != nil:
		return ""
	case homeserver.IsUntrusted(err):
		return homeserver.TrustHint(err)
	case homeserver.IsPlain(err):
		return "this port speaks plain HTTP: give http://" + u.Host
	case u.Scheme == "https":
		return ""
	}
	port := strconv.Itoa(names.URLPort(to))
	if host, speaks := homeserver.SpeaksTLS(ctx, net.JoinHostPort(u.Hostname(), port), c.serverName); speaks {
		return "this port speaks TLS: give https://" + net.JoinHostPort(cmp.Or(host, u.Hostname()), port)
	}
	return ""
}

func (a nodeAnswer) String() string {
	return strings.Join(strings.Fields(fmt.Sprintf("%d %s %s %s", a.status, a.UserID, a.Errcode, a.Message)), " ")
}

// stepResult returns nil if the step ended as a node needs it.
func stepResult(name string, answer nodeAnswer, err error, userID string) error {
	switch {
	case err != nil:
		return err
	case answer.status/100 != 2 && name == stepRegister:
		return fmt.Errorf("%s failed: %s; the reason is in the service's log, or type: %s %s", name, answer, programName, checkName)
	case answer.status/100 != 2:
		return fmt.Errorf("%s failed: %s", name, answer)
	case answer.UserID != userID:
		return fmt.Errorf("%s failed: the answer is for the user ID %q: is --%s the homeserver's server_name?", name, answer.UserID, config.FlagMatrixDomain)
	}
	return nil
}
