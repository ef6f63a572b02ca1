package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// What a plugin file with a wrong name says gets into the agent's log, as an error: go-plugin takes lines of this form.
func TestMisnamedPluginFile(t *testing.T) {
	err := serve("/opt/nomad/plugins/docker-secret")
	must.ErrorContains(t, err, `a plugin file named "docker-secret" does not say what to wrap: name it one of docker, docker-secrets, raw_exec, raw_exec-secrets`)
	var stderr strings.Builder
	logFailure(&stderr, err)
	var line map[string]any
	must.NoError(t, json.Unmarshal([]byte(stderr.String()), &line))
	must.Eq(t, "error", line["@level"].(string))
	must.StrContains(t, line["error"].(string), "docker-secret")
}
