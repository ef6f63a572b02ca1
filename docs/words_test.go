package docs

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// words are names that this project once had for things that have a usual one, and what to say instead. One thing has one
// name, in code, comments, events and documents.
var words = []struct{ not, but string }{
	{`debts?|owe[sd]?|owing|doubtful`, "revocation, pending"},
	{`(?-i:\w*[a-z](Debt|Owed?|Owes)([A-Z]\w*)?)`, "revocation, pending"}, // also within a name
	{`untold`, "undelivered"},
	{`mint(s|ed|ing)?`, "fetch, or make"},
	{`acted`, "applied"},
	{`hurry|hurries|hurried`, "pull forward"},
	{`put off|puts off`, "reschedule"},
	{`tak(e|es|en|ing) back`, "roll back, revoke, cancel"},
	{`sayOnce|say once`, "emit once"},
	{`(job|task)'s (own )?words|words of (a|the) job`, "configuration"},
	{`former`, "old"},
	{`errands?`, "request"},
	{`mends?|mended|mending`, "fix, repair; in an error: hint, remedy"},
	{`sight|unseen|takeUp|lockInSight`, "reattach, detached"},
	{`reap(s|ed|er|ing)?`, "remove leftovers"},
	{`patiently|waitable`, "retry until, retryable"},
	{`toKeep|toAct|toLook`, "renew, rotate, poll"},
	{`leftOut\w*|LeftOut\w*`, "skipped"},
}

// keptNames are older than the words, and are on disks, or are of somebody else's; or they are named beside those that are there now.
var keptNames = regexp.MustCompile("\\.owed\\b|%2Eowed|`?json:\"Untold|\"Untold\"|cmd/acme|\\(now \\w+\\)|(github|golang)\\.\\w+/")

func TestWords(t *testing.T) {
	var all []string
	for _, w := range words {
		all = append(all, w.not)
	}
	any := regexp.MustCompile(`(?i)\b(` + strings.Join(all, "|") + `)\b`)
	for path, text := range texts(t) {
		for _, at := range any.FindAllStringIndex(text, -1) {
			line := text[strings.LastIndexByte(text[:at[0]], '\n')+1:]
			line, _, _ = strings.Cut(line, "\n")
			if keptNames.MatchString(line) {
				continue
			}
			found := text[at[0]:at[1]]
			for _, w := range words {
				if regexp.MustCompile(`(?i)^(` + w.not + `)$`).MatchString(found) {
					t.Errorf("%s:%d: %q: say %q instead: %s", path, strings.Count(text[:at[0]], "\n")+1, found, w.but, line)
				}
			}
		}
	}
}

// texts are the repository's code and documents, by path. Programs kept as an older version had them are not looked at, nor
// is the issuer, which is a module of its own.
func texts(t *testing.T) map[string]string {
	all := map[string]string{}
	must.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (slices.Contains([]string{".git", "bin", "testdata", ".cache"}, d.Name()) || path == "../cmd/acme"):
			return fs.SkipDir
		case slices.Contains([]string{".go", ".md", ".hcl"}, filepath.Ext(path)) && d.Name() != "words_test.go":
			all[path] = read(t, path)
		}
		return nil
	}))
	must.Positive(t, len(all))
	return all
}
