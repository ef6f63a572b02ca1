package driver

import (
	"math"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
)

// A container that allows its program few processes starts with enough for the launcher, and the program is
// told what its job says.
func TestProcessLimits(t *testing.T) {
	for name, c := range map[string]struct {
		options map[string]any
		mayHave int64
		want    processLimits
		inner   map[string]any
	}{
		"none":                     {options: map[string]any{"image": "x"}, inner: map[string]any{"image": "x"}},
		"enough":                   {options: map[string]any{"pids_limit": 16}, want: processLimits{container: 16}, inner: map[string]any{"pids_limit": 16}},
		"one":                      {options: map[string]any{"pids_limit": 1}, want: processLimits{container: 1}, inner: map[string]any{"pids_limit": 16}},
		"not above the operator's": {options: map[string]any{"pids_limit": 1}, mayHave: 9, want: processLimits{container: 1}, inner: map[string]any{"pids_limit": 9}},
		"unlimited":                {options: map[string]any{"pids_limit": -1}, inner: map[string]any{"pids_limit": -1}},
		"of the user": {
			options: map[string]any{"ulimit": []any{map[string]any{"nproc": "1", "nofile": "5:6"}}},
			want:    processLimits{user: &launcher.Limit{Soft: 1, Hard: 1}},
			inner:   map[string]any{"ulimit": []any{map[string]any{"nofile": "5:6"}}},
		},
		"two numbers": {
			options: map[string]any{"ulimit": []any{map[string]any{"nofile": "7"}, map[string]any{"nproc": "3:-1"}}},
			want:    processLimits{user: &launcher.Limit{Soft: 3, Hard: math.MaxUint64}},
			inner:   map[string]any{"ulimit": []any{map[string]any{"nofile": "7"}, map[string]any{}}},
		},
		"many for the user, which Docker alone may raise": {
			options: map[string]any{"ulimit": []any{map[string]any{"nproc": "8192"}}},
			inner:   map[string]any{"ulimit": []any{map[string]any{"nproc": "8192"}}},
		},
		"few now and more later": {
			options: map[string]any{"ulimit": []any{map[string]any{"nproc": "3:8192"}}},
			want:    processLimits{user: &launcher.Limit{Soft: 3, Hard: 8192}},
			inner:   map[string]any{"ulimit": []any{map[string]any{"nproc": "8192:8192"}}},
		},
		"wrong, which the wrapped driver says": {
			options: map[string]any{"ulimit": []any{map[string]any{"nproc": "few"}}},
			inner:   map[string]any{"ulimit": []any{map[string]any{"nproc": "few"}}},
		},
	} {
		// As Nomad hands it over.
		cfg := &drivers.TaskConfig{}
		must.NoError(t, cfg.EncodeConcreteDriverConfig(c.options))
		var options, inner map[string]any
		must.NoError(t, cfg.DecodeDriverConfig(&options))
		must.NoError(t, cfg.EncodeConcreteDriverConfig(c.inner))
		must.NoError(t, cfg.DecodeDriverConfig(&inner))

		got := processLimitsOf(options)
		must.Eq(t, c.want, got, must.Sprint(name))
		must.Eq(t, inner, got.forLauncher(options, c.mayHave), must.Sprint(name))
	}
}
