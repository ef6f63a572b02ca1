package doctor

import (
	"context"
	"slices"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// gatherServers asks each secrets server once for each role and method that is used of it.
func (n *Node) gatherServers(ctx context.Context, token secrets.Value) {
	for _, d := range n.Drivers {
		if d.ConfigErr != nil || d.Settings.Vault.Address == "" {
			continue
		}
		s := Server{Config: d.Settings.Vault, Mount: d.Settings.JWTMount, Role: d.Settings.JWTRole}
		s.Config.Timeout = askTimeout
		same := func(o Server) bool { return o.Config == s.Config && o.Mount == s.Mount && o.Role == s.Role }
		if slices.ContainsFunc(n.Servers, same) {
			continue
		}
		s.ask(ctx, token)
		n.Servers = append(n.Servers, s)
	}
}

func (s *Server) ask(ctx context.Context, token secrets.Value) {
	client, err := vault.New(s.Config)
	if err != nil {
		s.Err = err
		return
	}
	defer client.Close()
	if s.Health, s.Err = client.Health(ctx); s.Err != nil || s.Health.Sealed || !s.Health.Initialized {
		return
	}
	s.Login, s.Said = client.ProbeLogin(ctx, s.Mount, s.Role)
	if token.IsEmpty() {
		return
	}
	role, err := client.ReadJWTRole(ctx, s.Mount, s.Role, token)
	if err != nil {
		s.TokenErr = err
		return
	}
	s.JWTRole = &role
}
