package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

func (v *Vault) enableAudit(ctx context.Context) error {
	return v.client.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
		Type: "file",
		// Accessors in the clear let a test tell one task's requests from another's; values stay
		// hashed, so that the log is no place where a leak scan finds them.
		Options: map[string]string{"file_path": v.AuditPath, "hmac_accessor": "false"},
	})
}

// Request is one answered request of the audit log.
type Request struct {
	Time      time.Time
	Operation string // read, update, list, delete, ...
	Path      string
	Accessor  string // of the token that made it
	Job       string // that the token was made for, if it was for a task
	Error     string // the server's refusal, empty if there was none
}

// Mark is a place in the audit log.
type Mark int64

// Mark is the end of the audit log as it is now.
func (v *Vault) Mark() (Mark, error) {
	fi, err := os.Stat(v.AuditPath)
	if err != nil {
		return 0, err
	}
	return Mark(fi.Size()), nil
}

// Requests are the requests answered since a mark whose path has one of the prefixes, or all if none
// is given. Those of the harness itself are left out: they are made with the root token.
func (v *Vault) Requests(since Mark, prefixes ...string) ([]Request, error) {
	f, err := os.Open(v.AuditPath)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(int64(since), io.SeekStart); err != nil {
		return nil, err
	}
	var found []Request
	for lines := bufio.NewReader(f); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return found, nil // what is left is a line being written
		}
		if err != nil {
			return nil, err
		}
		req, ok, err := parseAudit(line)
		if err != nil {
			return nil, err
		}
		if ok && hasAnyPrefix(req.Path, prefixes) {
			found = append(found, req)
		}
	}
}

func parseAudit(line []byte) (Request, bool, error) {
	var entry struct {
		Type string    `json:"type"`
		Time time.Time `json:"time"`
		Auth struct {
			Accessor string   `json:"accessor"`
			Policies []string `json:"policies"`
			Metadata struct {
				Job string `json:"nomad_job_id"`
			} `json:"metadata"`
		} `json:"auth"`
		Request struct {
			Operation string `json:"operation"`
			Path      string `json:"path"`
		} `json:"request"`
		Response struct {
			Data map[string]any `json:"data"`
		} `json:"response"`
		Error string `json:"error"`
	}
	if err := json.Unmarshal(line, &entry); err != nil {
		return Request{}, false, fmt.Errorf("audit log: %w", err)
	}
	if refusal, ok := entry.Response.Data["error"].(string); ok && strings.HasSuffix(entry.Request.Path, "/login") {
		entry.Error = refusal // hashed
	}
	byRoot := len(entry.Auth.Policies) == 1 && entry.Auth.Policies[0] == "root"
	return Request{
		Time:      entry.Time,
		Operation: entry.Request.Operation,
		Path:      entry.Request.Path,
		Accessor:  entry.Auth.Accessor,
		Job:       entry.Auth.Metadata.Job,
		Error:     entry.Error,
	}, entry.Type == "response" && !byRoot, nil
}

func hasAnyPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return len(prefixes) == 0
}
