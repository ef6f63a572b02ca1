package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/jobspec2"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/docs/pages"
)

var runBy = regexp.MustCompile(`^run by (Test\w+)$`)

// Each block of commands in a document is run by a test, or says why none can.
func TestCommandsAreRun(t *testing.T) {
	dirs := map[string][]string{}  // of tests, by their names
	sources := map[string]string{} // by directory
	runner := ""
	walkGo(t, func(path, source string) {
		dir := filepath.Dir(path)
		sources[dir] += source
		for _, m := range testFunc.FindAllStringSubmatch(source, -1) {
			dirs[m[1]] = append(dirs[m[1]], dir)
		}
		if strings.HasSuffix(path, "operator_documents_test.go") {
			runner = source
		}
	})
	blocks, err := pages.All("..")
	must.NoError(t, err)
	run, notRun := 0, 0
	for _, b := range blocks {
		setUp, _ := b.SetUp()
		by := runBy.FindStringSubmatch(b.Mark)
		switch {
		case !slices.Contains([]string{"sh", "console"}, b.Lang):
			continue
		case setUp != "":
			must.StrContains(t, runner, `"`+setUp+`"`, must.Sprint(b.Where(), " names a set-up that is not there"))
			run++
		case by != nil:
			must.SliceNotEmpty(t, dirs[by[1]], must.Sprint(b.Where(), " names ", by[1], ", which is no test"))
			must.True(t, slices.ContainsFunc(append(dirs[by[1]], "../e2e/lab"), func(dir string) bool {
				return strings.Contains(sources[dir], b.Page+`"`)
			}), must.Sprint(b.Where(), " names ", by[1], ", which does not read the page"))
			run++
		case strings.HasPrefix(b.Mark, "not run: "):
			notRun++
		default:
			t.Errorf("%s: no test runs these commands: say which one does, or why none can:\n%s", b.Where(), b.Text)
		}
	}
	must.Greater(t, 40, run)
	must.LessEq(t, 6, notRun, must.Sprint("what cannot be run is a short list"))
}

var (
	fencedBlock  = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	ruleOfMake   = regexp.MustCompile(`(?m)^([^\s:=#.][^:=#]*):`)
	ownCommand   = regexp.MustCompile(`(?m)^\t\t"([\w-]+)": `)
	toBeGiven    = regexp.MustCompile(`^(?:sudo|docker|umount|systemctl|rm|install|vault|bao|nomad|nomad-driver-secrets)\b.*(?:&&|[|;]| /)`)
	withArgument = regexp.MustCompile(`^(make|nomad-driver-secrets) (.*)`)
)

// A command within a line is not run: it names a target of make, or a command of ours, that is there. What is to be given as it stands (several
// commands, or one with a path of the machine) is a block.
func TestInlineCommands(t *testing.T) {
	known := map[string][]string{"make": nil, "nomad-driver-secrets": nil}
	for _, m := range ruleOfMake.FindAllStringSubmatch(read(t, "../GNUmakefile"), -1) {
		known["make"] = append(known["make"], strings.Fields(m[1])...)
	}
	for _, m := range ownCommand.FindAllStringSubmatch(read(t, "../cmd/plugin/command.go"), -1) {
		known["nomad-driver-secrets"] = append(known["nomad-driver-secrets"], m[1])
	}
	list, err := filepath.Glob("*.md")
	must.NoError(t, err)
	seen := 0
	for _, page := range append(list, "../README.md", "../CONTRIBUTING.md", "../SECURITY.md", "../jobs/README.md") {
		for _, m := range backQuoted.FindAllStringSubmatch(fencedBlock.ReplaceAllString(read(t, page), ""), -1) {
			must.False(t, toBeGiven.MatchString(m[1]), must.Sprint(page, ": these commands belong in a block: ", m[1]))
			command := withArgument.FindStringSubmatch(m[1])
			if command == nil {
				continue
			}
			seen++
			for _, word := range strings.Fields(command[2]) {
				if strings.HasPrefix(word, "-") || strings.Contains(word, "=") || strings.ToUpper(word) == word {
					continue // an option, a variable, or what stands for a name
				}
				must.SliceContains(t, known[command[1]], word, must.Sprint(page, ": ", m[1]))
			}
		}
	}
	must.Greater(t, 40, seen)
}

var shown = regexp.MustCompile(`(?s)\[([\w./-]+\.hcl)\]\(([\w./-]+)\)[^\n]*:\n\n` + "```hcl\n(.*?)```")

// A file that a page shows is the one that the page links to, or a part of it.
func TestShownFilesAreTheFiles(t *testing.T) {
	list, err := filepath.Glob("*.md")
	must.NoError(t, err)
	seen := 0
	for _, page := range append(list, "../README.md") {
		for _, m := range shown.FindAllStringSubmatch(read(t, page), -1) {
			file := read(t, filepath.Join(filepath.Dir(page), m[2]))
			must.StrContains(t, unindented(file), unindented(m[3]), must.Sprint(page, " shows ", m[1]))
			seen++
		}
	}
	must.GreaterEq(t, 3, seen)
}

// unindented is a text without the space at the beginning of lines, and without empty lines.
func unindented(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

var (
	pageLink = regexp.MustCompile(`\]\(([\w./-]*)(?:#([\w-]+))?\)`)
	heads    = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noAnchor = regexp.MustCompile(`[^\w\- ]`)
)

// Links of the documents lead to files and headings that are there.
func TestLinks(t *testing.T) {
	list, err := filepath.Glob("*.md")
	must.NoError(t, err)
	for _, page := range append(list, "../README.md", "../CONTRIBUTING.md", "../SECURITY.md", "../jobs/README.md") {
		for _, m := range pageLink.FindAllStringSubmatch(read(t, page), -1) {
			path := page
			if m[1] != "" {
				path = filepath.Join(filepath.Dir(page), m[1])
			}
			_, err := os.Stat(path)
			must.NoError(t, err, must.Sprint(page, " links to ", m[0]))
			if m[2] != "" {
				must.SliceContains(t, anchors(read(t, path)), m[2], must.Sprint(page, " links to ", m[0]))
			}
		}
	}
}

// anchors are the headings of a page, as GitHub names them.
func anchors(page string) (all []string) {
	for _, m := range heads.FindAllStringSubmatch(page, -1) {
		all = append(all, strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}

// What Nomad says of a secret block in the wrong place, and of a key that is not known, is in troubleshooting.md, in its words.
func TestTextsOfNomads(t *testing.T) {
	page := read(t, "troubleshooting.md")
	ours := "secret \"app\" {\n  path = \"secret/app\"\n  env_prefix = \"APP_\"\n}\n"
	inTask := "config {\n  image = \"x\"\n}\n"
	_, err := parseTask(inTask + ours)
	says := []error{err}
	parse := func(inJob, inGroup string) (*api.Job, error) {
		return jobspec2.ParseWithConfig(&jobspec2.ParseConfig{Path: "job.nomad.hcl", Strict: true, Body: []byte(
			"job \"j\" {\n" + inJob + "  group \"g\" {\n" + inGroup + "    task \"t\" {\n      driver = \"docker\"\n" + inTask + "    }\n  }\n}\n")})
	}
	_, err = parse(ours, "")
	says = append(says, err)
	job, err := parse("", ours) // is taken for one of Nomad's own, and its keys are lost
	must.NoError(t, err)
	for _, s := range []*structs.Secret{
		{Name: "app", Provider: "vault", Path: "secret/app", Env: map[string]string{"A": "b"}},
		{Name: "app", Path: "secret/app"},
		{Name: "app", Provider: job.TaskGroups[0].Tasks[0].Secrets[0].Provider, Path: "secret/app"},
	} {
		says = append(says, s.Validate())
	}
	config, err := parseTask("config {\n  image = \"x\"\n  secret \"db\" {\n    pth = \"database/creds/app\"\n  }\n}\n")
	must.NoError(t, err)
	_, err = compileTask(t.Context(), config)
	says = append(says, err)
	for _, err := range says {
		must.Error(t, err)
		m := regexp.MustCompile("(?:An argument|No argument|Blocks of type|vault provider|secret provider)[^.\n]*").FindString(err.Error())
		must.NotEq(t, "", m, must.Sprint(err))
		must.StrContains(t, page, "`"+m, must.Sprint(err))
	}
}
