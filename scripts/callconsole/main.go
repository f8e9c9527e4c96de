// Callconsole is curl for the demo, since not every machine has one: it gets a
// URL with the JWT in the environment variable JWT and prints the answer.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	if err := call(os.Args[1:], os.Getenv("JWT")); err != nil {
		fmt.Fprintln(os.Stderr, "callconsole:", err)
		os.Exit(1)
	}
}

func call(args []string, jwt string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one URL, got %d arguments", len(args))
	}
	request, err := http.NewRequest(http.MethodGet, args[0], nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+jwt)
	response, err := (&http.Client{Timeout: 30 * time.Second}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	fmt.Println(response.Status)
	if _, err := io.Copy(os.Stdout, response.Body); err != nil || response.StatusCode == http.StatusOK {
		return err
	}
	return fmt.Errorf("the JWT does not open %s", args[0])
}
