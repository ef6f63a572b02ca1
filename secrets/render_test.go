package secrets

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// renderSet gives the set of a task that has and is granted nothing beside.
func renderSet(spec *Spec, answers map[string]Answer) (*Set, error) {
	f, err := Fit(spec, answers, Around{})
	return f.Set, err
}

// renderOne compiles a task with the secret "db" and renders it over an answer.
func renderOne(t testing.TB, answer string, change func(*SecretConfig)) (*Set, error) {
	t.Helper()
	return renderTask(t, one(change), map[string]string{"db": answer})
}

func renderTask(t testing.TB, c TaskConfig, answers map[string]string) (*Set, error) {
	t.Helper()
	spec, err := Compile(c)
	must.NoError(t, err)
	m := map[string]Answer{}
	for name, text := range answers {
		m[name] = Answer{Fields: fieldsOf(t, text)}
	}
	return renderSet(spec, m)
}

func envOf(s *Set) map[string]string {
	out := map[string]string{}
	for k, v := range s.Env {
		out[k] = v.Text()
	}
	return out
}

func filesOf(s *Set) map[string]string {
	out := map[string]string{}
	for _, f := range s.Files {
		out[f.Path] = f.Data.Text()
	}
	return out
}

func TestRender(t *testing.T) {
	set, err := renderTask(t, TaskConfig{
		Secrets: map[string]*SecretConfig{
			"db": kv(func(s *SecretConfig) {
				s.Env = []map[string]string{{"DB_USER": "username", "DB_HOST": "conn.host", "DB_CONN": "conn", "APP_username": "username"}}
				s.EnvPrefix = ptr("APP_")
				s.AllFiles = true
				s.Files = map[string]*FileConfig{
					"my.key": {Field: "key", Decode: "base64", Perms: "0440", UID: ptr(7)},
					"t":      {Template: "{{ .username }}@{{ .conn.host }}:{{ .conn.port }}{{ range .conn.tags }},{{ . }}{{ end }}"},
				}
			}),
			"my-app": kv(),
			"gone": kv(func(s *SecretConfig) {
				s.Required = ptr(false)
				s.Env = []map[string]string{{"GONE": "x"}}
				s.AllFiles = true
			}),
		},
		Files: map[string]*FileConfig{
			"all.cnf": {Template: `{{ .db.username }}/{{ index . "my-app" "p" }}{{ if .gone }}{{ .gone.x }}{{ else }} no{{ end }}`},
		},
	}, map[string]string{
		"db":     `{"username":"u","conn":{"host":"h","port":3306,"tags":["a","b"]},"key":"aGk=","a-b.c é":true,"none":null}`,
		"my-app": `{"p":"w"}`,
	})
	must.NoError(t, err)
	conn := `{"host":"h","port":3306,"tags":["a","b"]}`
	must.Eq(t, map[string]string{
		"DB_USER": "u", "DB_HOST": "h", "DB_CONN": conn, "APP_username": "u",
		"APP_USERNAME": "u", "APP_CONN": conn, "APP_KEY": "aGk=", "APP_A_B_C__": "true",
	}, envOf(set))
	must.Eq(t, map[string]string{
		"db/username": "u", "db/conn": conn, "db/key": "aGk=", "db/a-b.c é": "true",
		"my.key": "hi", "t": "u@h:3306,a,b", "all.cnf": "u/w no",
	}, filesOf(set))
	for i, f := range set.Files {
		if i > 0 {
			must.True(t, set.Files[i-1].Path < f.Path)
		}
		if f.Path == "my.key" {
			must.Eq(t, 0o440, f.Perms)
			must.Eq(t, 7, *f.UID)
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	env := func(name, field string) func(*SecretConfig) {
		return func(s *SecretConfig) { s.Env = []map[string]string{{name: field}} }
	}
	prefix := func(p string) func(*SecretConfig) { return func(s *SecretConfig) { s.EnvPrefix = &p } }
	file := func(f FileConfig) func(*SecretConfig) {
		return func(s *SecretConfig) { s.Files = map[string]*FileConfig{"f": &f} }
	}
	allFiles := func(s *SecretConfig) { s.AllFiles = true }
	for name, c := range map[string]struct {
		answer string
		change func(*SecretConfig)
		want   string
		kind   ErrorKind
	}{
		"no field":              {`{"password":"hunter2","username":"u"}`, env("A", "pasword"), `secret "db": env A: no field "pasword"; there are: password, username`, NotFound},
		"no nested field":       {`{"a":{"hunter2":1}}`, env("A", "a.b"), `secret "db": env A: no field "a.b"; there are: a`, NotFound},
		"no fields":             {`{}`, env("A", "a"), `secret "db": env A: no field "a"; there are no fields at all`, NotFound},
		"file's field":          {`{"b":"hunter2"}`, file(FileConfig{Field: "a"}), `secret "db": file "f": no field "a"; there are: b`, NotFound},
		"template's field":      {`{"b":"hunter2"}`, file(FileConfig{Template: "\n{{ .a }}"}), `secret "db": file "f": template line 2 <.a>: no field "a"; there are: b`, NotFound},
		"its own name by index": {`{"b":"hunter2"}`, file(FileConfig{Template: "{{ index .db \"b\" }}"}), `secret "db": file "f": template line 1 <.db>: no field "db"; there are: b; in a secret's own file fields go without the secret's name`, NotFound},
		"its own name, quoted":  {`{"b":"hunter2"}`, file(FileConfig{Template: "{{ index . \"db\" \"b\" }}"}), `secret "db": file "f": template line 1 <index . "db" "b">: nothing by that name is there; there are: b; in a secret's own file fields go without the secret's name`, NotFound},
		"its own name by with":  {`{"b":"hunter2"}`, file(FileConfig{Template: "{{ with .db }}{{ .b }}{{ end }}"}), `secret "db": file "f": template line 1 <.db>: no field "db"; there are: b; in a secret's own file fields go without the secret's name`, NotFound},
		"its own name":          {`{"b":"hunter2"}`, file(FileConfig{Template: "{{ .db.b }}"}), `secret "db": file "f": template line 1 <.db.b>: no field "db"; there are: b; in a secret's own file fields go without the secret's name`, NotFound},
		"null":                  {`{"a":null}`, env("A", "a"), `secret "db": env A: field "a" is null`, Invalid},
		"null file":             {`{"a":null}`, file(FileConfig{Field: "a"}), `secret "db": file "f": field "a" is null`, Invalid},
		"null in template":      {`{"a":null}`, file(FileConfig{Template: "{{ .a }}"}), `secret "db": file "f": template line 1: the value is null`, Invalid},
		"NUL in env":            {`{"a":"hunter2\u0000"}`, env("A", "a"), `secret "db": env A: the field "a" contains a NUL, which no variable can hold; deliver it as a file`, Invalid},
		"NUL by prefix":         {`{"a":"hunter2\u0000"}`, prefix("P_"), `secret "db": env P_A: the field "a" contains a NUL, which no variable can hold; deliver it as a file`, Invalid},
		"long env":              {`{"a":"` + strings.Repeat("x", 128<<10) + `"}`, env("A", "a"), `secret "db": env A: the field "a" is 131072 bytes long, and Linux takes no variable above 128 KiB; deliver it as a file`, Invalid},
		"bad base64":            {`{"a":"hunter2!"}`, file(FileConfig{Field: "a", Decode: "base64"}), `secret "db": file "f": field "a": is not base64; take decode out, or store the field in base64`, Invalid},
		"prefix clash":          {`{"a.b":"hunter2","a-b":"hunter2"}`, prefix("P_"), `secret "db": field "a.b" gives the variable P_A_B, which secret "db" (field "a-b") sets too; give one of them another name`, Invalid},
		"Nomad's by prefix":     {`{"mad_x":"hunter2"}`, prefix("NO"), `secret "db": field "mad_x" gives the variable "NOMAD_X": names that begin with NOMAD_ are Nomad's; use another`, Invalid},
		"bad by prefix":         {`{"1":"hunter2"}`, prefix(""), `secret "db": field "1" gives the variable "1": not a valid variable name; use a letter or _ first, then letters, digits or _`, Invalid},
		"slash in a file":       {`{"../x":"hunter2"}`, allFiles, `secret "db": files: the field "../x" cannot be a file's name; deliver the fields by file blocks`, Invalid},
		"dots as a file":        {`{"..":"hunter2"}`, allFiles, `secret "db": files: the field ".." cannot be a file's name; deliver the fields by file blocks`, Invalid},
		"empty file name":       {`{"":"hunter2"}`, allFiles, `secret "db": files: the field "" cannot be a file's name; deliver the fields by file blocks`, Invalid},
		"clash of files": {`{"x":"hunter2"}`, func(s *SecretConfig) { s.AllFiles, s.Files = true, map[string]*FileConfig{"db/x": {Template: "t"}} },
			`secret "db": files: field "x": the file is written by secret "db": file "db/x" too; give one of them another path`, Invalid},
		"env and prefix": {`{"x":"hunter2","y":"hunter2"}`, func(s *SecretConfig) { env("P_X", "y")(s); prefix("P_")(s) },
			`secret "db": field "x" gives the variable P_X, which secret "db" (field "y") sets too; give one of them another name`, Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := renderOne(t, c.answer, c.change)
			must.EqError(t, err, c.want)
			must.Eq(t, c.kind, KindOf(err))
		})
	}
}

func TestRenderAcrossSecrets(t *testing.T) {
	// Two secrets may not set one name (S4), also when only the answers show it.
	_, err := renderTask(t, TaskConfig{Secrets: map[string]*SecretConfig{
		"a": kv(func(s *SecretConfig) { s.EnvPrefix = ptr("X_") }),
		"b": kv(func(s *SecretConfig) { s.Env = []map[string]string{{"X_F": "f"}} }),
		"c": kv(),
	}}, map[string]string{"a": `{"f":"hunter2"}`, "b": `{"f":"hunter2"}`})
	must.EqError(t, err, `secret "c": there is no answer for it, and it is required`+"\n"+
		`secret "a": field "f" gives the variable X_F, which secret "b" (field "f") sets too; give one of them another name`)

	_, err = renderTask(t, TaskConfig{
		Secrets: map[string]*SecretConfig{"a": kv()},
		Files:   map[string]*FileConfig{"x": {Template: `{{ .a.g }}`}, "y": {Template: `{{ .b.g }}`}, "z": {Template: `{{ index .a "g" }}`}},
	}, map[string]string{"a": `{"f":"hunter2"}`})
	must.EqError(t, err, `file "x": template line 1 <.a.g>: no field "g"; there are: a.f`+"\n"+
		`file "y": template line 1 <.b.g>: no field "b"; there are: a.f`+"\n"+
		`file "z": template line 1 <index .a "g">: nothing by that name is there; there are: a.f`)
	must.Eq(t, NotFound, KindOf(err))
}

// TestRenderBytes upholds S7.
func TestRenderBytes(t *testing.T) {
	raw := make([]byte, 64<<10)
	for i := range raw {
		raw[i] = byte(i * 7)
	}
	b64 := base64.StdEncoding.EncodeToString(raw)
	text := "line\nquo\"te's\\ \tü $HOME\r\n"
	set, err := renderTask(t, one(func(s *SecretConfig) {
		s.Env = []map[string]string{{"TEXT": "text", "LONG": "long"}}
		s.Files = map[string]*FileConfig{
			"raw": {Field: "raw", Decode: "base64"}, "nul": {Field: "nul"}, "text": {Field: "text"},
			"tmpl": {Template: "{{ .text }}{{ .nul }}{{ b64dec .raw }}"},
		}
	}), map[string]string{"db": string(must2(compactJSON(map[string]any{"raw": b64, "nul": "a\x00b", "text": text, "long": strings.Repeat("v", 64<<10)})))})
	must.NoError(t, err)
	must.Eq(t, text, set.Env["TEXT"].Text())
	must.Eq(t, 64<<10, set.Env["LONG"].Len())
	files := filesOf(set)
	must.Eq(t, "a\x00b", files["nul"])
	must.Eq(t, text, files["text"])
	must.True(t, bytes.Equal(raw, []byte(files["raw"])))
	must.True(t, files["tmpl"] == text+"a\x00b"+string(raw))
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestDecodeBase64(t *testing.T) {
	raw := []byte{0xfb, 0xff, 0, 1, 2, '\n'}
	for _, text := range []string{
		base64.StdEncoding.EncodeToString(raw[:4]), base64.RawStdEncoding.EncodeToString(raw[:4]),
		base64.URLEncoding.EncodeToString(raw[:4]), base64.RawURLEncoding.EncodeToString(raw[:4]),
		"+/8\r\n AA\tQ==\n"[:0] + base64.StdEncoding.EncodeToString(raw[:4])[:3] + "\r\n " + base64.StdEncoding.EncodeToString(raw[:4])[3:] + "\n",
	} {
		v, err := decodeBase64(TextValue(text))
		must.NoError(t, err)
		must.Eq(t, raw[:4], v.Bytes())
	}
	for _, text := range []string{"a", "hunter2!", "$$$$"} {
		_, err := decodeBase64(TextValue(text))
		must.EqError(t, err, "is not base64; take decode out, or store the field in base64")
	}
}

// TestRenderIsRepeatable upholds C7: the same answers give the same set, whatever a map's order is.
func TestRenderIsRepeatable(t *testing.T) {
	answer := `{"a":"1","b":"2","c":"3","d":{"x":1,"y":2,"z":3}}`
	change := func(s *SecretConfig) {
		s.AllFiles, s.EnvPrefix = true, ptr("")
		s.Files = map[string]*FileConfig{"t": {Template: `{{ keys . }}{{ values .d }}{{ toJson . }}{{ .d }}{{ range $k, $v := .d }}{{ $k }}{{ end }}{{ dict "q" 1 "p" 2 }}`}}
	}
	first, err := renderOne(t, answer, change)
	must.NoError(t, err)
	for range 50 {
		again, err := renderOne(t, answer, change)
		must.NoError(t, err)
		must.True(t, first.Equal(again))
	}
}

// TestFieldEnvName: whatever a field's name is, with a letter before it, it makes a valid name.
func TestFieldEnvName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		field := rapid.String().Draw(t, "field")
		name := fieldEnvName(field)
		if err := checkEnvName("P_" + name); err != nil {
			t.Fatalf("%q gives %q: %v", field, name, err)
		}
		if name != strings.ToUpper(name) || len([]rune(name)) != len([]rune(field)) {
			t.Fatalf("%q gives %q", field, name)
		}
	})
}

func FuzzFieldEnvName(f *testing.F) {
	for _, s := range []string{"", "a", "db-password", "é", "\xff", "A=B", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, field string) {
		if err := checkEnvName("P_" + fieldEnvName(field)); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzRender: whatever the server answers, Render never panics, never names a file outside of the
// directory, and what it says of an error does not hold the canary.
func FuzzRender(f *testing.F) {
	f.Add([]byte(`{"username":"u","password":"hunter2-canary"}`), "password", "{{ .password | b64dec }}")
	f.Add([]byte(`{"a":{"b":[1,null,"hunter2-canary"]}}`), "a.b", "{{ range .a.b }}{{ atoi . }}{{ end }}")
	f.Add([]byte(`{"../x":"hunter2-canary"}`), "../x", `{{ fail (index . "../x") }}`)
	f.Add([]byte(`{"a":"hunter2-canary"}`), "a", `{{ range .a }}{{ end }}{{ fromJson .a }}{{ regexFind .a .a }}`)
	f.Fuzz(func(t *testing.T, answer []byte, field, tmpl string) {
		fields, err := FieldsFromJSON(answer)
		if err != nil {
			return
		}
		spec, err := Compile(one(func(s *SecretConfig) {
			s.Env = []map[string]string{{"A": field}}
			s.EnvPrefix, s.AllFiles = ptr("P_"), true
			s.Files = map[string]*FileConfig{"f": {Field: field}, "t": {Template: tmpl}}
		}))
		if err != nil {
			return
		}
		set, err := renderSet(spec, map[string]Answer{"db": {Fields: fields}})
		if err != nil {
			names := strings.Join(fields.Names(), " ") + field + tmpl
			must.True(t, strings.Contains(names, canary) || !strings.Contains(err.Error(), canary), must.Sprint(err))
			return
		}
		for _, file := range set.Files {
			must.NoError(t, CheckFilePath(file.Path))
		}
	})
}
