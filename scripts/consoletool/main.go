// Consoletool stands in for snowplow-cli in the demo, where that is not installed: it exchanges the API key pair in its
// environment for a JWT, as "snowplow-cli status" does, and prints the organizations that the JWT opens.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	if err := status(); err != nil {
		fmt.Fprintln(os.Stderr, "consoletool:", err)
		os.Exit(1)
	}
}

func status() error {
	organizations := os.Getenv("SNOWPLOW_CONSOLE_HOST") + "/api/msc/v1/organizations"
	body, err := get(organizations+"/"+os.Getenv("SNOWPLOW_CONSOLE_ORG_ID")+"/credentials/v3/token", map[string]string{
		"X-API-Key-ID": os.Getenv("SNOWPLOW_CONSOLE_API_KEY_ID"),
		"X-API-Key":    os.Getenv("SNOWPLOW_CONSOLE_API_KEY"),
	})
	if err != nil {
		return err
	}
	var answer struct{ AccessToken string }
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	if body, err = get(organizations, map[string]string{"Authorization": "Bearer " + answer.AccessToken}); err != nil {
		return err
	}
	_, err = os.Stdout.Write(body)
	return err
}

func get(url string, header map[string]string) ([]byte, error) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := (&http.Client{Timeout: 30 * time.Second}).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return body, err
}
