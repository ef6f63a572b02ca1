package secrets

import (
	"encoding/json"
	"testing"

	"github.com/shoenig/test/must"
)

func TestTemplateNumbers(t *testing.T) {
	data := func() map[string]any {
		return map[string]any{
			"port": json.Number("5432"), "zero": json.Number("0"), "negative": json.Number("-7"), "text": "5432",
			"big": json.Number("9007199254740993"), "max": json.Number("18446744073709551615"), "huge": json.Number("123456789012345678901234567890"),
			"f": json.Number("1.50"), "e": json.Number("1e3"), "ports": []any{json.Number("1"), json.Number("2")},
			"m": map[string]any{"n": json.Number("3"), "zero": json.Number("0")}, "b": true,
		}
	}
	for src, want := range map[string]string{
		// As the server wrote them.
		`{{ .port }} {{ .zero }} {{ .negative }} {{ .big }} {{ .max }} {{ .huge }} {{ .f }} {{ .e }}`: "5432 0 -7 9007199254740993 18446744073709551615 123456789012345678901234567890 1.50 1e3",
		`{{ .m }} {{ .ports }} {{ toJson .m }}`:                                                       `{"n":3,"zero":0} [1,2] {"n":3,"zero":0}`,
		`{{ print .port }}:{{ print "p" .port }} {{ quote .port }} {{ .port | toString | b64enc }}`:   `5432:p5432 "5432" NTQzMg==`,
		`{{ .port.Int64 }} {{ .port.String }} {{ .port.Float64 }} {{ .f.String }}`:                    "5432 5432 5432 1.50",
		// They are numbers.
		`{{ if .zero }}a{{ else }}b{{ end }}{{ if .m.zero }}a{{ else }}b{{ end }}{{ if .port }}a{{ end }}`:                           "bba",
		`{{ default 1 .zero }} {{ default 1 .port }} {{ .m.zero | default 9 }}{{ empty .zero }}`:                                     "1 5432 9true",
		`{{ eq .port 5432 }} {{ eq .port 1 5432 }} {{ ne .port 1 }} {{ eq .port .text }} {{ eq .max .max }}`:                         "true true true true true",
		`{{ gt .port 900 }} {{ lt .negative .zero }} {{ ge .max .big }} {{ gt .big 9007199254740992 }}`:                              "true true true true",
		`{{ gt .f 1 }} {{ eq .f 1.5 }} {{ lt .f 2 }} {{ eq .e 1000 }} {{ lt .port .huge }}`:                                          "true true true true true",
		`{{ add .port 1 }} {{ mul .negative 2 }} {{ max .port .m.n }} {{ add1 .port }} {{ first .ports | add 1 }}{{ typeOf .port }}`: "5433 -14 5432 5433 2int64",
		`{{ range .m.n }}{{ . }}{{ end }} {{ index .ports .zero }} {{ has 1 (list 1) }}`:                                             "012 1 true",
		`{{ with .port }}{{ . }}{{ end }} {{ $p := .port }}{{ add $p 1 }} {{ ternary "y" "n" (eq .port 5432) }}`:                     "5432 5433 y",
		// printf
		`{{ printf "%d %5d|%-6d|%x %v %s %q" .port .port .port .port .port .port .port }}`:                             `5432  5432|5432  |1538 5432 5432 "5432"`,
		`{{ printf "%d %d" .big .max }} {{ printf "%s %v" .huge .f }}`:                                                 "9007199254740993 18446744073709551615 123456789012345678901234567890 1.50",
		`{{ printf "%.2f %g %.1f" .port .f .e }} {{ printf "%[2]s-%[1]d-%[1]s" .port "x" }}`:                           "5432.00 1.5 1000.0 x-5432-5432",
		`{{ printf "100%% %s %t %v %s" "a" .b .b .b }} {{ printf "%s %v %q %d" .ports .ports (list "a" "b") .ports }}`: `100% a true true true [1 2] [1 2] ["a" "b"] [1 2]`,
	} {
		v, err := newTemplateRun(soon()).render(src, data())
		must.NoError(t, err, must.Sprint(src))
		must.EqOp(t, want, v.Text(), must.Sprint(src))
	}
}

// What fmt would mark in the text is an error: a file with a mark in it is delivered to nobody.
func TestPrintfLeavesNoMark(t *testing.T) {
	for _, src := range []string{
		`{{ printf "%d" "x" }}`, `{{ printf "%d" .f }}`, `{{ printf "%d" .huge }}`, `{{ printf "%d" (list 1 "x") }}`, `{{ printf "%t" 1 }}`, `{{ printf "%f" "1" }}`,
		`{{ printf "%s" }}`, `{{ printf "%s %s" "a" }}`, `{{ printf "x" 1 }}`, `{{ printf "%z" 1 }}`, `{{ printf "%" }}`, `{{ printf "%!" 1 }}`, `{{ printf "%5" 1 }}`,
		`{{ printf "%[3]d" 1 }}`, `{{ printf "%[0]d" 1 }}`, `{{ printf "%[x]d" 1 }}`, `{{ printf "%[1d" 1 }}`, `{{ printf "%*d" 3 1 }}`, `{{ printf "%.*f" 3 1.0 }}`,
		`{{ printf "%v" .null }}`, `{{ printf "%s" .null }}`, `{{ printf "%v" (list .null) }}`, `{{ print .null }}`, `{{ println "x" .null }}`,
		`{{ printf "%T" 1 }}`, `{{ printf "%p" (list 1) }}`,
	} {
		v, err := newTemplateRun(soon()).render(src, map[string]any{"null": nil, "f": json.Number("1.5"), "huge": json.Number("123456789012345678901234567890")})
		must.Error(t, err, must.Sprint(src, " gives ", v.Text()))
	}
	// A value may look like a mark.
	v, err := newTemplateRun(soon()).render(`{{ printf "%s" .s }}{{ printf "%q" .s }}`, map[string]any{"s": "%!d(string=x)"})
	must.NoError(t, err)
	must.EqOp(t, `%!d(string=x)"%!d(string=x)"`, v.Text())
}
