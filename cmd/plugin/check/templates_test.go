package check

import (
	"slices"
	"testing"

	"github.com/shoenig/test/must"
)

// What a template names of its data: always, as "!" says, or only if something else is so; "*" is of one that may name any of it.
func TestUsesOf(t *testing.T) {
	for src, want := range map[string][]string{
		"":                        nil,
		"{{ .a.x }}{{ $.b.y }}":   {"!a.x", "!b.y"},
		"{{ .a":                   nil,
		`{{ index . "my-db" }}`:   {"!my-db"},
		`{{ index $ "my-db" }}`:   {"!my-db"},
		`{{ "my-db" | index . }}`: {"!my-db"},
		`{{ index . "my-db" "password" | quote }}`:                               {"!my-db.password"},
		`{{ (index . "my-db").password }}`:                                       {"!my-db"},
		`{{ printf "%s" (index (.) "my-db" "x") }}`:                              {"!my-db.x"},
		`{{ index . $key "x" }}`:                                                 nil, // no such variable
		`{{ $key := "a" }}{{ index . $key "x" }}`:                                {"*"},
		`{{ index .a "x" }}`:                                                     {"!a", "!a.x"},
		`{{ (.).a.x }}`:                                                          {"!a.x"},
		`{{ . }}`:                                                                {"*"},
		`{{ toJSON $ }}{{ .a.x }}`:                                               {"!a.x", "*"},
		`{{ range $name, $fields := . }}{{ .x }}{{ end }}`:                       {"*"},
		`{{ range .a.list }}{{ . }}{{ $ }}{{ end }}`:                             {"!a.list", "*"},
		`{{ range .a.list }}{{ . }}{{ end }}`:                                    {"!a.list"},
		`{{ $all := . }}{{ $all.b.x }}`:                                          {"*"},
		`{{ with $all := . }}{{ $all.b.x }}{{ end }}`:                            {"*"},
		`{{ printf "a" | index . }}`:                                             {"*"},
		`{{ define "t" }}{{ . }}{{ end }}{{ template "t" . }}`:                   {"*"},
		`{{ define "t" }}{{ . }}{{ end }}{{ template "t" .a }}`:                  {"!a"},
		`{{ if .a.x }}{{ index . "b" }}{{ else }}{{ .c }}{{ end }}`:              {"!a.x", "b", "c"},
		`{{ range .a.list }}{{ .x }}{{ index . "y" }}{{ index $ "b" }}{{ end }}`: {"!a.list", "b"},
		`{{ with .a }}{{ .x }}{{ $.b.y }}{{ end }}`:                              {"!a", "b.y"},
		`{{ with . }}{{ .a.x }}{{ end }}`:                                        {"a.x"},
		`{{ and .a.x .b.x }}{{ or .c.x .d.x }}`:                                  {"!a.x", "b.x", "!c.x", "d.x"},
		`{{ or (and .a.x .b.x) .c.x }}`:                                          {"!a.x", "b.x", "c.x"},
		`{{ if .a.x }}{{ .b.x }}{{ end }}{{ .b.x }}`:                             {"!a.x", "!b.x"},
		// A template that is defined has what it is called with for both "." and "$".
		`{{ define "t" }}{{ .a.x }}{{ $.b.y }}{{ end }}`:                                                                           nil,
		`{{ define "t" }}{{ .a.x }}{{ $.b.y }}{{ end }}{{ template "t" . }}`:                                                       {"!a.x", "!b.y"},
		`{{ define "t" }}{{ .a.x }}{{ $.b.y }}{{ end }}{{ template "t" $ }}`:                                                       {"!a.x", "!b.y"},
		`{{ define "t" }}{{ .x }}{{ $.y }}{{ index $ "z" }}{{ end }}{{ template "t" .a }}`:                                         {"!a"},
		`{{ define "t" }}{{ .x }}{{ $.y }}{{ end }}{{ template "t" }}`:                                                             nil,
		`{{ define "t" }}{{ .a.x }}{{ end }}{{ if .b.x }}{{ template "t" . }}{{ end }}`:                                            {"!b.x", "a.x"},
		`{{ define "t" }}{{ .a.x }}{{ end }}{{ range .b.x }}{{ template "t" . }}{{ end }}`:                                         {"!b.x"},
		`{{ define "t" }}{{ .a.x }}{{ if .b.x }}{{ template "t" . }}{{ end }}{{ end }}{{ template "t" . }}`:                        {"!a.x", "!b.x"},
		`{{ define "t" }}{{ template "u" . }}{{ end }}{{ define "u" }}{{ .a.x }}{{ template "t" . }}{{ end }}{{ template "t" . }}`: {"!a.x"},
		`{{ block "t" . }}{{ .a.x }}{{ end }}`:                                                                                     {"!a.x"},
		`{{ template "none" . }}`:                                                                                                  nil,
	} {
		var got []string
		uses, whole := usesOf(src)
		if whole {
			got = append(got, "*")
		}
		for _, u := range uses {
			text := ""
			if u.always {
				text = "!"
			}
			for i, f := range u.fields {
				if i > 0 {
					text += "."
				}
				text += f
			}
			got = append(got, text)
		}
		slices.Sort(got)
		slices.Sort(want)
		must.Eq(t, want, got, must.Sprintf("%q", src))
	}
}
