package vault

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/crypto/ssh"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// mountPKI makes a CA at pki/ with the roles web and, whose certificates have leases, leased.
func mountPKI(t *testing.T, s *vaultServer, ttl string) {
	t.Helper()
	s.admin(t, "POST", "sys/mounts/pki", map[string]any{"type": "pki"})
	s.admin(t, "POST", "pki/root/generate/internal", map[string]any{"common_name": "example.com", "ttl": "24h"})
	for role, lease := range map[string]bool{"web": false, "leased": true} {
		s.admin(t, "POST", "pki/roles/"+role, map[string]any{
			"allowed_domains": "example.com", "allow_subdomains": true, "key_type": "ec", "key_bits": 256,
			"ttl": ttl, "max_ttl": "12h", "generate_lease": lease,
		})
	}
}

func TestAnswerIssued(t *testing.T) {
	s := startVault(t)
	mountPKI(t, s, "1h")
	before := time.Now()
	a, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: "pki/issue/web", Params: map[string]string{"common_name": "a.example.com", "ttl": "30m"}})
	must.NoError(t, err)
	must.EqOp(t, secrets.Issued, a.Kind)
	must.Between(t, before.Add(29*time.Minute).Unix(), a.Ends.Unix(), time.Now().Add(31*time.Minute).Unix())
	must.StrContains(t, a.Fields.Map()["private_key"].(string), "PRIVATE KEY")

	a, err = s.Read(t.Context(), rootTok(), secrets.Request{Path: "pki/issue/leased", Params: map[string]string{"common_name": "a.example.com"}})
	must.NoError(t, err)
	must.EqOp(t, secrets.Leased, a.Kind)
	must.StrHasPrefix(t, "pki/issue/leased/", string(a.Lease.ID))
	must.Between(t, 59*time.Minute, a.Lease.Duration, 61*time.Minute)

	// What the server refuses in the params is an error of the job, and not quoted back.
	_, err = s.Read(t.Context(), rootTok(), secrets.Request{Path: "pki/issue/web", Params: map[string]string{"common_name": "a.forbidden.org"}})
	wantKind(t, err, secrets.Invalid, "write pki/issue/web: the server answers 400", "[redacted]")
	must.StrNotContains(t, err.Error(), "forbidden.org")
}

func TestAnswerSSH(t *testing.T) {
	s := startVault(t)
	s.admin(t, "POST", "sys/mounts/ssh", map[string]any{"type": "ssh"})
	s.admin(t, "POST", "ssh/config/ca", map[string]any{"generate_signing_key": true, "key_type": "ed25519"})
	s.admin(t, "POST", "ssh/roles/r", map[string]any{"key_type": "ca", "allow_user_certificates": true, "allowed_users": "*", "default_user": "app", "ttl": "20m"})
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	must.NoError(t, err)
	key, err := ssh.NewPublicKey(pub)
	must.NoError(t, err)
	a, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: "ssh/sign/r", Params: map[string]string{"public_key": string(ssh.MarshalAuthorizedKey(key))}})
	must.NoError(t, err)
	must.EqOp(t, secrets.Issued, a.Kind)
	must.Between(t, time.Now().Add(18*time.Minute).Unix(), a.Ends.Unix(), time.Now().Add(22*time.Minute).Unix())
}

// A CA's public key is followed to the next CA, by a token that may read that alone. Without a CA, as while one is replaced,
// nothing is there: it is no failed poll, after which the next ones would come later. Where the mount is does not matter.
func TestSSHPublicKey(t *testing.T) {
	s := startVault(t)
	s.admin(t, "POST", "sys/mounts/team/login", map[string]any{"type": "ssh"})
	tok := s.token(t, `path "team/login/config/ca" { capabilities = ["read"] }`)
	req := secrets.Request{Path: "team/login/config/ca"}
	var keys []string
	for range 2 {
		_, err := s.Read(t.Context(), tok, req)
		wantKind(t, err, secrets.NotFound, "read team/login/config/ca", "keys haven't been configured yet")

		s.admin(t, "POST", req.Path, map[string]any{"generate_signing_key": true, "key_type": "ed25519"})
		for range 2 { // a read makes nothing
			a, err := s.Read(t.Context(), tok, req)
			must.NoError(t, err)
			must.EqOp(t, secrets.Static, a.Kind)
			must.True(t, a.Changes.IsZero())
			text, _ := a.Fields.Map()["public_key"].(string)
			key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
			must.NoError(t, err)
			keys = append(keys, string(key.Marshal()))
		}
		s.admin(t, "DELETE", req.Path, nil)
	}
	must.EqOp(t, keys[0], keys[1])
	must.EqOp(t, keys[2], keys[3])
	must.NotEqOp(t, keys[0], keys[2])

	// A write there would make a CA.
	_, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: req.Path, Params: map[string]string{"key_type": "ed25519"}})
	wantKind(t, err, secrets.Invalid, "`params`", "leave them out to read it")
	_, err = s.Read(t.Context(), tok, req)
	wantKind(t, err, secrets.NotFound)
}

// What a read may make is never Static: it would be polled.
func TestAnswerKinds(t *testing.T) {
	v1, v2 := mount{path: "kv/", typ: "kv"}, mount{path: "kv/", typ: "kv", v2: true}
	database, aws := mount{path: "database/", typ: "database"}, mount{path: "aws/", typ: "aws"}
	number := json.Number("1893456000")
	for name, test := range map[string]struct {
		m    mount
		path string
		body envelope
		want secrets.Answer
	}{
		"KV v1":                      {v1, "kv/a", envelope{LeaseDuration: 2764800, Data: map[string]any{"a": "1"}}, secrets.Answer{Kind: secrets.Static}},
		"KV v2 without fields":       {v2, "kv/data/a", envelope{Data: map[string]any{"data": nil}}, secrets.Answer{Kind: secrets.Static}},
		"KV with an expiration":      {v1, "kv/a", envelope{Data: map[string]any{"expiration": number}}, secrets.Answer{Kind: secrets.Static}},
		"database static role":       {database, "database/static-creds/a", envelope{Data: map[string]any{"ttl": json.Number("60")}}, secrets.Answer{Kind: secrets.Static, Changes: time.Time{}.Add(time.Minute), Settings: rotations["database"].settings}},
		"aws static role":            {aws, "aws/static-creds/a", envelope{Data: map[string]any{"expiration": "2030-01-01T00:00:00.5Z"}}, secrets.Answer{Kind: secrets.Static, Changes: time.Unix(1893456000, 5e8).UTC(), Settings: rotations["aws"].settings}},
		"aws static role, no moment": {aws, "aws/static-creds/a", envelope{Data: map[string]any{"expiration": nil}}, secrets.Answer{Kind: secrets.Static, Settings: rotations["aws"].settings}},
		"database without a lease":   {database, "database/creds/static-creds/a", envelope{Data: map[string]any{}}, secrets.Answer{Kind: secrets.Opaque}},
		"leased":                     {database, "database/creds/a", envelope{LeaseID: "l", LeaseDuration: 60, Renewable: true, Data: map[string]any{}}, secrets.Answer{Kind: secrets.Leased, Lease: secrets.Lease{ID: "l", Duration: time.Minute, Renewable: true}}},
		"leased, mount unknown":      {mount{}, "x/y", envelope{LeaseID: "l", LeaseDuration: 60, Data: map[string]any{}}, secrets.Answer{Kind: secrets.Leased, Lease: secrets.Lease{ID: "l", Duration: time.Minute, Renewable: false}}},
		"mount unknown":              {mount{}, "x/y", envelope{Data: map[string]any{"expiration": number}}, secrets.Answer{Kind: secrets.Opaque}},
		"mount told with the answer": {mount{}, "x/y", envelope{MountType: "kv", Data: map[string]any{}}, secrets.Answer{Kind: secrets.Static}},
		"certificate":                {mount{path: "p/", typ: "pki"}, "p/issue/a", envelope{Data: map[string]any{"expiration": number}}, secrets.Answer{Kind: secrets.Issued, Ends: time.Unix(1893456000, 0)}},
		"a CA's chain":               {mount{path: "p/", typ: "pki"}, "p/cert/ca_chain", envelope{Data: map[string]any{"certificate": "c"}}, secrets.Answer{Kind: secrets.Static}},
		"certificate by cert/":       {mount{path: "p/", typ: "pki"}, "p/issuer/cert/issue/a", envelope{Data: map[string]any{"expiration": number}}, secrets.Answer{Kind: secrets.Issued, Ends: time.Unix(1893456000, 0)}},
		"an SSH CA's key":            {mount{path: "s/", typ: "ssh"}, "s/config/ca", envelope{Data: map[string]any{"public_key": "k"}}, secrets.Answer{Kind: secrets.Static}},
		"SSH, what else is there":    {mount{path: "s/", typ: "ssh"}, "s/config/ca/x", envelope{Data: map[string]any{"public_key": "k"}}, secrets.Answer{Kind: secrets.Opaque}},
		"ssh, mount unknown":         {mount{}, "config/ca", envelope{MountType: "ssh", Data: map[string]any{"public_key": "k"}}, secrets.Answer{Kind: secrets.Opaque}},
		"pki, mount unknown":         {mount{}, "p/cert/ca_chain", envelope{MountType: "pki", Data: map[string]any{"certificate": "c"}}, secrets.Answer{Kind: secrets.Opaque}},
		"engine not known to us":     {mount{path: "p/", typ: "transit"}, "p/keys/a", envelope{Data: map[string]any{"ttl": number}}, secrets.Answer{Kind: secrets.Opaque}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := answerOf(test.m, request{path: test.path}, reply{status: 200, body: test.body})
			must.NoError(t, err)
			got.Fields = secrets.Fields{}
			must.Eq(t, test.want, got)
		})
	}

	_, err := answerOf(v1, request{operation: "read kv/a"}, reply{status: 200, body: envelope{WrapInfo: json.RawMessage(`{"token":"hvs.x"}`)}})
	wantKind(t, err, secrets.Invalid, "wrapped")
	must.StrNotContains(t, err.Error(), "hvs.x")
	_, err = answerOf(database, request{operation: "read x/y"}, reply{status: 204})
	wantKind(t, err, secrets.NotFound, "empty")
}
