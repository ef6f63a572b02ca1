package harness

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/hashicorp/vault/api"
)

// Identities signs JWTs, as Nomad does for an identity block.
type Identities struct{ signer jose.Signer }

// EnableJWT enables the JWT auth method with one role, which has these options, too. What the result signs can log in there.
func (v *Vault) EnableJWT(ctx context.Context, mount, role string, options map[string]any) (*Identities, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	if err != nil {
		return nil, err
	}
	if err := v.client.Sys().EnableAuthWithOptionsWithContext(ctx, mount, &api.EnableAuthOptions{Type: "jwt"}); err != nil {
		return nil, fmt.Errorf("enable the JWT auth method at %s: %w", mount, err)
	}
	err = v.write(ctx, "auth/"+mount+"/config", map[string]any{
		"jwt_validation_pubkeys": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
	})
	if err != nil {
		return nil, err
	}
	all := map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault.io"}
	maps.Copy(all, options)
	return &Identities{signer}, v.write(ctx, "auth/"+mount+"/role/"+role, all)
}

// JWT is one that lives for so long.
func (i *Identities) JWT(life time.Duration) (string, error) {
	now := time.Now()
	return jwt.Signed(i.signer).Claims(jwt.Claims{
		Subject: "e2e", Audience: jwt.Audience{"vault.io"}, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(life)),
	}).Serialize()
}
