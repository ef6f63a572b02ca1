package vault

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// maxListings bounds the directories that one discovery lists.
const maxListings = 100

// Discover finds what the policies of a token let it read: two requests, and one for each directory
// of a KV mount that a pattern of theirs covers. None is a write, and none makes a credential. Each
// waits for turn, unless that is nil. Granted tells of the paths in known.
func (v *Client) Discover(ctx context.Context, tok secrets.Token, namespace string, known []string, turn func(context.Context) error) (*secrets.Discovery, error) {
	d, err := v.discover(ctx, tok, namespace, turn)
	if err != nil {
		return nil, err
	}
	d.Granted = map[string]bool{}
	for _, path := range known {
		d.Granted[path] = d.grants(path)
	}
	return &d.Discovery, nil
}

func (v *Client) discover(ctx context.Context, tok secrets.Token, namespace string, turn func(context.Context) error) (*discovery, error) {
	ask := func(c call) (reply, error) {
		if turn != nil {
			if err := turn(ctx); err != nil {
				return reply{}, secrets.Errorf(secrets.Outage, "%s: %w", c.operation, err)
			}
		}
		return v.do(ctx, c)
	}
	get := func(operation, path string, query url.Values) call {
		return call{
			request: request{operation: operation, token: tok.Value, namespace: namespace, path: path, capabilities: `"read"`, mount: mount{typ: "system"}},
			query:   query,
		}
	}

	c := get("find what the task's policies grant", "sys/internal/ui/resultant-acl", nil)
	r, err := ask(c)
	if err != nil {
		return nil, err
	}
	if !r.ok() {
		return nil, c.refusal(r)
	}
	full := namespace
	if full == "" {
		full = v.cfg.Namespace
	}
	rules, err := parseACL(r.body.Data, full)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.where(), err)
	}
	d := &discovery{acl: rules}

	c = get("find the engines that the task's policies are about", "sys/internal/ui/mounts", nil)
	if r, err = ask(c); err != nil {
		return nil, err
	}
	if !r.ok() {
		return nil, c.refusal(r)
	}
	if d.mounts, err = parseMounts(r); err != nil {
		return nil, fmt.Errorf("%s: %w", c.where(), err)
	}
	d.Mounts = map[string]bool{}
	for _, m := range d.mounts {
		d.Mounts[m.path] = m.v2
		v.mounts.put(namespace, m) // the reads that follow need not ask again (S3)
	}

	d.exactPaths()
	todo := d.patterns()
	seen := map[string]bool{}
	for n := 0; len(todo) > 0 && !d.Cut; todo = todo[1:] {
		dir := todo[0]
		path := dir.mount.listRoot() + dir.dir
		if seen[path] {
			continue
		}
		seen[path] = true
		if !rules.mayList(path) {
			d.skip(dir.pattern, "it cannot be expanded: a policy needs "+fmt.Sprintf("path %q { capabilities = [\"list\"] }", path))
			continue
		}
		if n++; n > maxListings {
			d.Cut = true
			break
		}
		c := get("list "+path, strings.TrimSuffix(path, "/"), url.Values{"list": {"true"}})
		c.capabilities = `"list"`
		r, err := ask(c)
		switch {
		case secrets.IsLimit(err):
			d.skip(dir.pattern, "it cannot be expanded: too much is below "+path)
		case err != nil:
			return nil, err
		case r.status == http.StatusNotFound: // nothing is there
		case kindOf(r.status) == secrets.Outage && !r.ok():
			return nil, c.refusal(r)
		case !r.ok():
			d.skip(dir.pattern, c.refusal(r).Error())
		default:
			names, err := listedNames(r)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.where(), err)
			}
			todo = append(todo, d.listed(dir, names)...)
		}
	}
	return d, nil
}

// parseMounts reads the answer of sys/internal/ui/mounts.
func parseMounts(r reply) ([]mount, error) {
	all, ok := r.body.Data["secret"].(map[string]any)
	if !ok {
		return nil, unparsable("the mounts are not an object")
	}
	var mounts []mount
	for path, v := range all {
		entry, ok := v.(map[string]any)
		if !ok {
			return nil, unparsable("mount %q is not an object", path)
		}
		m := mount{path: path, at: r.at}
		if m.typ, ok = entry["type"].(string); !ok || m.typ == "" || !strings.HasSuffix(path, "/") {
			return nil, unparsable("mount %q has no type", path)
		}
		options, _ := entry["options"].(map[string]any)
		m.v2 = m.typ == "kv" && options["version"] == "2"
		mounts = append(mounts, m)
	}
	return mounts, nil
}

func listedNames(r reply) ([]string, error) {
	keys, ok := r.body.Data["keys"].([]any)
	if !ok {
		return nil, unparsable("a list has no keys")
	}
	names := make([]string, 0, len(keys))
	for _, k := range keys {
		name, ok := k.(string)
		if !ok {
			return nil, unparsable("a list's key is not a text")
		}
		names = append(names, name)
	}
	return names, nil
}
