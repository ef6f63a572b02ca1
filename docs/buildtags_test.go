package docs

import (
	"regexp"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

var buildTag = regexp.MustCompile(`(?m)^//go:build (\w+)$`)

// What only a build tag brings in is linted, too: .golangci.yml or the lint target names the tag.
func TestBuildTagsAreLinted(t *testing.T) {
	_, lint, found := strings.Cut(read(t, "../GNUmakefile"), "\nlint: ")
	must.True(t, found)
	lint, _, _ = strings.Cut(lint, "\n\n")
	config := regexp.MustCompile(`(?m)^  build-tags: .*$`).FindString(read(t, "../.golangci.yml"))
	tags := 0
	walkGo(t, func(path, source string) {
		if m := buildTag.FindStringSubmatch(source); m != nil {
			tags++
			must.RegexMatch(t, regexp.MustCompile(`\b`+m[1]+`\b`), config+lint, must.Sprint(path))
		}
	})
	must.Positive(t, tags)
}
