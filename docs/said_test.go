package docs

import (
	"regexp"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// What a user would otherwise find out too late is said, on the page where it is looked for, and is so: what stands there, and the tests that
// show it.
var said = []struct {
	what    string
	page    string
	phrases []string
	shown   []string
}{
	{"a reboot loses pending revocations", "failures.md",
		[]string{"The host reboots", "revocations that are pending are forgotten", "to their TTL"},
		[]string{"TestRebootLosesRevocations"}},
	{"check_restart's grace does not begin anew after a restart in place", "changes.md",
		[]string{"`check_restart`", "its `grace` counts from Nomad's own starts", "the check's failures count at once"},
		[]string{"TestWarnings", "TestScriptChecksThroughRotations"}},
	{"${…} of a secret in config is not known", "changes.md",
		[]string{"`${…}` in `config`", "knows no variable of a secret: Nomad refuses the task", "Let a shell read it"},
		[]string{"TestNoVariableOfASecret"}},
	{"the same, by its symptom", "troubleshooting.md",
		[]string{"`no variable named`, of a `${…}` in `config`"},
		[]string{"TestNoVariableOfASecret"}},
	{"poststop tasks and their identity", "changes.md",
		[]string{"`poststop` tasks", "Nomad renews no identity of an allocation that is stopped", "a `ttl` above the time that the others take to stop"},
		[]string{"TestExpiredJWT"}},
	{"batch jobs, and tasks that run to their end, with noop", "changes.md",
		[]string{"Batch jobs, and all tasks that run to their end (`prestart`, `poststop`)", "a restart in place begins the work anew", "change_mode = \"noop\"", "the process has the old one, to its end"},
		[]string{"TestWarnings", "TestOldLeaseAfterAChange"}},
	{"check warns of them", "operate.md",
		[]string{"a batch task that a rotation would start from its beginning"},
		[]string{"TestWarnings"}},
	{"README leads there", "../README.md",
		[]string{"batch jobs"},
		nil},
	{"Nomad 2.x and the vault block", "support.md", // tried by hand: the tests have no such agent
		[]string{"Nomad 2.0.5 makes a `vault` block's token anew when it restarts", "restarts the task", "use `identity` there"},
		nil},
	{"the vault block in an outage", "failures.md",
		[]string{"with a `vault` block", "until the token's TTL is over: then Nomad itself restarts the task"},
		[]string{"TestWarnings", "TestLongOutageBesideTheBuiltIn"}},
	{"when the old lease is revoked after a signal or a script", "changes.md",
		[]string{"Only then is the old lease revoked: after a restart at once, after a signal or a script 10 s later", "where a signal or script failed, it lives to its end"},
		[]string{"TestOldLeaseAfterAChange", "TestSignalOverlap"}},
}

func TestSaid(t *testing.T) {
	tests := map[string]bool{}
	walkGo(t, func(path, source string) {
		if strings.HasSuffix(path, "_test.go") {
			for _, m := range testFunc.FindAllStringSubmatch(source, -1) {
				tests[m[1]] = true
			}
		}
	})
	spaces := regexp.MustCompile(`\s+`)
	for _, s := range said {
		t.Run(s.what, func(t *testing.T) {
			text := spaces.ReplaceAllString(read(t, s.page), " ")
			for _, phrase := range s.phrases {
				must.StrContains(t, text, phrase)
			}
			for _, name := range s.shown {
				must.True(t, tests[name], must.Sprint(name))
			}
		})
	}
}

// Nomad fills in config before the driver is asked, and knows no variable of a secret's: the task is refused.
func TestNoVariableOfASecret(t *testing.T) {
	config, err := parseTask("config {\n  image = \"x\"\n  args = [\"${DB_USER}\"]\n  secret \"db\" {\n    path = \"database/creds/app\"\n    env = { DB_USER = \"username\" }\n  }\n}\n")
	must.NoError(t, err)
	_, err = compileTask(t.Context(), config)
	must.ErrorContains(t, err, "no variable named")
}
