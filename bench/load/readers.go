package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// reader reads one path over a connection of its own. The request is always the same bytes: on a machine that Vault
// and the plugin share with it, the client must cost little.
type reader struct {
	connection net.Conn
	answers    *bufio.Reader
	request    []byte
}

func (v *vault) newReader(path string) (*reader, error) {
	address, err := url.Parse(v.Address())
	if err != nil {
		return nil, fmt.Errorf("connecting to Vault: %w", err)
	}
	var connection net.Conn
	if v.options.TLS {
		config := v.Client.CloneConfig().TLSConfig()
		config.NextProtos = nil // not HTTP/2
		connection, err = tls.Dial("tcp", address.Host, config)
	} else {
		connection, err = net.Dial("tcp", address.Host)
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to Vault: %w", err)
	}
	request := func(path string) []byte {
		return fmt.Appendf(nil, "GET /v1/%s HTTP/1.1\r\nHost: %s\r\nX-Vault-Token: %s\r\n\r\n", path, address.Host, v.Client.Token())
	}
	// A request that is not counted finds the connection new, which Vault closes if none comes for a while.
	r := &reader{connection: connection, answers: bufio.NewReader(connection), request: request("sys/seal-status")}
	if err := r.read(); err != nil {
		return nil, errors.Join(err, connection.Close())
	}
	r.request = request(path)
	return r, nil
}

func (r *reader) read() error {
	if _, err := r.connection.Write(r.request); err != nil {
		return fmt.Errorf("sending a read: %w", err)
	}
	response, err := http.ReadResponse(r.answers, nil)
	if err != nil {
		return fmt.Errorf("receiving the answer of a read: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("receiving the answer of a read: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("a read was answered with %s: %s", response.Status, body)
	}
	return nil
}

// readers is many that read the same path.
type readers []*reader

func (v *vault) newReaders(n int, path string) (readers, error) {
	var all readers
	for range n {
		r, err := v.newReader(path)
		if err != nil {
			all.close()
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func (all readers) close() {
	for _, r := range all {
		r.connection.Close()
	}
}

// together lets all of them read until more says no, and returns how long each read took, and all of them together.
func (all readers) together(more func(started time.Time, i, done int) bool) (each []time.Duration, whole time.Duration, err error) {
	took := make([][]time.Duration, len(all))
	failed := make([]error, len(all))
	begin := make(chan struct{})
	var started time.Time
	var wg sync.WaitGroup
	for i, r := range all {
		wg.Go(func() {
			<-begin
			for more(started, i, len(took[i])) {
				from := time.Now()
				if failed[i] = r.read(); failed[i] != nil {
					return
				}
				took[i] = append(took[i], time.Since(from))
			}
		})
	}
	started = time.Now()
	close(begin)
	wg.Wait()
	whole = time.Since(started)
	for i := range took {
		each = append(each, took[i]...)
	}
	return each, whole, errors.Join(failed...)
}

// readTimes lets n readers read a path that many times in all, and returns how long that takes once they are connected.
func (v *vault) readTimes(ctx context.Context, path string, n, times int) (time.Duration, error) {
	all, err := v.newReaders(n, path)
	if err != nil {
		return 0, err
	}
	defer all.close()
	_, whole, err := all.together(func(_ time.Time, i, done int) bool { return ctx.Err() == nil && done < (times+i)/n })
	return whole, errors.Join(err, ctx.Err())
}
