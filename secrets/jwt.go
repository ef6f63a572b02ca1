package secrets

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// JWTExpiry is what a JWT says of its own end (`exp`); zero if it says nothing. Nothing is verified, the server does
// that: it only tells a refusal that passes from others.
func JWTExpiry(jwt Value) time.Time {
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if !jwtClaims(jwt, &claims) || claims.Exp <= 0 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Exp), 0)
}

// NomadAudience is whom a task's default identity is for: Nomad alone.
const NomadAudience = "nomadproject.io"

// IdentityForVault says whether an identity is for Vault, by its name and audience: a guess, for messages.
func IdentityForVault(name string, audience []string) bool {
	return strings.Contains(strings.ToLower(name+" "+strings.Join(audience, " ")), "vault")
}

// JWTAudience is whom a JWT says it is for (`aud`); false: it is no JWT. Nothing is verified.
func JWTAudience(jwt Value) ([]string, bool) {
	var claims struct {
		Aud any `json:"aud"`
	}
	if !jwtClaims(jwt, &claims) {
		return nil, false
	}
	var audience []string
	list, ok := claims.Aud.([]any)
	if !ok {
		list = []any{claims.Aud}
	}
	for _, each := range list {
		if name, ok := each.(string); ok {
			audience = append(audience, name)
		}
	}
	return audience, true
}

// jwtClaims reads what a JWT says; false: it is none.
func jwtClaims(jwt Value, claims any) bool {
	parts := strings.Split(jwt.Text(), ".")
	if len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	return err == nil && json.Unmarshal(payload, claims) == nil
}
