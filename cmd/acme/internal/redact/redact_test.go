package redact

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRedactor(t *testing.T) {
	t.Parallel()
	r := New([]string{
		"CLOUDFLARE_DNS_API_TOKEN=s3cret/+value", "RFC2136_TSIG_SECRET=s3cret/+value-longer", "SOME_PASSWORD=true",
		"HOME=/home/someone", "HTTPREQ_PASSWORD_FILE=/secrets/password", "BROKEN",
	})
	require.Equal(t, "Get https://api.example/?token=[redacted]: [redacted], [redacted]",
		r.String("Get https://api.example/?token=s3cret%2F%2Bvalue: s3cret/+value-longer, s3cret/+value"))
	require.Equal(t, "true /home/someone /secrets/password", r.String("true /home/someone /secrets/password"))
}
