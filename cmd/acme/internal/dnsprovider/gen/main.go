// gen writes the tables of the dns-01 providers of the pinned lego, by lego's own names. Those whose
// dependencies cannot be had as modules are left out and listed with the module that is missing: importing
// lego's own table would keep all of them from building.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

const (
	lego  = "github.com/go-acme/lego/v5"
	table = "providers/dns/zz_gen_dns_providers.go"
)

func main() {
	log.SetFlags(0)
	if err := generate(); err != nil {
		log.Fatal(err)
	}
}

func generate() error {
	var module struct{ Dir, Version string }
	if err := goJSON(".", &module, "list", "-m", "-json=Dir,Version", lego); err != nil {
		return err
	}
	providers, err := parseTable(filepath.Join(module.Dir, table))
	if err != nil {
		return err
	}
	missing, err := missingModules(module.Dir, module.Version, providers)
	if err != nil {
		return err
	}
	for i := range providers {
		providers[i].Missing = missing[providers[i].Path]
	}
	slices.SortFunc(providers, func(a, b provider) int { return strings.Compare(a.Names[0], b.Names[0]) })
	for file, source := range map[string]*template.Template{"zz_providers.go": builtIn, "zz_left_out.go": leftOut} {
		var out bytes.Buffer
		if err := source.Execute(&out, map[string]any{"Version": module.Version, "Providers": providers}); err != nil {
			return err
		}
		content, err := format.Source(out.Bytes())
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// provider is a case of lego's table.
type provider struct {
	Names   []string // the first is its own, the others are aliases
	Path    string   // of its package
	Call    string   // what makes it, such as exec.NewDNSProvider
	Missing string   // the module that it needs and that cannot be had
}

// parseTable reads the imports and the switch of lego's function.
func parseTable(file string) (providers []provider, err error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		return nil, err
	}
	imports := map[string]string{}
	for _, spec := range parsed.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		imports[path[strings.LastIndex(path, "/")+1:]] = path
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		clause, ok := n.(*ast.CaseClause)
		if !ok || len(clause.List) == 0 {
			return true
		}
		p, perr := parseCase(clause, imports)
		if perr != nil {
			err = errors.Join(err, perr)
			return false
		}
		if p.Path != "" {
			providers = append(providers, p)
		}
		return false
	})
	if err == nil && len(providers) == 0 {
		err = fmt.Errorf("no provider found in %s", file)
	}
	return providers, err
}

// parseCase understands `case "name", "alias": return pkg.Func()`. One that makes no package's provider
// (manual) is left out: it needs a person.
func parseCase(clause *ast.CaseClause, imports map[string]string) (p provider, err error) {
	for _, name := range clause.List {
		literal, ok := name.(*ast.BasicLit)
		if !ok {
			return p, errors.New("a case that is not a string")
		}
		unquoted, err := strconv.Unquote(literal.Value)
		if err != nil {
			return p, err
		}
		p.Names = append(p.Names, unquoted)
	}
	result, ok := clause.Body[0].(*ast.ReturnStmt)
	if !ok || len(clause.Body) != 1 {
		return p, fmt.Errorf("provider %s is not made by one return", p.Names[0])
	}
	call, ok := result.Results[0].(*ast.CallExpr)
	if !ok {
		return p, fmt.Errorf("provider %s is not made by a call", p.Names[0])
	}
	function, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return p, fmt.Errorf("provider %s is not made by another package", p.Names[0])
	}
	pkg := function.X.(*ast.Ident).Name
	if strings.HasPrefix(imports[pkg], lego+"/providers/dns/") {
		p.Path, p.Call = imports[pkg], pkg+"."+function.Sel.Name
	}
	return p, nil
}

// missingModules are the packages that do not build, each with the module that it misses. They are looked
// up in a module that has lego's own requirements, so that its versions are the ones asked for.
func missingModules(dir, version string, providers []provider) (map[string]string, error) {
	tmp, err := os.MkdirTemp("", "providers-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if name == "go.mod" {
			content = bytes.Replace(content, []byte("module "+lego), []byte("module providers"), 1)
			content = fmt.Appendf(content, "\nrequire %s %s\n", lego, version)
		}
		if err := os.WriteFile(filepath.Join(tmp, name), content, 0o644); err != nil {
			return nil, err
		}
	}
	args := []string{"list", "-mod=mod", "-e", "-json=ImportPath,DepsErrors"}
	for _, p := range providers {
		args = append(args, p.Path)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Stderr = tmp, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	missing := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct {
			ImportPath string
			DepsErrors []struct{ Err string }
		}
		if err := dec.Decode(&pkg); err == io.EOF {
			return missing, nil
		} else if err != nil {
			return nil, err
		}
		for _, dep := range pkg.DepsErrors {
			module, _, found := strings.Cut(dep.Err, "@")
			if !found || strings.ContainsAny(module, " \n") {
				return nil, fmt.Errorf("%s: %s", pkg.ImportPath, dep.Err)
			}
			// Of several, always the same.
			if known := missing[pkg.ImportPath]; known == "" || module < known {
				missing[pkg.ImportPath] = module
			}
		}
	}
}

func goJSON(dir string, v any, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return json.Unmarshal(out, v)
}

const header = `// Code generated by "go generate ./internal/dnsprovider" from lego {{.Version}}. DO NOT EDIT.
`

var builtIn = template.Must(template.New("").Parse(header + `
//lint:file-ignore SA1019 lego marks some as shut down

//go:build !race

package dnsprovider

import (
	"github.com/go-acme/lego/v5/challenge"
{{- range .Providers}}{{if not .Missing}}
	"{{.Path}}"
{{- end}}{{end}}
)

// constructors make the providers that are built in, by lego's names and aliases.
var constructors = map[string]func() (challenge.Provider, error){
{{- range $p := .Providers}}{{if not .Missing}}{{range .Names}}
	"{{.}}": func() (challenge.Provider, error) { return {{$p.Call}}() },
{{- end}}{{end}}{{end}}
}
`))

var leftOut = template.Must(template.New("").Parse(header + `
package dnsprovider

// leftOut are lego's other providers, each with the module that it needs and that could not be had.
var leftOut = map[string]string{
{{- range $p := .Providers}}{{if .Missing}}{{range .Names}}
	"{{.}}": "{{$p.Missing}}",
{{- end}}{{end}}{{end}}
}
`))
