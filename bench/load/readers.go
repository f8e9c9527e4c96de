package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
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
	host := strings.TrimPrefix(v.Address(), "http://")
	connection, err := net.Dial("tcp", host)
	if err != nil {
		return nil, fmt.Errorf("connecting to Vault: %w", err)
	}
	return &reader{
		connection: connection,
		answers:    bufio.NewReader(connection),
		request:    fmt.Appendf(nil, "GET /v1/%s HTTP/1.1\r\nHost: %s\r\nX-Vault-Token: %s\r\n\r\n", path, host, v.Client.Token()),
	}, nil
}

func (r *reader) read() (body []byte, err error) {
	if _, err := r.connection.Write(r.request); err != nil {
		return nil, fmt.Errorf("sending a read: %w", err)
	}
	response, err := http.ReadResponse(r.answers, nil)
	if err != nil {
		return nil, fmt.Errorf("receiving the answer of a read: %w", err)
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("receiving the answer of a read: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("a read was answered with %s: %s", response.Status, body)
	}
	return body, nil
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
				if _, failed[i] = r.read(); failed[i] != nil {
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

// readFor lets n readers read token of a mount for a while. The first read of each, which finds its connection new, is
// not counted.
func (v *vault) readFor(ctx context.Context, mount string, n int, d time.Duration) ([]time.Duration, time.Duration, error) {
	all, err := v.newReaders(n, mount+"/token")
	if err != nil {
		return nil, 0, err
	}
	defer all.close()
	if _, _, err := all.together(func(_ time.Time, _, done int) bool { return done < 1 }); err != nil {
		return nil, 0, err
	}
	each, whole, err := all.together(func(started time.Time, _, _ int) bool { return ctx.Err() == nil && time.Since(started) < d })
	return each, whole, errors.Join(err, ctx.Err())
}

// readTimes lets n readers read token of a mount that many times in all.
func (v *vault) readTimes(ctx context.Context, mount string, n, times int) (time.Duration, error) {
	all, err := v.newReaders(n, mount+"/token")
	if err != nil {
		return 0, err
	}
	defer all.close()
	_, whole, err := all.together(func(_ time.Time, i, done int) bool {
		share := times / n
		if i < times%n {
			share++
		}
		return ctx.Err() == nil && done < share
	})
	return whole, errors.Join(err, ctx.Err())
}
