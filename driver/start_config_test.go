package driver

import (
	"context"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// A task without any config, or with one that cannot be read and has nothing of ours, is the wrapped driver's to judge: it
// is told what it would be told without us. One that has something of ours is told by us.
func TestConfigsThatCannotBeRead(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, w := range []*wrapped{&wrappedDocker, &wrappedRawExec} {
		d := newDriver(ctx, w.name, w, hclog.NewNullLogger())
		defer d.Close()
		for name, test := range map[string]struct {
			config any // nil: none
			ours   bool
		}{
			"none":                           {},
			"not a map":                      {config: "image"},
			"a wrong type of the wrapped":    {config: map[string]any{"args": map[string]any{"a": 1}, "expose_token": false, "role": "", "secret": map[string]any{}}},
			"a wrong type, and a secret":     {config: map[string]any{"secret": map[string]any{"db": 3}}, ours: true},
			"a wrong type of one of ours":    {config: map[string]any{"stop_timeout": []string{"5s"}}, ours: true},
			"a file, and one that is no map": {config: map[string]any{"file": map[string]any{"a": "b"}}, ours: true},
		} {
			t.Run(w.name+"/"+name, func(t *testing.T) {
				cfg, _ := taskOnDisk(t)
				if test.config != nil {
					must.NoError(t, cfg.EncodeConcreteDriverConfig(test.config))
				} else {
					bare := drivers.TaskConfig{ID: cfg.ID, Name: cfg.Name, AllocID: cfg.AllocID, AllocDir: cfg.AllocDir, Env: cfg.Env}
					cfg = &bare
				}
				_, _, theirs := d.inner.StartTask(cfg.Copy())
				must.Error(t, theirs)
				_, _, got := d.StartTask(cfg)
				must.Error(t, got)
				if test.ours {
					must.StrContains(t, got.Error(), "read the task's config: ")
				} else {
					must.EqOp(t, theirs.Error(), got.Error())
				}
			})
		}
	}
}
