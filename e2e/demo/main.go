// Command demo shows what a newcomer gets: a homeserver, the gateway beside it, and a node with an account.
//
//	go run ./e2e/demo
//	go run ./e2e/demo -homeserver synapse-0.34.0
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e"
)

const (
	domain  = "demo.example"
	keyFile = "node.key"
)

func main() {
	name := flag.String("homeserver", e2e.Recipes[0].Name, "`NAME` of the homeserver")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *name); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// run shows one homeserver, in a scratch directory of which nothing is left.
func run(ctx context.Context, name string) (err error) {
	recipe, err := e2e.RecipeNamed(name)
	if err != nil {
		return err
	}
	if err := recipe.Installed(ctx); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "matrix-regservice-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	fmt.Println("$ go build")
	d, err := e2e.Prepare(ctx, e2e.Plan{Recipe: recipe, Domain: domain, Dir: dir})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			fmt.Fprint(os.Stderr, d.LogTails())
		}
		err = errors.Join(err, d.Close())
	}()
	if err := start(ctx, d); err != nil {
		return err
	}
	userID, err := enter(ctx, d)
	if err != nil {
		return err
	}
	if err := forge(ctx, d, userID); err != nil {
		return err
	}
	fmt.Printf("\nok: %s has an account on %s, and nobody without its key can get one\n", userID, recipe.Title)
	return nil
}

// start has genconfig write the gateway's files, and starts both servers.
func start(ctx context.Context, d *e2e.Deployment) error {
	fmt.Printf("$ matrix-regservice %s\n", strings.Join(d.Gateway.GenconfigCommand(), " "))
	printed, err := d.Genconfig(ctx)
	if err != nil {
		return err
	}
	for line := range strings.Lines(printed) {
		if strings.HasPrefix(line, "wrote ") { // what is left to do then has been done here
			fmt.Print(line)
		}
	}

	fmt.Printf("$ %s &\n", d.Homeserver.StartCommand())
	if err := d.Homeserver.Start(ctx); err != nil {
		return err
	}
	fmt.Printf("%s answers at %s\n", d.Plan.Recipe.Title, d.NodeURL)

	fmt.Println("$ ./run.sh &")
	if err := d.Gateway.Start(ctx); err != nil {
		return err
	}
	fmt.Printf("the service answers at %s\n", d.RegisterURL)
	return nil
}

// enter lets a new node in, and then once more with the same key.
func enter(ctx context.Context, d *e2e.Deployment) (userID string, err error) {
	for _, flag := range []string{"--generate", "--key"} {
		words := []string{"register", "--matrixdomain", domain, "--server", d.NodeURL, "--register-url", d.RegisterURL, flag, keyFile}
		fmt.Printf("$ matrix-regservice %s\n", strings.Join(words, " "))
		r, err := d.Program.Run(ctx, d.Homeserver.Dir, words...)
		if err != nil {
			return "", err
		}
		fmt.Print(r.Stdout, r.Stderr)
		if r.Code != 0 {
			return "", fmt.Errorf("%s: exit %d", words[0], r.Code)
		}
		line, _, _ := strings.Cut(r.Stdout, "\n")
		userID = strings.TrimSpace(strings.TrimPrefix(line, "node"))
	}
	return userID, nil
}

// forge asks for the node's name with the signatures of another key.
func forge(ctx context.Context, d *e2e.Deployment, userID string) error {
	thief, err := d.NewNode(ctx)
	if err != nil {
		return err
	}
	_, signature, _ := strings.Cut(thief.DisplayName, "-")
	thief.Localpart, _, _ = strings.Cut(strings.TrimPrefix(userID, "@"), ":")
	thief.DisplayName = thief.Localpart[2:6] + "-" + signature

	fmt.Printf("\nsomebody asks for the same name, signing with another key:\nPOST %s\n", d.RegisterURL)
	a, err := thief.Register(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%d %s\n", a.Status, a.Body)
	if a.Status != http.StatusBadRequest || a.Errcode != "M_INVALID_SIGNATURE" {
		return errors.New("it should have been refused with 400 M_INVALID_SIGNATURE")
	}
	return nil
}
