package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// The two that are compared: names of plugins and of their mounts alike.
const (
	engineMount   = "engine"
	baselineMount = "baseline"
)

// settle is how long a process is left alone before its memory is read.
const settle = 3 * time.Second

// bench is one run.
type bench struct {
	options
	vault      *vault
	console    *consoletest.Console
	consoleURL string
	table      table
}

// turns is the order of a round: who goes first changes from round to round, so that neither always finds Vault as
// the other one left it.
func turns(round int) []string {
	if round%2 == 0 {
		return []string{engineMount, baselineMount}
	}
	return []string{baselineMount, engineMount}
}

func (b *bench) writeConfig(ctx context.Context) error {
	return b.vault.write(ctx, engineMount+"/config", map[string]any{
		"organization_id":   consoletest.DefaultOrganizationID,
		"api_key_id":        consoletest.DefaultAPIKeyID,
		"api_key":           consoletest.DefaultAPIKey,
		"console_url":       b.consoleURL,
		"verify_connection": false,
	})
}

func (b *bench) measure(ctx context.Context) error {
	begin := time.Now()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"comparing the answers and the binaries", b.compareAnswers},
		{"memory, and revoking leases: 100,000 reads of each in 10 turns", b.volume},
		{fmt.Sprintf("warm reads: %d rounds of %s for each, at 1, 16 and 64 readers", b.rounds, b.slice), b.warm},
		{"1,000 readers at once, on a cold mount", b.burst},
		{"a minute with a Console that takes 2 s for an exchange", b.slowConsole},
		{"10 and 10,000 roles", b.roles},
	} {
		fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(begin).Seconds(), step.what)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	fmt.Fprintf(os.Stderr, "%4.0f s  done\n", time.Since(begin).Seconds())
	fmt.Print(&b.table)
	return nil
}

// compareAnswers makes sure that what the two answer costs Vault the same, and adds the size of the binaries.
func (b *bench) compareAnswers(context.Context) error {
	size := map[string]float64{}
	fields := map[string]int{}
	for _, mount := range turns(0) {
		r, err := b.vault.newReader(mount + "/token")
		if err != nil {
			return err
		}
		body, err := r.read()
		r.connection.Close()
		if err != nil {
			return err
		}
		var answer struct {
			Data map[string]any `json:"data"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return fmt.Errorf("decoding the answer: %w", err)
		}
		size[mount], fields[mount] = float64(len(body)), len(answer.Data)
	}
	if ratio := size[engineMount] / size[baselineMount]; fields[engineMount] != fields[baselineMount] || ratio < 0.97 || ratio > 1.03 {
		return fmt.Errorf("the baseline no longer answers what the engine does: %v bytes, %v fields", size, fields)
	}

	binary := series{}
	for mount, program := range map[string]string{engineMount: b.engine, baselineMount: b.baseline} {
		info, err := os.Stat(program)
		if err != nil {
			return fmt.Errorf("looking at the binary: %w", err)
		}
		binary.add(mount, float64(info.Size())/1024)
	}
	b.table.compare("binary", binary, megabytes, -1.15)
	return b.compareMemory("memory at rest", memoryGoal)
}

// memoryGoal is an upper bound, as compare takes it.
const memoryGoal = -1.1

// compareMemory adds a row for the memory of both processes, now.
func (b *bench) compareMemory(figure string, goal float64) error {
	time.Sleep(settle)
	memory := series{}
	for _, mount := range turns(0) {
		process, err := b.vault.plugin(mount)
		if err != nil {
			return err
		}
		memory.add(mount, float64(process.rss))
	}
	b.table.compare(figure, memory, megabytes, goal)
	return nil
}
