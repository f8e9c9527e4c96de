// A client of Snowplow Console that takes its JWT from Vault. It asks Console
// for each path that it reads from standard input, and prints the answers.
//
//	export VAULT_ADDR=https://vault.example.com:8200   # and a login: VAULT_TOKEN
//	echo /api/msc/v1/organizations | go run ./examples/clients/go snowplow/token/analytics
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: go run ./examples/clients/go <path of the token, for example snowplow/token/analytics>")
	}
	vault, err := api.NewClient(api.DefaultConfig()) // VAULT_ADDR, VAULT_TOKEN, VAULT_CACERT, ...
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	console, err := newConsole(ctx, vault, os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	go console.keepFresh(ctx)

	paths := bufio.NewScanner(os.Stdin)
	for paths.Scan() {
		status, body, err := console.get(ctx, paths.Text())
		if err != nil {
			fmt.Println("error:", err)
			continue
		}
		fmt.Println(status, strings.TrimSpace(string(body)))
	}
}

// console calls Snowplow Console with a JWT from Vault.
type console struct {
	vault *api.Client
	path  string // of the token
	http  http.Client

	mu     sync.Mutex
	secret *api.Secret
}

func newConsole(ctx context.Context, vault *api.Client, path string) (*console, error) {
	c := &console{vault: vault, path: path, http: http.Client{Timeout: 30 * time.Second}}
	_, err := c.read(ctx)
	return c, err
}

// read reads a JWT from Vault. It may be the same as before: Vault hands out
// one JWT to many readers.
func (c *console) read(ctx context.Context) (*api.Secret, error) {
	secret, err := c.vault.Logical().ReadWithContext(ctx, c.path)
	if err != nil {
		return nil, err
	}
	if secret == nil {
		return nil, fmt.Errorf("there is nothing at %s: check the path", c.path)
	}
	for _, warning := range secret.Warnings {
		log.Print("Vault warns: ", warning)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secret = secret
	return secret, nil
}

func (c *console) current() *api.Secret {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.secret
}

// keepFresh reads again before the lease is over. The lease cannot be renewed,
// so that the watcher is done after 70 to 75 % of it.
func (c *console) keepFresh(ctx context.Context) {
	for {
		watcher, err := c.vault.NewLifetimeWatcher(&api.LifetimeWatcherInput{Secret: c.current()})
		if err != nil {
			log.Fatal(err) // only for what is not a lease
		}
		go watcher.Start()
		select {
		case <-ctx.Done():
			watcher.Stop()
			return
		case <-watcher.DoneCh():
		}
		for {
			_, err := c.read(ctx)
			if err == nil {
				break
			}
			// The JWT at hand is good for a quarter of its lease, still.
			log.Print("cannot read a new JWT, trying again in a minute: ", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Minute):
			}
		}
	}
}

// get asks Console. After a 401 it reads Vault once more: the key may have been
// replaced, or the cached JWT dropped. If Vault still has the same JWT, it is
// the key that has to be looked at, and asking again would not help.
func (c *console) get(ctx context.Context, path string) (int, []byte, error) {
	secret := c.current()
	status, body, err := c.send(ctx, path, secret)
	if err != nil || status != http.StatusUnauthorized {
		return status, body, err
	}
	again, err := c.read(ctx)
	if err != nil {
		return 0, nil, fmt.Errorf("after a 401 from Console, Vault could not be read: %w", err)
	}
	if again.Data["access_token"] == secret.Data["access_token"] {
		return 0, nil, errors.New("the JWT is refused, and Vault has no other: see vault read snowplow/status")
	}
	return c.send(ctx, path, again)
}

func (c *console) send(ctx context.Context, path string, secret *api.Secret) (int, []byte, error) {
	url, _ := secret.Data["console_url"].(string)
	jwt, _ := secret.Data["access_token"].(string)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+jwt)
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, body, err
}
