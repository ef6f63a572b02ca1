package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// ErrConflict is the error of a write whose secret has another version than expected.
var ErrConflict = errors.New("the secret has changed meanwhile")

// ErrDenied is the error of a request that the token's policies do not allow.
var ErrDenied = errors.New("permission denied")

// ErrNotKV2 is the error for a path that is not on a KV v2 mount.
var ErrNotKV2 = errors.New("not a KV v2 path")

// Secret is a secret of KV v2. Data is nil if there is none, or it was deleted; Version is then what a
// write must expect.
type Secret struct {
	Data    map[string]any
	Version int
	Written time.Time // when the version was made
}

// Get reads the secret at a path as one writes it at the CLI, such as secret/tls/web.
func (s *Session) Get(ctx context.Context, path string) (Secret, error) {
	mount, rest, err := s.split(ctx, path)
	if err != nil {
		return Secret{}, fmt.Errorf("read %s: %w", path, err)
	}
	var found Secret
	err = s.do(ctx, func(client *api.Client) error {
		secret, err := client.Logical().ReadWithContext(ctx, mount+"data/"+rest)
		if err != nil || secret == nil {
			return err
		}
		found.Data, _ = secret.Data["data"].(map[string]any)
		metadata, _ := secret.Data["metadata"].(map[string]any)
		created, _ := metadata["created_time"].(string)
		if found.Written, err = time.Parse(time.RFC3339Nano, created); err != nil {
			return fmt.Errorf("the secret's created_time: %w", err)
		}
		found.Version, err = toInt(metadata["version"])
		return err
	})
	if err != nil {
		return Secret{}, fmt.Errorf("read %s: %w", path, explain(err, mount+"data/"+rest, "read"))
	}
	return found, nil
}

// Put writes a secret if it still has the version expected, else it fails with ErrConflict. It returns
// the new version.
func (s *Session) Put(ctx context.Context, path string, data map[string]any, expected int) (version int, err error) {
	mount, rest, err := s.split(ctx, path)
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", path, err)
	}
	err = s.do(ctx, func(client *api.Client) error {
		secret, err := client.Logical().WriteWithContext(ctx, mount+"data/"+rest, map[string]any{
			"data": data, "options": map[string]any{"cas": expected},
		})
		if err != nil {
			return err
		}
		version, err = toInt(secret.Data["version"])
		return err
	})
	if isStatus(err, http.StatusBadRequest) && strings.Contains(err.Error(), "check-and-set") {
		return 0, fmt.Errorf("write %s: %w", path, ErrConflict)
	}
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", path, explain(err, mount+"data/"+rest, "create", "update"))
	}
	return version, nil
}

// Check reports what stands in the way of reading and writing the secret at a path, by what the server
// says of the mount and of the token. It reads no secret.
func (s *Session) Check(ctx context.Context, path string) error {
	mount, rest, err := s.split(ctx, path)
	if err != nil {
		return err
	}
	var has []string
	err = s.do(ctx, func(client *api.Client) (err error) {
		has, err = client.Sys().CapabilitiesSelfWithContext(ctx, mount+"data/"+rest)
		return err
	})
	if err != nil {
		return fmt.Errorf("ask for the token's capabilities on %s: %w", mount+"data/"+rest, err)
	}
	if slices.Contains(has, "root") {
		return nil
	}
	var missing []string
	for _, capability := range []string{"create", "read", "update"} {
		if !slices.Contains(has, capability) {
			missing = append(missing, capability)
		}
	}
	if len(missing) > 0 {
		return denied(mount+"data/"+rest, missing...)
	}
	return nil
}

// Ping reports whether the server answers and takes the token.
func (s *Session) Ping(ctx context.Context, path string) error {
	_, _, err := s.split(ctx, path)
	return err
}

// split finds the KV v2 mount of a path. The server answers whoever has any right below the mount.
func (s *Session) split(ctx context.Context, path string) (mount, rest string, err error) {
	path = strings.Trim(path, "/")
	var answer *api.Secret
	err = s.do(ctx, func(client *api.Client) (err error) {
		answer, err = client.Logical().ReadWithContext(ctx, "sys/internal/ui/mounts/"+path)
		return err
	})
	if isStatus(err, http.StatusForbidden) {
		first, below, _ := strings.Cut(path, "/")
		return "", "", fmt.Errorf("nothing is mounted there, or: %w", denied(first+"/data/"+below, "create", "read", "update"))
	}
	if err != nil {
		return "", "", fmt.Errorf("ask for the mount: %w", err)
	}
	if answer == nil {
		return "", "", fmt.Errorf("ask for the mount: the answer is empty")
	}
	mount, _ = answer.Data["path"].(string)
	kind, _ := answer.Data["type"].(string)
	options, _ := answer.Data["options"].(map[string]any)
	if kind != "kv" || options["version"] != "2" {
		return "", "", fmt.Errorf("%w: %s is of type %s%s, and only KV v2 can check that nobody else has written meanwhile; `vault secrets enable -version=2 -path=%s kv` makes one, `vault kv enable-versioning %s` upgrades a KV v1",
			ErrNotKV2, mount, kind, versionOf(options), strings.TrimSuffix(mount, "/"), strings.TrimSuffix(mount, "/"))
	}
	return mount, strings.TrimPrefix(path, mount), nil
}

func versionOf(options map[string]any) string {
	if version, ok := options["version"].(string); ok {
		return " version " + version
	}
	return ""
}

// explain adds the missing stanza to a refusal.
func explain(err error, path string, capabilities ...string) error {
	if isStatus(err, http.StatusForbidden) {
		return denied(path, capabilities...)
	}
	return err
}

func denied(path string, capabilities ...string) error {
	quoted := make([]string, len(capabilities))
	for i, c := range capabilities {
		quoted[i] = fmt.Sprintf("%q", c)
	}
	return fmt.Errorf("%w (policy needs: path %q { capabilities = [%s] })", ErrDenied, path, strings.Join(quoted, ", "))
}

// toInt reads a number as the API's client gives it.
func toInt(v any) (int, error) {
	number, ok := v.(interface{ Int64() (int64, error) })
	if !ok {
		return 0, fmt.Errorf("the server's answer has no version, but %v", v)
	}
	n, err := number.Int64()
	return int(n), err
}
