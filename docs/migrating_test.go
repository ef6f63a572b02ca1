package docs

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/jobspec2"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"github.com/zclconf/go-cty/cty"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

var (
	idiom    = regexp.MustCompile(`(?s)\nBefore:\n\n` + "```hcl\n(.*?)```" + `\n\nAfter:\n\n` + "```hcl\n(.*?)```")
	hclBlock = regexp.MustCompile("(?s)```hcl\n(.*?)```")
)

// Each idiom of docs/migrating.md is a job that Nomad parses, before and after; and what stands after is taken by the driver. That both give a
// task the same is shown where it runs (TestMigratingIdiomsAreTheSame).
func TestMigratingIdioms(t *testing.T) {
	text := read(t, "migrating.md")
	idioms := idiom.FindAllStringSubmatch(text, -1)
	must.GreaterEq(t, 9, len(idioms))
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
	value, _, errs := hclutils.ParseHclInterface(config, spec, map[string]cty.Value{"NOMAD_JOB_NAME": cty.StringVal("j")}) // as an agent has, among others
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
	return secrets.Compile(task, "nomad")
}
