package harness

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// What an operator does once, as methods. Each may be called again, also by several tests at once: a
// mount that exists is kept.

// EnableKV1 mounts a KV version 1 engine.
func (v *Vault) EnableKV1(ctx context.Context, mount string) error {
	return v.mount(ctx, mount, &api.MountInput{Type: "kv", Options: map[string]string{"version": "1"}})
}

// EnableKV2 mounts a KV version 2 engine and waits until it serves: it upgrades itself first.
func (v *Vault) EnableKV2(ctx context.Context, mount string) error {
	if err := v.mount(ctx, mount, &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}); err != nil {
		return err
	}
	return Until(ctx, "KV v2 at "+mount, func() error {
		_, err := v.client.Logical().ReadWithContext(ctx, mount+"/config")
		return err
	})
}

// PutKV1 writes a secret of a KV v1 mount.
func (v *Vault) PutKV1(ctx context.Context, mount, path string, fields map[string]any) error {
	return v.client.KVv1(mount).Put(ctx, path, fields)
}

// PutKV2 writes a new version of a secret of a KV v2 mount, as `vault kv put` does.
func (v *Vault) PutKV2(ctx context.Context, mount, path string, fields map[string]any) error {
	_, err := v.client.KVv2(mount).Put(ctx, path, fields)
	return err
}

// EnableDatabase mounts a database engine that may make users in db, as the connection "mariadb".
func (v *Vault) EnableDatabase(ctx context.Context, mount string, db *MariaDB) error {
	v.setup.Lock()
	defer v.setup.Unlock()
	made, err := v.mountLocked(ctx, mount, &api.MountInput{Type: "database"})
	if err != nil || !made { // to configure it again would break the connections of other tests
		return err
	}
	return v.write(ctx, mount+"/config/mariadb", map[string]any{
		"plugin_name":    "mysql-database-plugin",
		"connection_url": "{{username}}:{{password}}@tcp(" + db.Addr + ")/",
		"username":       db.AdminUser,
		"password":       db.AdminPassword,
		"allowed_roles":  "*",
	})
}

// DatabaseRole makes mount/creds/name give users that live for ttl and can be renewed up to maxTTL.
func (v *Vault) DatabaseRole(ctx context.Context, mount, name string, ttl, maxTTL time.Duration) error {
	return v.write(ctx, mount+"/roles/"+name, map[string]any{
		"db_name": "mariadb",
		"creation_statements": []string{
			"CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
			"GRANT SELECT ON *.* TO '{{name}}'@'%'",
		},
		"revocation_statements": []string{"DROP USER IF EXISTS '{{name}}'@'%'"},
		"default_ttl":           ttl.String(),
		"max_ttl":               maxTTL.String(),
	})
}

// EnablePKI mounts a PKI engine with a root certificate, and a role that issues for names below
// example.com.
func (v *Vault) EnablePKI(ctx context.Context, mount, role string) error {
	err := v.mount(ctx, mount, &api.MountInput{Type: "pki", Config: api.MountConfigInput{MaxLeaseTTL: "87600h"}})
	if err != nil {
		return err
	}
	err = v.write(ctx, mount+"/root/generate/internal", map[string]any{
		"common_name": "e2e root", "ttl": "87600h", "key_type": "ec", "key_bits": 256,
	})
	if err != nil {
		return err
	}
	return v.write(ctx, mount+"/roles/"+role, map[string]any{
		"allowed_domains": "example.com", "allow_subdomains": true,
		"key_type": "ec", "key_bits": 256, "max_ttl": "72h",
	})
}

// Policy writes an ACL policy.
func (v *Vault) Policy(ctx context.Context, name, hcl string) error {
	return v.client.Sys().PutPolicyWithContext(ctx, name, hcl)
}

// TrustNomad lets the workload identities of agent log in at its auth path. The agent must be up:
// Vault reads its keys.
func (v *Vault) TrustNomad(ctx context.Context, agent *Agent) error {
	mounts, err := v.client.Sys().ListAuthWithContext(ctx)
	if err != nil {
		return err
	}
	if mounts[agent.AuthPath+"/"] == nil {
		err := v.client.Sys().EnableAuthWithOptionsWithContext(ctx, agent.AuthPath, &api.EnableAuthOptions{Type: "jwt"})
		if err != nil {
			return fmt.Errorf("enable the JWT auth method at %s: %w", agent.AuthPath, err)
		}
	}
	return v.write(ctx, "auth/"+agent.AuthPath+"/config", map[string]any{
		"jwks_url":           agent.Addr + "/.well-known/jwks.json",
		"jwt_supported_algs": []string{"RS256", "EdDSA"},
		"default_role":       DefaultWorkloadRole,
	})
}

// DefaultWorkloadRole is the role that a job's vault or identity block gets if it names none.
const DefaultWorkloadRole = "nomad-workloads"

// WorkloadRole is what a role of the JWT auth method grants. Zero durations are Vault's defaults.
type WorkloadRole struct {
	Policies []string
	Period   time.Duration // a periodic token: renewable for ever, by this much
	TTL      time.Duration
	MaxTTL   time.Duration
	Claims   map[string]any // bound_claims
	Bare     bool           // without Vault's default policy
	Batch    bool           // of batch tokens
	Strict   bool           // a JWT is refused as soon as it has expired; else a minute is forgiven
}

// WorkloadRole makes or changes a role for tasks at authPath ("jwt-nomad" unless an agent has its
// own).
func (v *Vault) WorkloadRole(ctx context.Context, authPath, name string, r WorkloadRole) error {
	role := map[string]any{
		"role_type":               "jwt",
		"bound_audiences":         []string{identityAudience},
		"user_claim":              "/nomad_job_id",
		"user_claim_json_pointer": true,
		"claim_mappings": map[string]any{
			"nomad_namespace": "nomad_namespace",
			"nomad_job_id":    "nomad_job_id",
			"nomad_task":      "nomad_task",
		},
		"token_type":              "service",
		"token_policies":          r.Policies,
		"token_no_default_policy": r.Bare,
		"token_period":            r.Period.String(),
		"token_ttl":               r.TTL.String(),
		"token_max_ttl":           r.MaxTTL.String(),
		"token_explicit_max_ttl":  0,
	}
	if r.Batch {
		role["token_type"] = "batch"
	}
	if r.Strict {
		role["clock_skew_leeway"] = -1
	}
	if len(r.Claims) > 0 {
		role["bound_claims"] = r.Claims
	}
	return v.write(ctx, "auth/"+authPath+"/role/"+name, role)
}

// Leases are the ids of the leases below prefix, "database/creds/app" for example.
func (v *Vault) Leases(ctx context.Context, prefix string) ([]string, error) {
	prefix = strings.TrimSuffix(prefix, "/") + "/"
	list, err := v.client.Logical().ListWithContext(ctx, "sys/leases/lookup/"+prefix)
	if err != nil || list == nil {
		return nil, err
	}
	var ids []string
	keys, _ := list.Data["keys"].([]any)
	for _, key := range keys {
		ids = append(ids, prefix+fmt.Sprint(key))
	}
	return ids, nil
}

func (v *Vault) mount(ctx context.Context, path string, in *api.MountInput) error {
	v.setup.Lock()
	defer v.setup.Unlock()
	_, err := v.mountLocked(ctx, path, in)
	return err
}

// mountLocked reports whether it made the mount.
func (v *Vault) mountLocked(ctx context.Context, path string, in *api.MountInput) (made bool, err error) {
	mounts, err := v.client.Sys().ListMountsWithContext(ctx)
	if err != nil {
		return false, err
	}
	if mounts[path+"/"] != nil {
		return false, nil
	}
	if err := v.client.Sys().MountWithContext(ctx, path, in); err != nil {
		return false, fmt.Errorf("mount %s at %s: %w", in.Type, path, err)
	}
	return true, nil
}

func (v *Vault) write(ctx context.Context, path string, data map[string]any) error {
	_, err := v.client.Logical().WriteWithContext(ctx, path, data)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
