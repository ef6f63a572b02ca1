package secrets

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/sprig/v3"
	"github.com/shoenig/test/must"
)

// TestTemplateHermetic: nothing that reads the plugin's surroundings, makes keys or is random.
func TestTemplateHermetic(t *testing.T) {
	for _, name := range strings.Fields(`env expandenv getHostByName now date ago uuidv4 randAlpha randAlphaNum randAscii randNumeric randBytes
		randInt shuffle genPrivateKey genCA genCAWithKey genSelfSignedCert genSelfSignedCertWithKey genSignedCert genSignedCertWithKey
		buildCustomCert derivePassword bcrypt htpasswd encryptAES decryptAES repeat until untilStep seq`) {
		must.MapContainsKey(t, sprig.TxtFuncMap(), name) // no test of a name that never was
		err := newTemplates().check("{{ " + name + " }}")
		must.ErrorContains(t, err, `template line 1: function "`+name+`" is not available`)
	}
}

// What a newer sprig adds is not there, and what is allowed is.
func TestTemplateFunctionsAreAllowedByName(t *testing.T) {
	newer := sprig.TxtFuncMap()
	newer["readFile"] = func(path string) (string, error) { b, err := os.ReadFile(path); return string(b), err }
	must.MapNotContainsKey(t, allowed(newer), "readFile")

	funcs := newTemplateRun(soon()).funcs
	for _, name := range sprigFunctions {
		must.MapContainsKey(t, newer, name)
		must.MapContainsKey(t, funcs, name)
		must.MapNotContainsKey(t, ownFunctions, name)
	}
	must.SliceLen(t, len(slices.Compact(slices.Sorted(slices.Values(sprigFunctions)))), sprigFunctions, must.Sprint("one is there twice"))
	for name := range sprig.TxtFuncMap() {
		if !slices.Contains(sprigFunctions, name) && ownFunctions[name] == nil {
			must.ErrorContains(t, newTemplates().check("{{ "+name+" }}"), `function "`+name+`" is not available`)
		}
	}
}

// docs/templates.md lists what templates may call, and nothing else.
func TestTemplateFunctionsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/templates.md")
	must.NoError(t, err)
	_, list, found := strings.Cut(string(page), "\n## Functions\n")
	must.True(t, found)
	var documented []string
	for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(list, -1) {
		documented = append(documented, m[1])
	}
	want := slices.Sorted(slices.Values(slices.Concat(sprigFunctions, slices.Collect(maps.Keys(ownFunctions)), strings.Fields("and call len not or"))))
	must.Eq(t, want, slices.Sorted(slices.Values(documented)))
}

// reads are what no function that is allowed may reach in sprig's source: the node's environment, files, clock, time zone,
// network, and chance. "*" is all of a package, else the beginnings of names.
var reads = map[string]string{
	"os": "*", "os/exec": "*", "os/user": "*", "io/ioutil": "*", "syscall": "*", "net": "*", "net/http": "*",
	"crypto/rand": "*", "math/rand": "*", "math/rand/v2": "*", "github.com/google/uuid": "*",
	"time": "Now Since Until Local After Tick LoadLocation", "path/filepath": "Abs EvalSymlinks Glob Walk", "unsafe": "*",
	"github.com/huandu/xstrings": "Shuffle", "github.com/Masterminds/goutils": "Random CryptoRandom",
}

// No function that is allowed reads its surroundings, by sprig's source.
func TestTemplateFunctionsReadNothing(t *testing.T) {
	s := sprigSource(t)
	for _, name := range sprigFunctions {
		must.Eq(t, "", s.reaches(s.functions[name], map[string]bool{}), must.Sprint(name))
	}
	// The look finds what it is for.
	for _, name := range strings.Fields("env now getHostByName uuidv4 randAlpha shuffle ago toDate genPrivateKey randInt date") {
		must.NotEq(t, "", s.reaches(s.functions[name], map[string]bool{}), must.Sprint(name))
	}
}

// source is sprig's source: its functions by their name in templates, and its declarations by theirs in Go.
type source struct {
	functions map[string]ast.Node
	decls     map[string]ast.Node
	imports   map[string]string // by the name that the code has for it
}

func sprigSource(t *testing.T) source {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/Masterminds/sprig/v3").Output()
	must.NoError(t, err)
	s := source{map[string]ast.Node{}, map[string]ast.Node{}, map[string]string{}}
	files, err := fs.Glob(os.DirFS(strings.TrimSpace(string(dir))), "*.go")
	must.NoError(t, err)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), name), nil, 0)
		must.NoError(t, err)
		for _, i := range file.Imports {
			path := strings.Trim(i.Path.Value, `"`)
			called := regexp.MustCompile(`^v\d+$`).ReplaceAllString(filepath.Base(path), filepath.Base(filepath.Dir(path)))
			if i.Name != nil {
				called = i.Name.Name
			}
			s.imports[called] = path
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				s.decls[d.Name.Name] = d
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok {
						s.decls[v.Names[0].Name] = v
					}
				}
			}
		}
	}
	ast.Inspect(s.decls["genericMap"], func(n ast.Node) bool {
		if kv, ok := n.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.BasicLit); ok {
				s.functions[strings.Trim(key.Value, `"`)] = kv.Value
			}
		}
		return true
	})
	must.MapContainsKeys(t, s.functions, sprigFunctions)
	return s
}

// reaches is the first thing in reads that a piece of code comes to, by whatever it calls in sprig; "" if none.
func (s source) reaches(code ast.Node, seen map[string]bool) (found string) {
	params := map[string]bool{} // which may have the name of a function
	ast.Inspect(code, func(n ast.Node) bool {
		if found != "" {
			return false
		}
		switch n := n.(type) {
		case *ast.FuncType:
			for _, p := range n.Params.List {
				for _, name := range p.Names {
					params[name.Name] = true
				}
			}
		case *ast.SelectorExpr:
			if of, ok := n.X.(*ast.Ident); ok {
				names, watched := reads[s.imports[of.Name]]
				if watched && (names == "*" || slices.ContainsFunc(strings.Fields(names), func(p string) bool { return strings.HasPrefix(n.Sel.Name, p) })) {
					found = of.Name + "." + n.Sel.Name
				}
				return false
			}
		case *ast.Ident:
			if next := s.decls[n.Name]; next != nil && !seen[n.Name] && !params[n.Name] {
				seen[n.Name] = true
				found = s.reaches(next, seen)
			}
		}
		return true
	})
	return found
}
