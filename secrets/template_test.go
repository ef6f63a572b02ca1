package secrets

import (
	"encoding/json"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/shoenig/test/must"
)

// soon is the deadline of one template.
func soon() time.Time { return time.Now().Add(maxTemplateTime) }

func TestTemplate(t *testing.T) {
	data := map[string]any{
		"u": "user", "n": json.Number("5432"), "t": true, "f": json.Number("1.50"), "empty": "",
		"m": map[string]any{"k": "v<&>"}, "l": []any{"a", json.Number("1")}, "null": nil, "pem": "a\nb",
	}
	for src, want := range map[string]string{
		"plain":                                "plain",
		"{{/* comment */}}":                    "",
		" ":                                    " ",
		"{{ .u }}:{{ .n }} {{ .t }} {{.f}}":    "user:5432 true 1.50",
		"{{ .m }} {{ .l }}":                    `{"k":"v<&>"} ["a",1]`,
		"{{ .u | upper | quote }}":             `"USER"`,
		`{{ $x := .u }}{{ $x = "y" }}{{ $x }}`: "y",
		`{{ range $i, $e := .l }}{{ $i }}={{ $e }};{{ end }}`:                          "0=a;1=1;",
		`{{ range .l }}{{ if eq . "a" }}{{ continue }}{{ end }}{{ . }}{{ end }}`:       "1",
		`{{ range .l }}{{ . }}{{ break }}{{ end }}`:                                    "a",
		`{{ range list }}{{ else }}none{{ end }}`:                                      "none",
		`{{ with .m }}{{ .k }}{{ end }}`:                                               "v<&>",
		`{{ if .null }}a{{ else if .t }}b{{ end }}`:                                    "b",
		`{{ default "d" .null }}`:                                                      "d",
		`{{ define "x" }}[{{ . }}]{{ end }}{{ template "x" .u }}{{ template "x" .n }}`: "[user][5432]",
		`{{ block "y" . }}{{ .u }}{{ end }}`:                                           "user",
		`{{ printf "%s-%05d|%-4s|" .u 42 "x" }}`:                                       "user-00042|x   |",
		`{{ printf "%s %v" .n .l }}`:                                                   "5432 [a 1]",
		`{{ .u | b64enc | b64dec }}{{ len .u }}{{ index .l 0 }}{{ index .m "k" }}`:     "user4av<&>",
		`{{ .pem | indent 2 }}{{ .pem | nindent 1 }}`:                                  "  a\n  b\n a\n b",
		`{{ .l | join "," }}{{ replace "a" "b" "aa" }}`:                                "a,1bb",
		`{{ toJson .m }}{{ (fromJson "{\"a\":[1]}").a }}`:                              `{"k":"v\u003c\u0026\u003e"}[1]`,
		`{{ if and .t (or .null .u) (not .null) }}y{{ end }}`:                          "y",
		`{{ html "<a>" }}{{ urlquery "a b" }}`:                                         "&lt;a&gt;a+b",
		`{{ regexReplaceAll "u(.)" .u "${1}!" }}`:                                      "s!er",
		`{{ range 3 }}{{ . }}{{ end }}`:                                                "012",
		`{{ eq (int .n) 5432 }}{{ add (int .n) 1 }}`:                                   "true5433",
		`{{ "a" }}{{ 1 }}{{ true }}{{ print 1 2 }}{{ println "x" }}`:                   "a1true1 2x\n",
		`{{ dict "a" (list 1 "b") }}`:                                                  `{"a":[1,"b"]}`,
		`{{ splitList "," "a,b" }}`:                                                    `[a b]`,
		`{{ and .t .u }}{{ .n.Int64 }}`:                                                "user5432",
	} {
		v, err := newTemplateRun(soon()).render(src, data)
		must.NoError(t, err, must.Sprint(src))
		must.Eq(t, want, v.Text(), must.Sprint(src))
	}
}

// TestTemplateErrorsQuoteNoValue: every way in which a template can choke on a value.
func TestTemplateErrorsQuoteNoValue(t *testing.T) {
	data := map[string]any{"s": canary, "m": map[string]any{"k": canary}, "l": []any{canary}, "n": json.Number("77"), "null": nil, "long": strings.Repeat(canary, 1000)}
	for src, want := range map[string]string{
		`{{ .x }}`:                           `template line 1 <.x>: no field "x"`,
		"\n\n{{ .m.x }}":                     `template line 3 <.m.x>: no field "x"`,
		`{{ .null }}`:                        `template line 1: the value is null`,
		`{{ if .s.x }}{{ end }}`:             `template line 1 <.s.x>: this cannot be done`,
		`{{ index .m .s }}`:                  `template line 1 <index .m .s>: nothing by that name is there`,
		`{{ index .l 1 }}`:                   `template line 1 <index .l 1>: nothing by that name`,
		`{{ index .l .s }}`:                  `template line 1 <index .l .s>: nothing by that name`,
		`{{ index .s "x" }}`:                 `template line 1 <index .s "x">: nothing by that name`,
		`{{ index .n 7 }}`:                   `template line 1 <index .n 7>: index failed`,
		`{{ index .m 7 }}`:                   `template line 1 <index .m 7>: index failed`,
		`{{ index nil 7 }}`:                  `template line 1 <index nil 7>: index failed`,
		`{{ range .s }}{{ end }}`:            `template line 1 <.s>: this cannot be done`,
		`{{ fail .s }}`:                      `template line 1 <fail .s>: fail failed (the reason is not shown`,
		`{{ mustFromJson .s }}`:              `template line 1 <mustFromJson .s>: mustFromJson failed`,
		`{{ .s | mustToDate "2006" }}`:       `template line 1 <mustToDate "2006">: mustToDate failed`,
		`{{ urlParse (print .s "%zz") }}`:    "template line 1 <urlParse (print .s \"%zz\")>: urlParse failed",
		`{{ regexMatch (print .s "(") .s }}`: `template line 1 <regexMatch (print .s "(") .s>: regexMatch failed`,
		`{{ semver .s }}`:                    `template line 1 <semver .s>: semver failed`,
		`{{ template "x" . }}`:               `template line 1`,
		`{{ .s | trim | first }}`:            `template line 1`,
		`{{ trim .m }}`:                      `template line 1 <.m>: this cannot be done`,
		`{{ .s 1 }}`:                         `template line 1 <.s>: this cannot be done`,
		`{{ slice .l 4 9 }}`:                 `template line 1 <slice .l 4 9>: slice failed`,
		`{{ substr 5 2 .s }}`:                `template line 1 <substr 5 2 .s>: substr failed`,
		`{{ dig "a" .s }}`:                   `template line 1`,
		`{{ dict .s }}{{ mustMerge .s .m }}`: `template line 1`,
		`{{ call .s }}`:                      `template line 1`,
		`{{ add .s "x" | printf "%*d" 3 }}`:  `template line 1`,
		`{{ lt .s 1 }}`:                      `template line 1 <lt .s 1>: lt failed`,
		`{{ .n.Int64.X }}`:                   `template line 1`,
	} {
		_, err := newTemplateRun(soon()).render(src, data)
		must.Error(t, err, must.Sprint(src))
		must.True(t, strings.HasPrefix(err.Error(), want), must.Sprint(src, " got ", err))
		must.False(t, strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "77"), must.Sprint(src, " quotes a value: ", err))
		must.True(t, KindOf(err) == Invalid || KindOf(err) == NotFound)
	}
	// A quoted field must not confuse the parsing of messages.
	_, err := newTemplateRun(soon()).render(`{{ define "a\" at <b>: c" }}{{ fail .s }}{{ end }}{{ template "a\" at <b>: c" . }}`, data)
	must.False(t, strings.Contains(err.Error(), "hunter2"))
}

// TestTemplateEnds: templates are bounded against whoever tries to stop or exhaust the plugin.
func TestTemplateEnds(t *testing.T) {
	data := map[string]any{"s": "x"}
	grow := `{{ $x := "0123456789" }}{{ range 100 }}{{ $x = print $x $x }}{{ end }}{{ $x }}`
	for src, want := range map[string]string{
		`{{ range 1000000000000 }}{{ end }}`:                                                                                                                   "it runs for longer than 1s",
		`{{ range 1000000000000 }}{{ range 1000000000 }}{{ end }}{{ end }}`:                                                                                    "it runs for longer than 1s",
		`{{ range 1000000000000 }}{{ continue }}{{ end }}`:                                                                                                     "it runs for longer than 1s",
		`{{ if .s }}{{ with .s }}{{ range 1000000000000 }}{{ if false }}x{{ end }}{{ end }}{{ end }}{{ end }}`:                                                 "it runs for longer than 1s",
		`{{ if eq .s "y" }}{{ else }}{{ range 1000000000000 }}{{ $x := 1 }}{{ end }}{{ end }}`:                                                                 "it runs for longer than 1s",
		`{{ range 1000000000000 }}{{ . }}{{ end }}`:                                                                                                            "its output is longer than 1 MiB",
		`{{ range 1000000000000 }}0123456789012345678901234567890123456789{{ end }}`:                                                                           "its output is longer than 1 MiB",
		`{{ define "r" }}{{ template "r" }}{{ end }}{{ template "r" }}`:                                                                                        "call one another more than 200 deep",
		`{{ define "r" }}{{ template "s" }}{{ end }}{{ define "s" }}{{ template "r" }}{{ template "r" }}{{ end }}{{ template "r" }}`:                           "more than 200 deep",
		`{{ define "r" }}{{ if lt (len .) 100 }}{{ $y := append . 1 }}{{ template "r" $y }}{{ template "r" $y }}{{ end }}{{ end }}{{ template "r" (list 1) }}`: "a value in it grows too large",
		grow: "a value in it grows too large",
		`{{ $x := list 1 }}{{ range 100 }}{{ $x = list $x $x }}{{ end }}{{ $x }}`:         "a value in it grows too large",
		`{{ $x := list 1 }}{{ range 100 }}{{ $x = concat $x $x }}{{ end }}`:               "a value in it grows too large",
		`{{ $x := list 1 }}{{ range 100000 }}{{ $x = append $x 1 }}{{ end }}`:             "a value in it grows too large",
		`{{ $d := dict }}{{ $_ := set $d "d" $d }}{{ $d }}`:                               "a value in it grows too large",
		`{{ $d := dict "a" 1 }}{{ $_ := set $d "d" (dict "e" $d) }}{{ toJson $d }}`:       "a value in it grows too large",
		`{{ $x := list }}{{ range 200 }}{{ $x = list $x }}{{ end }}{{ toPrettyJson $x }}`: "a value in it grows too large",
		`{{ printf "%1000000d%1000000d" 1 1 }}`:                                           "a value in it grows too large",
		`{{ printf "%.1000000f" 1.0 }}`:                                                   "a value in it grows too large",
		`{{ printf "%*d" 1000000 1 }}`:                                                    "printf failed",
		`{{ "x" | indent 100000000 }}`:                                                    "a value in it grows too large",
		`{{ "x" | nindent -1 }}`:                                                          "a value in it grows too large",
		`{{ $a := printf "%60000d" 1 }}{{ replace "" $a $a }}`:                            "a value in it grows too large",
		`{{ $a := printf "%60000d" 1 }}{{ regexReplaceAll "" $a $a }}`:                    "a value in it grows too large",
		`{{ $a := printf "%60000d" 1 }}{{ regexMatch "(((a?){100}){9}b)" $a }}`:           "a value in it grows too large",
		`{{ $a := printf "%60000d" 1 }}{{ wrapWith 1 $a $a }}`:                            "a value in it grows too large",
		`{{ $a := printf "%15000d" 1 }}{{ wrapWith 1 $a $a }}`:                            "a value in it grows too large",
		`{{ $a := printf "%60000d" 1 }}{{ wrap 1 $a }}`:                                   "a value in it grows too large",
		`{{ $a := printf "%60000d" 1 }}{{ join $a (splitList "" $a) }}`:                   "a value in it grows too large",
		`{{ $a := printf "%30000d" 1 }}{{ join $a (splitList "" $a) }}`:                   "a value in it grows too large",
		`{{ $a := printf "%30000d" 1 }}{{ uniq (splitList "" $a) }}`:                      "a value in it grows too large",
		`{{ define "r" }}{{ $x := upper . }}{{ template "r" $x }}{{ end }}{{ $a := printf "%60000d" 1 }}{{ $a = print $a $a $a $a $a $a $a }}{{ template "r" $a }}`: "a value in it grows too large",
		`{{ range $i, $e := (printf "%60000d" 1 | splitList "") }}{{ $i }}{{ end }}{{ range 1000000000 }}{{ upper "x" }}{{ end }}`:                                  "it runs for longer than 1s",
	} {
		t.Run(src[:min(60, len(src))], func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			deadline := start.Add(time.Hour) // on a slow machine time would be the first limit for all
			if strings.Contains(want, "runs for longer") {
				deadline = start.Add(maxTemplateTime / 5)
			}
			_, err := newTemplateRun(deadline).render(src, data)
			runtime.ReadMemStats(&after)
			must.ErrorContains(t, err, want)
			// The bound is loose because the race detector and a busy machine slow single calls down.
			must.Less(t, 30*time.Second, time.Since(start))
			if !strings.Contains(want, "runs for longer") {
				must.Less(t, 512<<20, after.TotalAlloc-before.TotalAlloc)
			}
		})
	}
}

// TestTemplateFunctionsAreLinear feeds each function the largest arguments it may get: no single call may
// take so long that the clock, which is looked at between calls, comes too late.
func TestTemplateFunctionsAreLinear(t *testing.T) {
	run := newTemplateRun(time.Now())
	big := strings.Repeat("aB c_d-e. ", maxTemplateOutput/10/4)
	for name, fn := range run.funcs {
		f := reflect.ValueOf(fn)
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{1, 2} {
				var args []reflect.Value
				for i := range f.Type().NumIn() {
					in := f.Type().In(i)
					if f.Type().IsVariadic() && i == f.Type().NumIn()-1 {
						in = in.Elem()
					}
					args = append(args, bigArg(in, big[:len(big)/n]))
				}
				run.deadline, run.budget = time.Now().Add(time.Hour), maxTemplatesMade
				start := time.Now()
				func() {
					defer func() { _ = recover() }() // as text/template does
					f.Call(args)
				}()
				must.Less(t, 10*time.Second, time.Since(start))
			}
		})
	}
}

func bigArg(in reflect.Type, big string) reflect.Value {
	switch in.Kind() {
	case reflect.String, reflect.Interface:
		if in.Kind() == reflect.String || in.NumMethod() == 0 {
			return reflect.ValueOf(big)
		}
	case reflect.Int:
		return reflect.ValueOf(1)
	case reflect.Map:
		if in.Key().Kind() == reflect.String {
			m := reflect.MakeMap(in)
			m.SetMapIndex(reflect.ValueOf("k"), bigArg(in.Elem(), big))
			return m
		}
	case reflect.Slice:
		s := reflect.MakeSlice(in, 1, 1)
		s.Index(0).Set(bigArg(in.Elem(), big))
		return s
	}
	return reflect.Zero(in)
}

// FuzzTemplate: no template panics, outlives its limits or quotes a value that it does not hold itself.
func FuzzTemplate(f *testing.F) {
	for _, src := range []string{"{{ .a }}", "{{ range .l }}{{ . }}{{ end }}", `{{ define "x" }}{{ .m.k }}{{ end }}{{ template "x" . }}`,
		"{{ .m | toJson | quote }}", "{{ with $x := .a }}{{ $x }}{{ else }}{{ end }}", "{{ .a | fail }}", "{{ range 9 }}{{ break }}{{ end }}", "{{- /* */ -}}"} {
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src string) {
		start := time.Now()
		v, err := newTemplateRun(soon()).render(src, map[string]any{"a": canary, "l": []any{canary, nil}, "m": map[string]any{"k": canary}})
		must.Less(t, 20*time.Second, time.Since(start))
		must.LessEq(t, maxTemplateOutput, v.Len())
		if err != nil && !strings.Contains(src, "hunter2") {
			must.False(t, strings.Contains(err.Error(), "hunter2"), must.Sprint(err))
		}
	})
}

// TestTemplateRewriteKeepsMeaning: what Go's own would print, ours prints too, for plain values.
func TestTemplateRewriteKeepsMeaning(t *testing.T) {
	data := map[string]any{"a": "x", "l": []string{"p", "q"}, "b": true, "i": 7}
	for _, src := range []string{
		`{{ .a }}{{- .i -}} {{ .b }}`, `{{ range $i, $e := .l }}{{ if $i }},{{ end }}{{ $e }}{{ else }}-{{ end }}`,
		`{{ with .a }}{{ . }}{{ end }}{{ len .l }}{{ index .l 1 }}{{ printf "%q" .a }}`, `{{ $x := .i }}{{ range 2 }}{{ $x }}{{ end }}`,
		`{{ block "b" .l }}{{ range . }}{{ template "c" . }}{{ end }}{{ end }}{{ define "c" }}<{{ . }}>{{ end }}`,
	} {
		var want strings.Builder
		must.NoError(t, template.Must(template.New("").Parse(src)).Execute(&want, data))
		got, err := newTemplateRun(soon()).render(src, data)
		must.NoError(t, err)
		must.Eq(t, want.String(), got.Text())
	}
}
