package jobfile

import (
	"os"
	"testing"

	"github.com/shoenig/test/must"
)

// jobspec2 compiles with this hcl alone, and a replace would not reach who imports this module.
func TestModule(t *testing.T) {
	mod, err := os.ReadFile("../../../go.mod")
	must.NoError(t, err)
	must.StrContains(t, string(mod), "\tgithub.com/hashicorp/hcl/v2 v2.20.2-nomad-1\n")
	must.StrNotContains(t, string(mod), "\nreplace")
}
