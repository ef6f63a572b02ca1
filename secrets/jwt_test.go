package secrets

import (
	"encoding/base64"
	"testing"

	"github.com/shoenig/test/must"
)

func TestJWTExpiry(t *testing.T) {
	payload := func(s string) Value {
		return TextValue("h." + base64.RawURLEncoding.EncodeToString([]byte(s)) + ".s")
	}
	must.EqOp(t, 1700000000, JWTExpiry(payload(`{"exp":1700000000}`)).Unix())
	must.EqOp(t, 1700000000, JWTExpiry(payload(`{"exp":1.7e9}`)).Unix())
	for _, jwt := range []Value{{}, TextValue("a.b"), TextValue("a.!.c"), payload(`{}`), payload(`{"exp":"soon"}`), payload(`{"exp":-1}`), payload(`[]`)} {
		must.True(t, JWTExpiry(jwt).IsZero())
	}
}
