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
	parts := strings.Split(jwt.Text(), ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Exp <= 0 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Exp), 0)
}
