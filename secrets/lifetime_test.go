package secrets

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCheckLifetime(t *testing.T) {
	for _, tt := range []struct {
		life, slack time.Duration
		refused     bool
	}{
		{time.Second, 0, true},
		{-time.Hour, 0, true},
		{59 * time.Second, 0, true},
		{59 * time.Second, 5 * time.Second, false},
		{54 * time.Second, 5 * time.Second, true},
		{time.Minute, 0, false},
		{24 * time.Hour, 0, false},
	} {
		err := CheckLifetime("tls", "pki/issue/web", tt.life, tt.slack)
		if !tt.refused {
			require.NoError(t, err, tt)
			continue
		}
		require.Equal(t, Invalid, KindOf(err), tt)
		require.ErrorContains(t, err, `secret "tls": pki/issue/web: its lifetime is `+max(tt.life, 0).String()+`, and 1m0s is the least`)
		require.ErrorContains(t, err, "ask for a longer ttl")
	}
}
