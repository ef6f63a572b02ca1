package secrets

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func fieldsOf(t testing.TB, text string) Fields {
	t.Helper()
	f, err := FieldsFromJSON([]byte(text))
	must.NoError(t, err)
	return f
}

func TestFieldsLookup(t *testing.T) {
	f := fieldsOf(t, `{"a":{"b":{"c":"deep","c.d":"dotted end"},"x":"child"},"a.x":"exact","a.b":{"z":"exact map"},
		"n":12345678901234567890,"f":1.50,"t":true,"null":null,"l":[1,{"k":"<&>"}],"":"empty name","e":""}`)
	for path, want := range map[string]string{
		"a.b.c":   "deep", // not in the exact key "a.b", so in the nested one
		"a.b.c.d": "dotted end",
		"a.x":     "exact", // wins over a's child x
		"a.b.z":   "exact map",
		"n":       "12345678901234567890",
		"f":       "1.50",
		"t":       "true",
		"l":       `[1,{"k":"<&>"}]`,
		"a.b":     `{"z":"exact map"}`,
		"":        "empty name",
		"e":       "",
	} {
		v, err := fieldOf(f, path)
		must.NoError(t, err, must.Sprint(path))
		must.Eq(t, want, v.Text(), must.Sprint(path))
	}
	for path, want := range map[string]string{
		"pasword": `no field "pasword"; there are: , a, a.b, a.x, e, f, l, n, null, t`,
		"a.b.q":   `no field "a.b.q"; there are: , a, a.b, a.x, e, f, l, n, null, t`,
		"t.x":     `no field "t.x"; there are: , a, a.b, a.x, e, f, l, n, null, t`,
		"null":    `field "null" is null`,
	} {
		_, err := fieldOf(f, path)
		must.EqError(t, err, want)
	}
	_, err := fieldOf(Fields{}, "x")
	must.EqError(t, err, `no field "x"; there are no fields at all`)
	must.Eq(t, NotFound, KindOf(err))
}

func TestFieldsRevealAndDigest(t *testing.T) {
	text := `{"a":"x<y","n":1.0,"o":{"k":[true,null,"\n"]}}`
	f := fieldsOf(t, text)
	must.Eq(t, text, mustReveal(t, f))
	must.Eq(t, json.Number("1.0"), f.content()["n"].(json.Number))

	key := []byte("key")
	same := fieldsOf(t, `{ "o": {"k":[true,null,"\n"]}, "n":1.0, "a":"x<y" }`)
	must.Eq(t, f.Digest(key), same.Digest(key)) // C7: the order of keys is no change
	must.NotEq(t, f.Digest(key), f.Digest([]byte("other")))
	for _, other := range []string{`{}`, `{"a":"x<y","n":1.0,"o":{"k":[true,null,"\n "]}}`, `{"a":"x<y","n":"1.0","o":{"k":[true,null,"\n"]}}`} {
		must.NotEq(t, f.Digest(key), fieldsOf(t, other).Digest(key))
	}
	must.Eq(t, Fields{}.Digest(key), fieldsOf(t, `{}`).Digest(key))
}

func TestFieldsFromJSONRefuses(t *testing.T) {
	for _, text := range []string{"", "null", "[]", `"` + canary + `"`, `{"a":"` + canary + `"`, `{"a":` + canary + `}`, `{} ` + canary} {
		_, err := FieldsFromJSON([]byte(text))
		must.Error(t, err, must.Sprint(text))
		must.False(t, strings.Contains(err.Error(), "hunter2"))
	}
}

func TestFieldsMapIsACopy(t *testing.T) {
	f := fieldsOf(t, `{"o":{"k":"v"},"l":[{"k":"v"}]}`)
	m := f.Map()
	m["o"].(map[string]any)["k"] = "changed"
	m["l"].([]any)[0].(map[string]any)["k"] = "changed"
	must.Eq(t, `{"l":[{"k":"v"}],"o":{"k":"v"}}`, mustReveal(t, f))
	must.NotNil(t, Fields{}.Map())
}

func mustReveal(t *testing.T, f Fields) string {
	var b strings.Builder
	must.NoError(t, f.WriteJSON(&b))
	return b.String()
}

func TestSetComparison(t *testing.T) {
	id := func(n int) *int { return &n }
	base := func() *Set {
		return &Set{
			Env:   map[string]Value{"A": TextValue("1")},
			Files: []RenderedFile{{Path: "f", Data: TextValue("x"), Perms: 0o400, UID: id(7)}},
		}
	}
	must.True(t, base().Equal(base()))
	must.True(t, (*Set)(nil).Equal(&Set{}))
	for name, c := range map[string]struct {
		change    func(*Set)
		env, file bool
	}{
		"value":    {func(s *Set) { s.Env["A"] = TextValue("2") }, false, true},
		"variable": {func(s *Set) { s.Env["B"] = TextValue("") }, false, true},
		"content":  {func(s *Set) { s.Files[0].Data = TextValue("y") }, true, false},
		"perms":    {func(s *Set) { s.Files[0].Perms = 0o440 }, true, false},
		"owner":    {func(s *Set) { s.Files[0].UID = id(8) }, true, false},
		"no owner": {func(s *Set) { s.Files[0].UID = nil }, true, false},
		"group":    {func(s *Set) { s.Files[0].GID = id(0) }, true, false},
		"path":     {func(s *Set) { s.Files[0].Path = "g" }, true, false},
		"no file":  {func(s *Set) { s.Files = nil }, true, false},
	} {
		o := base()
		c.change(o)
		must.Eq(t, c.env, base().SameEnv(o), must.Sprint(name))
		must.Eq(t, c.file, base().SameFiles(o), must.Sprint(name))
		must.False(t, base().Equal(o), must.Sprint(name))
	}
}
