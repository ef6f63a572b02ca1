package docs

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/jobspec2"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

var (
	idiom    = regexp.MustCompile(`(?s)\nBefore:\n\n` + "```hcl\n(.*?)```" + `\n\nAfter:\n\n` + "```hcl\n(.*?)```")
	hclBlock = regexp.MustCompile("(?s)```hcl\n(.*?)```")
)

// Each idiom of docs/migrating.md is a job that Nomad parses, before and after; and what stands after is taken by the driver.
func TestMigratingIdioms(t *testing.T) {
	text := read(t, "migrating.md")
	idioms := idiom.FindAllStringSubmatch(text, -1)
	must.GreaterEq(t, 8, len(idioms))
	must.Len(t, 2*len(idioms)+1, hclBlock.FindAllString(text, -1), must.Sprint("each block is one of an idiom, but for the identity"))
	identity := hclBlock.FindStringSubmatch(text)[1]
	for i, m := range idioms {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			before, after := m[1], m[2]
			_, err := parseTask("config {\n  image = \"x\"\n}\n" + before)
			must.NoError(t, err, must.Sprint(before))
			config, err := parseTask(identity + after)
			must.NoError(t, err, must.Sprint(after))
			spec, err := compileTask(t.Context(), config)
			must.NoError(t, err, must.Sprint(after))
			must.Positive(t, len(spec.Secrets))
		})
	}
	// What is wrong is seen to be.
	config, err := parseTask("config {\n  image = \"x\"\n  secret \"a\" {\n    path = \"sys/a\"\n  }\n}\n")
	must.NoError(t, err)
	_, err = compileTask(t.Context(), config)
	must.Error(t, err)
}

// parseTask gives the config of a docker task that has this in it.
func parseTask(inside string) (map[string]any, error) {
	job := "job \"j\" {\n  group \"g\" {\n    task \"t\" {\n      driver = \"docker\"\n" + inside + "    }\n  }\n}\n"
	parsed, err := jobspec2.ParseWithConfig(&jobspec2.ParseConfig{Path: "job.nomad.hcl", Body: []byte(job), Strict: true})
	if err != nil {
		return nil, err
	}
	return parsed.TaskGroups[0].Tasks[0].Config, nil
}

// compileTask takes a task's config the driver's way.
func compileTask(ctx context.Context, config map[string]any) (*secrets.Spec, error) {
	d, err := driver.New(ctx, "docker", hclog.NewNullLogger())
	if err != nil {
		return nil, err
	}
	defer d.Close()
	schema, err := d.TaskConfigSchema()
	if err != nil {
		return nil, err
	}
	spec, diags := hclspecutils.Convert(schema)
	if diags.HasErrors() {
		return nil, diags
	}
	value, _, errs := hclutils.ParseHclInterface(config, spec, nil)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var coder drivers.TaskConfig
	if err := coder.EncodeDriverConfig(value); err != nil {
		return nil, err
	}
	var task secrets.TaskConfig
	if err := coder.DecodeDriverConfig(&task); err != nil {
		return nil, err
	}
	return secrets.Compile(task)
}

var operatorLine = regexp.MustCompile(`(?m)^ *(nomad-driver-secrets .*)$`)

// The operator's pages show only commands that tests run: those of e2e/operator_audit_test.go, and version.
func TestOperatorsCommands(t *testing.T) {
	run := []string{
		"nomad-driver-secrets doctor", "nomad-driver-secrets doctor -config /etc/nomad.d", "nomad-driver-secrets audit", "nomad-driver-secrets version",
	}
	seen := 0
	for _, page := range []string{"migrating.md", "rollout.md", "support.md", "troubleshooting.md", "security.md"} {
		for _, m := range operatorLine.FindAllStringSubmatch(read(t, page), -1) {
			must.SliceContains(t, run, strings.TrimSpace(m[1]), must.Sprint(page))
			seen++
		}
	}
	must.Positive(t, seen)
}

var pageLink = regexp.MustCompile(`\]\(([\w./-]*)(?:#([\w-]+))?\)`)

// Links of the operator's pages lead to files and headings that are there.
func TestOperatorsLinks(t *testing.T) {
	for _, page := range []string{"migrating.md", "rollout.md", "support.md", "troubleshooting.md", "security.md"} {
		for _, m := range pageLink.FindAllStringSubmatch(read(t, page), -1) {
			path := m[1]
			if path == "" {
				path = page
			}
			text := read(t, path)
			if m[2] != "" {
				must.SliceContains(t, anchors(text), m[2], must.Sprint(page, " links to ", m[0]))
			}
		}
	}
}

// anchors are the headings of a page, as GitHub names them.
func anchors(page string) (all []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(name, " ", "-"))
	}
	return all
}
