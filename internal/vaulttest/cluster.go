package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/hashicorp/vault/api"
)

// Cluster is servers that share integrated storage.
type Cluster struct {
	Nodes []*Server // the first led when the cluster was started
}

// StartCluster starts a cluster, and waits until every node may vote. Storage is integrated storage, whatever the
// options say.
func StartCluster(ctx context.Context, nodes int, options Options) (_ *Cluster, err error) {
	options.Raft = true
	c := &Cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	for len(c.Nodes) < nodes {
		node, err := c.add(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("starting node %d of the cluster: %w", len(c.Nodes)+1, err)
		}
		c.Nodes = append(c.Nodes, node)
		options.auditLog = c.Nodes[0].AuditLog()
	}
	return c, c.awaitVoters(ctx)
}

// add starts one more node.
func (c *Cluster) add(ctx context.Context, options Options) (*Server, error) {
	if len(c.Nodes) == 0 {
		first, err := Start(ctx, options)
		if err != nil {
			return nil, err
		}
		// How long a node must have been there before it may vote: 10 s by default.
		if _, err := first.Client.Logical().WriteWithContext(ctx, "sys/storage/raft/autopilot/configuration",
			map[string]any{"server_stabilization_time": "1s"}); err != nil {
			return nil, errors.Join(fmt.Errorf("configuring autopilot: %w", err), first.Close())
		}
		return first, nil
	}
	node, err := launch(ctx, options)
	if err != nil {
		return nil, err
	}
	first := c.Nodes[0]
	node.unsealKeys = first.unsealKeys
	node.Client.SetToken(first.Client.Token())
	join := api.RaftJoinRequest{LeaderAPIAddr: first.address}
	if options.TLS {
		trusted, err := os.ReadFile(first.CACert())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("joining the cluster: %w", err), node.Close())
		}
		join.LeaderCACert = string(trusted)
	}
	if _, err = node.Client.Sys().RaftJoinWithContext(ctx, &join); err == nil {
		err = node.Unseal(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("joining the cluster: %w\n%s", err, node.Tail()), node.Close())
	}
	return node, nil
}

// awaitVoters waits until every node may vote.
func (c *Cluster) awaitVoters(ctx context.Context) error {
	first := c.Nodes[0]
	return first.wait(ctx, "every node of the cluster may vote", func() error {
		secret, err := first.Client.Logical().ReadWithContext(ctx, "sys/storage/raft/configuration")
		if err != nil {
			return err
		}
		config, _ := secret.Data["config"].(map[string]any)
		servers, _ := config["servers"].([]any)
		voters := 0
		for _, server := range servers {
			attributes, _ := server.(map[string]any)
			if voter, _ := attributes["voter"].(bool); voter {
				voters++
			}
		}
		if voters != len(c.Nodes) {
			return fmt.Errorf("%d of %d may", voters, len(c.Nodes))
		}
		return nil
	})
}

// Leader waits until one node leads and every running node follows it.
func (c *Cluster) Leader(ctx context.Context) (*Server, error) {
	running := slices.DeleteFunc(slices.Clone(c.Nodes), func(node *Server) bool { return !node.Running() })
	if len(running) == 0 {
		return nil, errors.New("no node of the cluster runs")
	}
	var leader *Server
	err := running[0].wait(ctx, "the cluster has a leader", func() error {
		leader = nil
		for _, node := range running {
			status, err := node.Client.Sys().LeaderWithContext(ctx)
			if err != nil {
				return err
			}
			if status.IsSelf {
				leader = node
			}
		}
		if leader == nil {
			return errors.New("no node leads")
		}
		for _, node := range running {
			status, err := node.Client.Sys().LeaderWithContext(ctx)
			if err != nil {
				return err
			}
			if status.LeaderAddress != leader.address {
				return errors.New("a node does not follow the leader yet")
			}
		}
		_, err := leader.Client.Sys().ListMountsWithContext(ctx)
		return err
	})
	return leader, err
}

// StepDown has the leader step down, and waits until another node leads.
func (c *Cluster) StepDown(ctx context.Context) (*Server, error) {
	old, err := c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	if err := old.Client.Sys().StepDownWithContext(ctx); err != nil {
		return nil, fmt.Errorf("stepping down: %w", err)
	}
	var leader *Server
	err = old.wait(ctx, "another node leads", func() error {
		next, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		if next == old {
			return errors.New("it is still the old one")
		}
		leader = next
		return nil
	})
	return leader, err
}

// RegisterPlugin adds a plugin's program to the plugin folder of every node, and registers it in the catalog.
func (c *Cluster) RegisterPlugin(ctx context.Context, p Plugin) error {
	for _, node := range c.Nodes {
		if err := node.AddPlugin(p); err != nil {
			return err
		}
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		return err
	}
	return leader.RegisterPlugin(ctx, p)
}

// Close ends all nodes, and removes their files.
func (c *Cluster) Close() error {
	errs := make([]error, len(c.Nodes))
	var wait sync.WaitGroup
	for i, node := range c.Nodes {
		wait.Go(func() { errs[i] = node.Close() })
	}
	wait.Wait()
	return errors.Join(errs...)
}
