package authority

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-acme/lego/v5/acme"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/renew"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	problem := func(kind string, status int) error {
		return fmt.Errorf("one or more domains: %w", &acme.ProblemDetails{Type: kind, HTTPStatus: status})
	}
	for name, test := range map[string]struct {
		err  error
		want renew.Failure
		wait time.Duration
	}{
		"connection":               {errors.New("connection refused"), renew.Unavailable, 0},
		"500":                      {problem("", 500), renew.Unavailable, 0},
		"server error":             {problem(acme.ServerInternalErrorType, 500), renew.Unavailable, 0},
		"nonces":                   {&acme.NonceError{ProblemDetails: &acme.ProblemDetails{Type: acme.BadNonceErrorType, HTTPStatus: 400}}, renew.Unavailable, 0},
		"rate limit":               {fmt.Errorf("x: %w", &acme.RateLimitedError{ProblemDetails: &acme.ProblemDetails{}, RetryAfter: time.Hour}), renew.RateLimited, time.Hour},
		"429 without a type":       {problem("", 429), renew.RateLimited, 0},
		"rejected":                 {problem(acme.RejectedIdentifierErrorType, 400), renew.Refused, 0},
		"a validation":             {problem(acme.UnauthorizedErrorType, 0), renew.Refused, 0},
		"its DNS":                  {problem(acme.DNSErrorType, 0), renew.Refused, 0},
		"CAA":                      {problem(acme.CaaErrorType, 403), renew.Refused, 0},
		"profile":                  {problem(acme.InvalidProfileErrorType, 400), renew.Misconfigured, 0},
		"external account binding": {problem(acme.ExternalAccountRequiredErrorType, 400), renew.Misconfigured, 0},
		"one of ours":              {fmt.Errorf("x: %w", NewError(renew.Refused, time.Minute, io.EOF)), renew.Refused, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := classify(test.err, nil)
			require.Equal(t, test.want, got.Failure)
			require.Equal(t, test.wait, got.RetryAfter)
		})
	}
}

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                              0,
		"120":                           2 * time.Minute,
		"-5":                            0,
		"soon":                          0,
		"Mon, 01 Mar 2027 13:00:00 GMT": time.Hour,
		"Mon, 01 Mar 2027 11:00:00 GMT": 0,
		"99999999":                      7 * 24 * time.Hour,
	} {
		require.Equal(t, want, parseRetryAfter(value, now), value)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A 503 has a Retry-After, too; and no request goes out for an order that has ended.
func TestNotes(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	noted := &notes{ctx: ctx, next: roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"3600"}}, Body: io.NopCloser(strings.NewReader(""))}, nil
	})}
	req, err := http.NewRequest(http.MethodGet, "https://ca.example/dir", nil)
	require.NoError(t, err)
	resp, err := noted.RoundTrip(req)
	require.NoError(t, err)
	resp.Body.Close()
	got := classify(errors.New("503"), noted)
	require.Equal(t, renew.Unavailable, got.Failure)
	require.InDelta(t, 3600, got.RetryAfter.Seconds(), 5)
	cancel(errors.New("another issuer has taken the lock"))
	_, err = noted.RoundTrip(req)
	require.ErrorContains(t, err, "another issuer has taken the lock")
}
