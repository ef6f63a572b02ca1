package secrets

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func withLive(paths ...string) TaskConfig {
	c := TaskConfig{Secrets: map[string]*SecretConfig{}}
	for i, p := range paths {
		c.Secrets[string(rune('a'+i))] = &SecretConfig{Path: "secret/app", LiveDir: p}
	}
	return c
}

func TestLiveDirIsRefused(t *testing.T) {
	for want, paths := range map[string][]string{
		`secret "a": live_dir "/": it would cover the whole container`:                    {"/"},
		`secret "a": live_dir "/proc/self": /proc is not a secret's to cover`:             {"/proc/self"},
		`/sys is not a secret's to cover; use a directory of its own, such as "/run/app"`: {"/sys"},
		`/dev is not`:     {"/dev/shm/x"},
		`/alloc is not`:   {"/alloc/data"},
		`/local is not`:   {"/local"},
		`/secrets is not`: {"/secrets/live"},
		`live_dir "/run/../etc": the path is not in its shortest form; write it as "/etc"`:   {"/run/../etc"},
		`live_dir "/run/app/": the path is not in its shortest form; write it as "/run/app"`: {"/run/app/"},
		`the path contains a colon`: {"/run/a:b"},
		`the path contains a NUL`:   {"/run/a\x00b"},
		`secret "b": live_dir "/run/app/x": it is, or is within, the live_dir of secret "a"`:          {"/run/app", "/run/app/x"},
		`secret "b": live_dir "/run": it is, or is within, the live_dir of secret "a", or the other`:  {"/run/app", "/run"},
		`secret "b": live_dir "/run/app": it is`:                                                      {"/run/app", "/run/app"},
		`secret "a": live_dir "../x": the path contains ".."; use a path below the secrets directory`: {"../x"},
		`live_dir "a/../b"`:     {"a/../b"},
		`live_dir "..data/x"`:   {"..data/x"},
		`live_dir "nomad_token`: {"nomad_token"},
		`secret "b": live_dir "app/x": the directory "app" is a file of secret "a"`: {"app", "app/x"},
	} {
		_, err := Compile(withLive(paths...))
		must.ErrorContains(t, err, want)
		must.Eq(t, Invalid, KindOf(err))
	}
	for want, change := range map[string]func(*SecretConfig){
		`secret "a": live_listing is for a live_dir`: func(s *SecretConfig) { s.LiveDir, s.LiveListing = "", true },
		`secret "a": live_stale is for a live_dir`:   func(s *SecretConfig) { s.LiveDir, s.LiveStale = "", "1h" },
		`live_stale "soon" is not a duration`:        func(s *SecretConfig) { s.LiveStale = "soon" },
		`live_stale "1s" is too short`:               func(s *SecretConfig) { s.LiveStale = "1s" },
		`the file is written by secret "a" too`:      func(s *SecretConfig) { s.LiveDir, s.Files = "x", map[string]*FileConfig{"x": {Field: "f"}} },
	} {
		c := withLive("/run/app")
		change(c.Secrets["a"])
		_, err := Compile(c)
		must.ErrorContains(t, err, want)
	}
}

// Which of the two kinds of path a task may have is its driver's.
func TestLiveDirIsTheDrivers(t *testing.T) {
	inside, err := Compile(withLive("/run/app", "/run/app-1", "/devices"))
	must.NoError(t, err)
	must.NoError(t, inside.CheckLiveDirs(true))
	must.ErrorContains(t, inside.CheckLiveDirs(false), `secret "a": live_dir "/run/app": an absolute path; with this driver it is a path below the secrets directory`)
	below, err := Compile(withLive("live/app", "live/other"))
	must.NoError(t, err)
	must.NoError(t, below.CheckLiveDirs(false))
	err = below.CheckLiveDirs(true)
	must.ErrorContains(t, err, `secret "b": live_dir "live/other": not an absolute path`)
	must.Eq(t, Invalid, KindOf(err))
}

// A secret that is in its live directory alone has nothing done for its change, unless the job says what.
func TestLiveDirAndChangeMode(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*TaskConfig, *SecretConfig)
		mode     Mode
		liveOnly bool
	}{
		"alone":             {func(*TaskConfig, *SecretConfig) {}, Noop, true},
		"alone, said":       {func(_ *TaskConfig, s *SecretConfig) { s.ChangeMode = "restart" }, Restart, true},
		"with env":          {func(_ *TaskConfig, s *SecretConfig) { s.Env = []map[string]string{{"A": "b"}} }, Restart, false},
		"with files":        {func(_ *TaskConfig, s *SecretConfig) { s.AllFiles = true }, Restart, false},
		"in a template":     {func(c *TaskConfig, _ *SecretConfig) { c.Files = map[string]*FileConfig{"f": {Template: "{{ .a.x }}"}} }, Restart, false},
		"not in a template": {func(c *TaskConfig, _ *SecretConfig) { c.Files = map[string]*FileConfig{"f": {Template: "{{ 1 }}"}} }, Noop, true},
	} {
		cfg := withLive("/run/x")
		c.change(&cfg, cfg.Secrets["a"])
		spec, err := Compile(cfg)
		must.NoError(t, err, must.Sprint(name))
		must.Eq(t, c.mode, spec.Secrets[0].Change.Mode, must.Sprint(name))
		must.Eq(t, c.liveOnly, spec.Secrets[0].LiveOnly, must.Sprint(name))
		must.Eq(t, LiveDir{Path: "/run/x", Stale: time.Hour, Acts: cfg.Secrets["a"].ChangeMode != ""}, *spec.Secrets[0].Live)
	}
}
