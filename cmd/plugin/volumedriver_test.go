package main

import (
	"errors"
	"flag"
	"io"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestVolumeDriverOptions(t *testing.T) {
	t.Setenv("VAULT_ADDR", "")
	good := []string{"-address", "http://v:8200", "-token-file", "/t", "-allow", "secret/a", "-allow", "secret/b"}
	o, err := parseVolumeOptions(good, io.Discard)
	must.NoError(t, err)
	must.Eq(t, []string{"secret/a", "secret/b"}, o.allow)
	must.Eq(t, "/run/docker/plugins/secrets.sock", o.socket)

	for args, want := range map[string]string{
		"-token-file /t":         "no -address",
		"-address http://v:8200": "give one of",
		"-address http://v:8200 -token-file /t -jwt-file /j":   "give one of",
		"-address http://v:8200 -approle-role-id x":            "give both, or neither",
		"-address http://v:8200 -token-file /t extra":          `"extra"`,
		"-address http://v:8200 -token-file /t -log-level all": "is not known",
		"-nonsense": "not defined",
	} {
		_, err := parseVolumeOptions(strings.Fields(args), io.Discard)
		must.ErrorContains(t, err, want)
	}
	var help strings.Builder
	_, err = parseVolumeOptions([]string{"-h"}, &help)
	must.True(t, errors.Is(err, flag.ErrHelp))
	must.StrContains(t, help.String(), "docker run --rm --volume-driver secrets")
	must.Eq(t, 2, runCommand([]string{"volume-driver", "-address", "http://v:8200", "-token-file", "/t"}, io.Discard, io.Discard)) // no -allow
}
