package driver

import (
	"testing"

	"github.com/shoenig/test/must"
)

// Which containers' files are published before they are created.
func TestBindsSecrets(t *testing.T) {
	for _, test := range []struct {
		options map[string]any
		want    bool
	}{
		{map[string]any{}, false},
		{map[string]any{"volumes": []string{"secrets/app.conf:/etc/app.conf"}}, true},
		{map[string]any{"volumes": []string{"local:/l", "./secrets/tls/:/etc/tls:ro"}}, true},
		{map[string]any{"volumes": []string{"local/../secrets/app.conf:/etc/app.conf"}}, true},
		{map[string]any{"volumes": []string{"../web/secrets/app.conf:/etc/app.conf"}}, true},
		{map[string]any{"mount": []any{bindBlock("secrets/app.conf", "/etc/app.conf", true)}}, true},
		{map[string]any{"mounts": []any{bindBlock("secrets/app.conf", "/etc/app.conf", true)}}, true},
		{map[string]any{"volumes": []string{"secrets:/all"}}, false},
		{map[string]any{"volumes": []string{"local/secrets/app.conf:/etc/app.conf", "secrets2/a:/a", "/secrets/a:/b", "nonsense"}}, false},
		{map[string]any{"mount": []any{map[string]any{"type": "volume", "source": "secrets/app.conf", "target": "/v"}}}, false},
	} {
		cfg, _ := guardedTask(t, test.options)
		must.EqOp(t, test.want, bindsSecrets(cfg), must.Sprint(test.options))
	}
}
