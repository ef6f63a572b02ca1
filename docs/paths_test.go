package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

var (
	backQuoted  = regexp.MustCompile("`([^`\n]+)`")
	placeholder = regexp.MustCompile(`<[^>]*>|…`)
)

// Each path of the repository that a newcomer is sent to exists: `lifecycle/poll`, `secrets/compile*.go`, `secrets/<name>`.
func TestNamedPathsExist(t *testing.T) {
	top := topDirs(t)
	for page, taskDirs := range map[string][]string{
		"../CONTRIBUTING.md": nil,
		"architecture.md":    nil,
		"../README.md":       {"secrets"}, // there it is the task's own directory
	} {
		seen := 0
		for _, word := range quotedWords(read(t, page)) {
			path := strings.TrimSuffix(strings.TrimPrefix(strings.Trim(word, "',;"), "./"), "/")
			first, _, deep := strings.Cut(path, "/")
			ours := deep && slices.Contains(top, first) && !slices.Contains(taskDirs, first)
			if !ours && !(deep && strings.HasSuffix(path, ".go")) {
				continue
			}
			seen++
			found, err := filepath.Glob(filepath.Join("..", placeholder.ReplaceAllString(path, "*")))
			must.NoError(t, err)
			if len(found) == 0 {
				t.Errorf("%s names %s, which does not exist", page, word)
			}
		}
		if page != "../README.md" { // which has links
			must.Positive(t, seen, must.Sprint(page))
		}
	}
}

// topDirs are the repository's directories, but for what is built.
func topDirs(t *testing.T) (dirs []string) {
	t.Helper()
	entries, err := os.ReadDir("..")
	must.NoError(t, err)
	for _, e := range entries {
		if e.IsDir() && e.Name() != ".git" && e.Name() != ".cache" && e.Name() != "bin" {
			dirs = append(dirs, e.Name())
		}
	}
	return dirs
}

// quotedWords are the words between a page's back quotes.
func quotedWords(text string) (words []string) {
	for _, m := range backQuoted.FindAllStringSubmatch(text, -1) {
		words = append(words, strings.Fields(m[1])...)
	}
	return words
}
