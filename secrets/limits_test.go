package secrets

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"text/template"
	"time"
	"unicode/utf8"

	"github.com/shoenig/test/must"
)

// Each test here upholds a part of S8: one task cannot use up what all tasks of the node share.

// config is a secret with what change puts into it.
func config(change func(*TaskConfig)) TaskConfig {
	c := one()
	change(&c)
	return c
}

func TestLimitsOfConfig(t *testing.T) {
	many := func(n int) map[string]*FileConfig {
		m := map[string]*FileConfig{}
		for i := range n {
			m[fmt.Sprint("f", i)] = &FileConfig{Template: "x"}
		}
		return m
	}
	secretsOf := func(n int) map[string]*SecretConfig {
		m := map[string]*SecretConfig{}
		for i := range n {
			m[fmt.Sprint("s", i)] = &SecretConfig{Path: "secret/x"}
		}
		return m
	}
	for want, c := range map[string]TaskConfig{
		"201 secrets are more than the 200 that one task may have":         {Secrets: secretsOf(201)},
		"1001 file blocks are more than the 1000 files":                    {Files: many(1001)},
		"1001 file blocks are more than the 1000 files that":               {Files: many(500), Secrets: map[string]*SecretConfig{"a": {Path: "p", Files: many(501)}}},
		"the secret and file blocks are larger than 4 MiB together":        {Files: map[string]*FileConfig{"a": {Template: strings.Repeat("x", 5<<20)}}},
		"the secret and file blocks are larger than 4 MiB together, wh":    config(func(c *TaskConfig) { c.Secrets["db"].Params = []map[string]string{{"a": strings.Repeat("x", 5<<20)}} }),
		"the secret and file blocks are larger than 4 MiB together, whi":   config(func(c *TaskConfig) { c.Secrets["db"].Env = []map[string]string{numbered(300_000)} }),
		"the secret and file blocks are larger than 4 MiB together, which": config(func(c *TaskConfig) { c.Secrets["db"].Params = make([]map[string]string, 300_000) }),
	} {
		_, err := Compile(c)
		must.ErrorContains(t, err, want)
		must.True(t, IsLimit(err))
		must.Eq(t, Invalid, KindOf(err))
		must.LessEq(t, maxText, len(err.Error()))
	}
	for want, c := range map[string]TaskConfig{
		`secret "db": path is longer than 512 bytes`:                                                         config(func(c *TaskConfig) { c.Secrets["db"].Path = strings.Repeat("x/", 300) }),
		`role is longer than 256 bytes`:                                                                      config(func(c *TaskConfig) { c.Role = strings.Repeat("x", 300) }),
		`namespace is longer than 256 bytes`:                                                                 config(func(c *TaskConfig) { c.Namespace = strings.Repeat("x", 300) }),
		`secret "db": env A: the field's name is longer than 512 bytes`:                                      config(func(c *TaskConfig) { c.Secrets["db"].Env = []map[string]string{{"A": strings.Repeat("a.", 300)}} }),
		`secret "db": file "x": the field's name is longer than 512`:                                         withFile("x", &FileConfig{Field: strings.Repeat("x", 600)}),
		`is more than 16 directories deep`:                                                                   withFile(strings.Repeat("d/", 17)+"x", &FileConfig{Field: "x"}),
		`secret "db": file "x": the template's actions, all between {{ and }}, are longer than 64 KiB`:       withFile("x", &FileConfig{Template: "{{ print" + strings.Repeat(" 1", 40_000) + " }}"}),
		`secret "db": file "x": the template's actions, all between {{ and }}, are longer than 64 KiB` + " ": withFile("x", &FileConfig{Template: strings.Repeat("{{.a}}", 12_000)}),
	} {
		_, err := Compile(c)
		must.ErrorContains(t, err, strings.TrimSpace(want))
		must.LessEq(t, maxText, len(err.Error()))
	}
	// The most that a job may ask for compiles.
	most := TaskConfig{Secrets: secretsOf(MaxSecrets), Files: many(MaxFiles)}
	_, err := Compile(most)
	must.NoError(t, err)
}

// What the policies grant counts, too, and what is too much of it is left out: it keeps no task from starting.
func TestLimitsOfDiscovery(t *testing.T) {
	d := &Discovery{}
	for i := range MaxSecrets {
		d.Found = append(d.Found, Found{Path: fmt.Sprintf("kv/data/found-%05d", i)})
	}
	c := TaskConfig{FromPolicies: "env", Secrets: map[string]*SecretConfig{}}
	for i := range 50 {
		c.Secrets[fmt.Sprint("declared", i)] = &SecretConfig{Path: fmt.Sprint("kv/declared", i)}
	}
	out, left := Expand(c, d, nil)
	must.MapLen(t, MaxSecrets, out.Secrets)
	must.MapContainsKey(t, out.Secrets, "declared49")
	must.MapContainsKey(t, out.Secrets, "found-00149")
	must.Len(t, 50, left)
	must.StrContains(t, left[0].Why, "200")
	_, err := Compile(out)
	must.NoError(t, err)
}

func numbered(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("V%d", i)] = "f"
	}
	return m
}

// allocated is what this process has ever allocated, in bytes.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// templatesOf is a task with that template in n files.
func templatesOf(n int, template string) *Spec {
	spec := &Spec{Secrets: []Secret{{Name: "a", Required: true}}}
	for i := range n {
		spec.Secrets[0].Files = append(spec.Secrets[0].Files, File{Path: fmt.Sprintf("f%04d", i), Template: template})
	}
	return spec
}

func answersOf(data map[string]any) map[string]Answer {
	return map[string]Answer{"a": {Fields: NewFields(data)}}
}

func TestLimitsOfTemplatesTogether(t *testing.T) {
	big := strings.Repeat("x", 1000)
	for name, c := range map[string]struct {
		spec *Spec
		want string
	}{
		"25 that never end":          {templatesOf(25, `{{ range 1000000000000 }}{{ end }}`), `file "f0000": template line 1: it runs for longer than 1s`},
		"700 of 1 KB that make 1 MB": {templatesOf(700, `{{ range 1000 }}`+big+`{{ end }}`), `the output of the task's templates is longer than 8 MiB together`},
		"many large values in functions": {templatesOf(1000, `{{ $x := printf "%60000d" 1 }}{{ range 15 }}{{ $y := upper (print $x $x $x $x $x) }}{{ end }}`),
			`a value in it grows too large`},
	} {
		t.Run(name, func(t *testing.T) {
			before, start := allocated(), time.Now()
			_, err := renderSet(c.spec, answersOf(map[string]any{"k": "v"}))
			must.ErrorContains(t, err, c.want)
			must.True(t, IsLimit(err))
			must.StrNotContains(t, err.Error(), "\n") // it ends at the first
			// One template's second, or the task's two, and what a busy machine adds.
			must.Less(t, 10*time.Second, time.Since(start))
			must.Less(t, 512<<20, allocated()-before) // most of it is garbage at once
		})
	}
	// Their time is one, whatever one of them may take.
	b := NewBudget()
	defer b.Close()
	b.templates.time = 50 * time.Millisecond
	_, err := b.Fit(templatesOf(2, `{{ range 1000000000000 }}{{ end }}`), answersOf(nil), Around{})
	must.ErrorContains(t, err, "the task's templates together run for longer than 2s")
	must.LessEq(t, 0, b.templates.time)
	_, err = b.Fit(templatesOf(1, `{{ range 1 }}{{ end }}`), answersOf(nil), Around{})
	must.True(t, IsLimit(err))
	// What many tasks have is far from it.
	_, err = renderSet(templatesOf(1000, `{{ .k | upper }}`), answersOf(map[string]any{"k": "v"}))
	must.NoError(t, err)
}

// One call cannot be interrupted: so what it gets is bounded.
func TestLimitsOfComparisons(t *testing.T) {
	field := strings.Repeat("x", 512<<10)
	data := answersOf(map[string]any{"a": field + "a", "b": field + "b", "c": strings.Repeat("y", 400<<10), "d": strings.Repeat("y", 400<<10) + "z"})
	for _, src := range []string{
		"{{ if eq .a" + strings.Repeat(" .b", 20_000) + " }}x{{ end }}",
		"{{ range 1000000000 }}{{ if eq $.c" + strings.Repeat(" $.d", 10) + " }}x{{ end }}{{ end }}",
		"{{ range 1000000000 }}{{ if lt $.c $.d }}{{ end }}{{ end }}",
	} {
		start := time.Now()
		_, err := renderSet(templatesOf(1, src), data)
		must.True(t, IsLimit(err), must.Sprint(err))
		must.Less(t, 10*time.Second, time.Since(start))
	}
}

// A method is no function of ours: it gets short arguments only, however it gets them.
func TestLimitsOfMethods(t *testing.T) {
	for _, src := range []string{
		`{{ $t := toDate "2006-01-02" "2024-12-31" }}{{ $x := "12" }}{{ range 100 }}{{ $x = $t.Format $x }}{{ end }}{{ $x }}`,
		`{{ $t := toDate "2006-01-02" "2024-12-31" }}{{ $x := "12" }}{{ range 100 }}{{ $x = ($x | $t.Format) }}{{ end }}{{ $x }}`,
		`{{ $x := "12" }}{{ range 100 }}{{ $x = (toDate "2006-01-02" "2024-12-31").Format $x }}{{ end }}{{ $x }}`,
		`{{ $d := dict "t" (toDate "2006-01-02" "2024-12-31") }}{{ $x := "12" }}{{ range 100 }}{{ $x = $d.t.Format (print $x) }}{{ end }}{{ $x }}`,
	} {
		_, err := newTemplateRun(time.Now().Add(time.Hour)).render(src, nil)
		must.ErrorContains(t, err, "a value in it grows too large")
		must.StrNotContains(t, err.Error(), "_small")
	}
	v, err := newTemplateRun(soon()).render(`{{ $t := toDate "2006-01-02" "2024-12-31" }}{{ $t.Year }} {{ ($t.AddDate 1 0 0).Format "2006-01" }} {{ "06" | $t.Format }} {{ ($t.UTC.Add 1).Unix }}`, nil)
	must.NoError(t, err)
	must.StrHasPrefix(t, "2024 2025-12 24 ", v.Text())
}

// TestComparisonsMeanTheSame: ours are what Go's own are, errors included.
func TestComparisonsMeanTheSame(t *testing.T) {
	data := map[string]any{
		"nil": nil, "s": "a", "t": "b", "i": 1, "j": 2, "u": uint(1), "v": uint8(9), "neg": -1, "f": 1.0, "g": 1.5,
		"b": true, "c": false, "m": map[string]any{}, "l": []any{1}, "d": time.Unix(0, 0), "e": time.Unix(0, 0),
	}
	for _, fn := range []string{"eq", "ne", "lt", "le", "gt", "ge"} {
		for x := range data {
			for y := range data {
				src := fmt.Sprintf("{{ %s .%s .%s }}", fn, x, y)
				var want strings.Builder
				wantErr := template.Must(template.New("").Parse(src)).Execute(&want, data)
				got, err := newTemplateRun(soon()).render(src, data)
				must.Eq(t, wantErr == nil, err == nil, must.Sprint(src, " Go's own: ", wantErr, ", ours: ", err))
				if err == nil {
					must.Eq(t, want.String(), got.Text(), must.Sprint(src))
				}
			}
		}
	}
	v, err := newTemplateRun(soon()).render(`{{ eq .s "x" "a" }}{{ eq .s "x" "y" }}{{ eq .i 3 2 1 }}`, data)
	must.NoError(t, err)
	must.Eq(t, "truefalsetrue", v.Text())
}

func TestLimitsOfSet(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	fields := map[string]any{}
	for i := range 2000 {
		fields[fmt.Sprint("f", i)] = "x"
	}
	many := func(n int, size int) (*Spec, map[string]Answer) {
		spec, answers := &Spec{}, map[string]Answer{}
		for i := range n {
			name := fmt.Sprint("s", i)
			spec.Secrets = append(spec.Secrets, Secret{Name: name, Required: true})
			answers[name] = Answer{Fields: NewFields(map[string]any{"v": strings.Repeat("x", size)})}
		}
		return spec, answers
	}
	repeated := &Spec{Secrets: []Secret{{Name: "a", Required: true}}}
	for i := range 40 {
		repeated.Secrets[0].Files = append(repeated.Secrets[0].Files, File{Path: fmt.Sprint(i), Field: "v"})
	}
	prefix := ""
	environment := &Spec{Secrets: []Secret{{Name: "a", Required: true, EnvPrefix: &prefix}}}
	large := map[string]any{}
	for i := range 30 {
		large[fmt.Sprint("v", i)] = big[:100<<10]
	}
	for want, c := range map[string]func() (*Spec, map[string]Answer){
		"the task's secrets are larger than 32 MiB together": func() (*Spec, map[string]Answer) { return many(5, 7<<20) },
		"the task has more than 1000 files": func() (*Spec, map[string]Answer) {
			return &Spec{Secrets: []Secret{{Name: "a", Required: true, AllFiles: true}}}, answersOf(fields)
		},
		"the task's variables and files are larger than 32 MiB together": func() (*Spec, map[string]Answer) {
			return repeated, answersOf(map[string]any{"v": big})
		},
		"the task's variables are larger than 2048 KiB together": func() (*Spec, map[string]Answer) { return environment, answersOf(large) },
	} {
		spec, answers := c()
		_, err := renderSet(spec, answers)
		must.ErrorContains(t, err, want)
		must.True(t, IsLimit(err))
		must.LessEq(t, maxText, len(err.Error()))
	}
	spec, answers := many(4, 7<<20)
	before := allocated()
	_, err := renderSet(spec, answers)
	must.NoError(t, err)
	must.Less(t, 1<<20, allocated()-before) // nothing is copied
}

// TestErrorsAreShort: what has many or long names in it is an error of at most 2 KiB that still says what
// is wrong, with twenty names.
func TestErrorsAreShort(t *testing.T) {
	long := map[string]any{}
	for i := range 9000 {
		long[fmt.Sprintf("%04d-%s", i, strings.Repeat("n", 90))] = "v"
	}
	short := map[string]any{}
	for i := range 9000 {
		short[fmt.Sprintf("f%04d", i)] = "v"
	}
	wrong := &Spec{Secrets: []Secret{{Name: "a", Required: true, Env: numbered(1000)}}}
	one := &Spec{Secrets: []Secret{{Name: "a", Required: true, Env: map[string]string{"X": "mistyped"}}}}
	inTemplate := &Spec{Secrets: []Secret{{Name: "a", Required: true}}, Files: []File{{Path: "x", Template: "{{ .a.mistyped }}"}}}
	for name, c := range map[string]struct {
		spec  *Spec
		data  map[string]any
		parts []string
	}{
		"one wrong name":        {one, long, []string{`secret "a": env X: no field "mistyped"; there are: 0000-nnn`, "more"}},
		"one wrong name, short": {one, short, []string{`no field "mistyped"; there are: f0000, f0001`, "f0019, and 8980 more"}},
		"a thousand":            {wrong, long, []string{`secret "a": env V0: no field "f"; there are: 0000`, "\nand more"}},
		"in a template":         {inTemplate, short, []string{`file "x": template line 1 <.a.mistyped>: no field "mistyped"; there are: a.f0000, `, "a.f0019, and 8980 more"}},
	} {
		_, err := renderSet(c.spec, answersOf(c.data))
		for _, part := range c.parts {
			must.ErrorContains(t, err, part, must.Sprint(name))
		}
		must.LessEq(t, maxText, len(err.Error()))
		must.Eq(t, NotFound, KindOf(err), must.Sprint(name))
	}

	c := TaskConfig{Secrets: map[string]*SecretConfig{}}
	for i := range MaxSecrets {
		c.Secrets[fmt.Sprintf("s%03d-%s", i, strings.Repeat("x", 100))] = &SecretConfig{Path: "sys/x", ChangeMode: strings.Repeat("y", 10_000), Splay: "no"}
	}
	_, err := Compile(c)
	must.ErrorContains(t, err, `secret "s000-xxx`)
	must.ErrorContains(t, err, "more")
	must.LessEq(t, maxText, len(err.Error()))
}

func TestShorten(t *testing.T) {
	must.Eq(t, "short", Shorten("short"))
	for range 1000 {
		text := strings.Repeat(string([]rune{'a', 'é', '€', '𝄞'}[rand.N(4)]), 1000+rand.N(2000))
		got := Shorten(text)
		must.LessEq(t, maxText, len(got))
		must.True(t, utf8.ValidString(got))
		must.True(t, got == text || strings.HasSuffix(got, "…"))
	}
	err := ShortError(Errorf(Refused, "%s", strings.Repeat("x", 5000)))
	must.Eq(t, Refused, KindOf(err))
	must.LessEq(t, maxText, len(err.Error()))
	must.NoError(t, ShortError(nil))
}

// FuzzWriteJSON: what is written in pieces reads back as it was, and is no longer than it counts.
func FuzzWriteJSON(f *testing.F) {
	f.Add(`{"a":"x\u2028<\u0000\"\\é","n":1.50,"o":{"k":[true,null,{},[]]},"e":{}}`, 3)
	f.Add(`{"":""}`, 40_000)
	f.Fuzz(func(t *testing.T, text string, repeat int) {
		fields, err := FieldsFromJSON([]byte(text))
		if err != nil {
			return
		}
		fields.content()["long"] = strings.Repeat(strings.ToValidUTF8(text, "?")+"é", max(0, min(repeat, 100_000))/(len(text)+2))
		var b strings.Builder
		must.NoError(t, fields.WriteJSON(&b))
		again, err := FieldsFromJSON([]byte(b.String()))
		must.NoError(t, err)
		want, err := compactJSON(fields.Map())
		must.NoError(t, err)
		got, err := compactJSON(again.Map())
		must.NoError(t, err)
		must.Eq(t, string(want), string(got))
		must.LessEq(t, fields.Size(), b.Len())
	})
}

// FuzzDecode: what is decoded in pieces is what the standard library makes of it.
func FuzzDecode(f *testing.F) {
	f.Add(`{"a":"x\u2028","n":1.50,"o":{"k":[true,null,{},[]]},"e":{}} `)
	f.Add(`{"a":1}{"b":2}`)
	f.Add(`{"a":1,}`)
	f.Fuzz(func(t *testing.T, text string) {
		dec := json.NewDecoder(strings.NewReader(text))
		dec.UseNumber()
		var want map[string]any
		wantErr := dec.Decode(&want)
		dec = json.NewDecoder(strings.NewReader(text))
		dec.UseNumber()
		got, err := DecodeObject(dec)
		must.Eq(t, wantErr == nil && want != nil, err == nil, must.Sprint(text, wantErr, err))
		if err == nil {
			must.Eq(t, want, got)
		}
	})
}

func TestActionBytes(t *testing.T) {
	for src, want := range map[string]int{
		"":                                0,
		"text }} { {":                     0,
		"a{{.x}}b{{.y}}":                  12,
		"{{ \"}}\" }}text":                10,
		"{{ `}}` }}text":                  10,
		`{{ "\"}}" }}text`:                12,
		"{{ '}' }}text":                   9,
		"{{/* don't }} \" */}}{{.x}}text": 18 + 6,
		"{{- /* don't */ -}}text":         15,
		"{{ .x":                           5,
		"{{ `":                            4,
		`{{ "`:                            4,
		"{{ /* not closed":                16,
	} {
		must.Eq(t, want, actionBytes(src), must.Sprint(src))
	}
}
