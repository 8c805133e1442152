// A node enters: go run node.go http://127.0.0.1:8008 SERVER_NAME KEY_FILE
package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/crypto" // go get github.com/ethereum/go-ethereum
)

type fields map[string]string

func main() {
	url, serverName, keyFile := os.Args[1], os.Args[2], os.Args[3]
	key, err := crypto.LoadECDSA(keyFile)
	check(err)
	sign := func(text string) string {
		signature, err := crypto.Sign(crypto.Keccak256([]byte(text)), key) // r, s, and v as 0 or 1
		check(err)
		signature[64] += 27
		return hex.EncodeToString(signature)
	}
	localpart := strings.ToLower(crypto.PubkeyToAddress(key.PublicKey).Hex())
	displayname := localpart[2:6] + "-" + sign("@"+localpart+":"+serverName)
	proof := fields{"localpart": localpart, "displayname": displayname, "password": sign(serverName)}
	login := fields{"type": "m.login.password", "user": localpart, "password": proof["password"]}

	status, answer := post(url+"/_matrix/client/r0/login", login)
	if status == http.StatusForbidden {
		status, answer = post(url+"/regapp/1/register", proof)
		if status == http.StatusOK {
			status, answer = post(url+"/_matrix/client/r0/login", login)
		}
	}
	if status != http.StatusOK {
		log.Fatalf("%d %s", status, answer)
	}
	var session struct {
		UserID string `json:"user_id"`
	}
	check(json.Unmarshal(answer, &session))
	fmt.Println(session.UserID)
}

func post(url string, body fields) (int, []byte) {
	text, err := json.Marshal(body)
	check(err)
	client := http.Client{Timeout: time.Minute}
	response, err := client.Post(url, "application/json", bytes.NewReader(text))
	check(err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	check(err)
	return response.StatusCode, answer
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
