package driver

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/leakscan"
)

// What a panic prints, with every goroutine's stack and the arguments on it, has no value in it (L4):
// Nomad puts it into its log. The panic is of a copy of this test, with values in every type that
// carries them.
func TestPanicPrintsNoValue(t *testing.T) {
	const crash, canary = "DRIVER_TEST_CRASH", "DRIVER_TEST_CANARY"
	if how := os.Getenv(crash); how != "" {
		crashWith(how, os.Getenv(canary))
		return
	}
	value := rand.Text()
	scanner, err := leakscan.New(leakscan.Canary{Name: "value", Value: value},
		// As the words of a stack: the runtime prints arguments in hexadecimal, as numbers.
		leakscan.Canary{Name: "value's words", Value: fmt.Sprintf("%#x", littleEndian(value[:8]))})
	must.NoError(t, err)
	for _, how := range []string{"value", "set", "token", "payload", "error", "text"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPanicPrintsNoValue$")
		cmd.Env = append(os.Environ(), "GOTRACEBACK=system", crash+"="+how, canary+"="+value)
		out, err := cmd.CombinedOutput()
		must.Error(t, err)
		must.StrContains(t, string(out), "panic: ", must.Sprint(how))
		must.StrContains(t, string(out), "holdsValues", must.Sprint("the goroutines' stacks are printed"))
		report, err := scanner.Scan(context.Background(), leakscan.Text("panic", how, out))
		must.NoError(t, err)
		if how == "text" { // of a value outside of its type: the scan sees
			must.SliceNotEmpty(t, report.Hits)
			continue
		}
		must.SliceEmpty(t, report.Hits, must.Sprint(how))
	}
}

func littleEndian(b string) (n uint64) {
	for i := range 8 {
		n |= uint64(b[i]) << (8 * i)
	}
	return n
}

func crashWith(how, canary string) {
	v := secrets.TextValue(canary)
	set := secrets.Set{
		Env:   map[string]secrets.Value{"VALUE": v},
		Files: []secrets.RenderedFile{{Path: "x", Data: v}},
	}
	token := secrets.Token{Value: v, Accessor: "accessor"}
	payload := launcher.Payload{Argv: []string{"app"}, Env: []string{"VALUE=" + canary}}
	var holder sync.WaitGroup
	holder.Add(1)
	go holdsValues(&holder, v, set, token, payload)
	holder.Wait()

	hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, JSONFormat: true}).
		Error("about to crash", "value", v, "set", set, "token", token, "payload", payload, "error", fmt.Errorf("%v %+v %#v", v, set, token))
	switch how {
	case "value":
		panic(v)
	case "set":
		panic(set)
	case "token":
		panic(fmt.Sprintf("%+v", token))
	case "payload":
		panic(payload)
	case "error":
		panic(fmt.Errorf("cannot use %s: %+v", v, &set))
	case "text":
		panic(v.Text())
	}
}

//go:noinline
func holdsValues(holder *sync.WaitGroup, v secrets.Value, set secrets.Set, token secrets.Token, payload launcher.Payload) {
	holder.Done()
	<-make(chan struct{}) // for ever
	runtime.KeepAlive([]any{v, set, token, payload})
}
