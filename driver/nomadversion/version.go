// Package nomadversion tells which version of Nomad the wrapped drivers are from, and which one the agent is.
// What cannot be known is empty, and never guessed.
package nomadversion

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os/exec"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-version"
)

// nomadModule has both the drivers and the agent.
const nomadModule = "github.com/hashicorp/nomad"

// Wrapped is the version of the Nomad module that this binary has been built with: "1.11.3".
var Wrapped = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, dep := range info.Deps {
		if dep.Path == nomadModule {
			if dep.Replace != nil {
				dep = dep.Replace
			}
			return strings.TrimPrefix(dep.Version, "v")
		}
	}
	return ""
})

// askTimeout is how long the agent's program may take to tell its version.
const askTimeout = 30 * time.Second

// OfAgent is the version of the Nomad agent that is process pid. It is asked of the program which that
// process runs, also where another has been installed in its place since, and only if it is Nomad: the plugin's
// parent is another process once the agent that started it has gone.
func OfAgent(ctx context.Context, pid int) string {
	return ofProgram(ctx, fmt.Sprintf("/proc/%d/exe", pid))
}

func ofProgram(ctx context.Context, exe string) string {
	info, err := buildinfo.ReadFile(exe)
	if err != nil || info.Path != nomadModule {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "version")
	cmd.Env = []string{} // nothing that a plugin is given makes it one
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return parse(string(out))
}

var versionLine = regexp.MustCompile(`(?m)^Nomad v(\S+)`)

// parse reads what `nomad version` prints.
func parse(out string) string {
	found := versionLine.FindStringSubmatch(out)
	if found == nil {
		return ""
	}
	if _, err := version.NewSemver(found[1]); err != nil {
		return ""
	}
	return found[1]
}

// Newer reports whether a is known to be newer than b.
func Newer(a, b string) bool {
	va, errA := version.NewSemver(a)
	vb, errB := version.NewSemver(b)
	return errA == nil && errB == nil && va.GreaterThan(vb)
}
