package live

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// TestAChangeIsSeenWithinASecondAndAHalf waits for few changes to be seen, unless in full, and makes the rest of a thousand under
// the readers' hands. In full four readers with a secret each see them side by side, for each takes a second. A process that opens
// user and password one after the other gets two that match, all the time.
func TestAChangeIsSeenWithinASecondAndAHalf(t *testing.T) {
	d := startDaemon(t)
	const changes = 1000
	var all []*reader
	for i := range times(1, 4) {
		put(t, fmt.Sprint("change-", i), "user", "0", "password", "0")
		all = append(all, d.startReader(busyboxImage, fmt.Sprint("secret/change-", i), nil, "pairs", "500", "OUT", "/secrets"))
	}
	for i, r := range all {
		t.Run(fmt.Sprint("reader ", i), func(t *testing.T) {
			t.Parallel()
			r.t = t
			r.seesChanges(fmt.Sprint("change-", i), times(6, changes/len(all)), changes/len(all))
		})
	}
}

// seesChanges makes changes of a secret, and waits for as many of them as it is to see one by one.
func (r *reader) seesChanges(path string, seen, changes int) {
	r.until("a read", 10*time.Second, func(s stats) bool { return s.Reads > 0 })
	var took []time.Duration
	for i := range seen {
		v := fmt.Sprint("v", i)
		put(r.t, path, "user", v, "password", v)
		at := time.Now().UnixMilli()
		s := r.until("the change", 5*time.Second, func(s stats) bool { return s.Seen[v] != 0 })
		took = append(took, time.Duration(s.Seen[v]-at)*time.Millisecond)
	}
	slices.Sort(took)
	r.t.Logf("a change was seen after %s (median), at most %s", took[len(took)/2], took[len(took)-1])
	must.Less(r.t, 1500*time.Millisecond, took[len(took)-1])
	for i := range changes - seen {
		v := strings.Repeat("u", i%7) + fmt.Sprint("u", i)
		put(r.t, path, "user", v, "password", v)
	}
	put(r.t, path, "user", "last", "password", "last")
	s := r.until("the last", 5*time.Second, func(s stats) bool { return s.Seen["last"] != 0 })
	must.Zero(r.t, s.Mismatches)
	must.Zero(r.t, s.Errors, must.Sprint(s.FirstError))
	r.t.Logf("%s, of %d versions", s, len(s.Seen))
}

func TestManyContainersMakeOneRequestASecond(t *testing.T) {
	d := startDaemon(t)
	put(t, "many", "user", "0")
	all := d.startReaders(times(12, 50), "secret/many", "rate", "100", "OUT", "/secrets/user")
	first := map[*reader]stats{}
	for _, r := range all {
		first[r] = r.until("a read", 20*time.Second, func(s stats) bool { return s.Reads > 0 })
	}
	mark := len(mustRequests(t, "secret/data/many"))
	begin := time.Now()
	<-time.After(time.Duration(times(5, 30)) * time.Second) // the time that is measured
	requests := len(mustRequests(t, "secret/data/many")) - mark
	seconds := time.Since(begin).Seconds()
	reads := 0
	for _, r := range all {
		s := r.until("reads", 5*time.Second, func(s stats) bool { return s.Reads > first[r].Reads })
		must.Zero(t, s.Errors, must.Sprint(s.FirstError))
		reads += s.Reads - first[r].Reads
	}
	t.Logf("%d requests in %.1f s, for about %.0f reads a second", requests, seconds, float64(reads)/time.Since(begin).Seconds())
	must.LessEq(t, int(seconds)+1, requests)
	must.Positive(t, requests)
}

// mustRequests are the requests for a path.
func mustRequests(t *testing.T, path string) []string {
	t.Helper()
	all, err := lab.Vault.Requests(0, path)
	must.NoError(t, err)
	var list []string
	for _, r := range all {
		list = append(list, r.Path)
	}
	return list
}

func TestTheServerIsAway(t *testing.T) {
	const stale = 10 // the least that may be given
	d := startDaemon(t)
	put(t, "away", "user", "before")
	mustDocker(t, "volume", "create", "-d", d.name, "-o", "path=secret/away", "-o", fmt.Sprintf("stale=%ds", stale), d.name+"-away")
	put(t, "unread", "user", "x")
	mustDocker(t, "volume", "create", "-d", d.name, "-o", "path=secret/unread", d.name+"-unread")
	r := d.startReader(busyboxImage, d.name+"-away", nil, "rate", "500", "OUT", "/secrets/user")
	r.until("a read", 10*time.Second, func(s stats) bool { return s.Reads > 0 })

	lab.Vault.Stop()
	stopped := time.Now()
	begin := r.until("reads", 5*time.Second, func(s stats) bool { return s.Reads > 0 })
	must.Zero(t, begin.Errors)
	s := r.until("EIO", 30*time.Second, func(s stats) bool { return s.Errors > 0 })
	must.StrContains(t, s.FirstError, "input/output error")
	must.Between(t, (stale-2)*time.Second, time.Since(stopped), (stale+5)*time.Second)
	out, err := docker(t, "run", "--rm", "--network", "none", "--volume-driver", d.name, "-v", "secret/other:/secrets", busyboxImage, "true")
	must.ErrorContains(t, err, "volume secret/other: read secret/other: no answer", must.Sprint(out))
	out, err = docker(t, "run", "--rm", "--network", "none", "-v", d.name+"-unread:/secrets", busyboxImage, "true")
	must.ErrorContains(t, err, "volume "+d.name+"-unread: read secret/unread: no answer", must.Sprint(out))
	must.Len(t, 1, fuseRoots(t, d.path("run/shared"))) // of the volume that is in use
	must.Eq(t, d.name+"-away\n"+d.name+"-unread\n", mustDocker(t, "volume", "ls", "-q", "-f", "driver="+d.name))

	must.NoError(t, lab.Vault.Start(t.Context()))
	put(t, "away", "user", "after")
	back := time.Now()
	s = r.until("the new value", 10*time.Second, func(s stats) bool { return s.Seen["after"] != 0 })
	must.Less(t, 1500*time.Millisecond, time.UnixMilli(s.Seen["after"]).Sub(back))

	// It hangs: connections are accepted, and not answered.
	must.NoError(t, lab.Vault.Pause())
	before := r.until("reads", 5*time.Second, func(s stats) bool { return s.Reads > 0 })
	<-time.After(stale / 2 * time.Second)
	must.NoError(t, lab.Vault.Resume())
	s = r.until("reads", 5*time.Second, func(s stats) bool { return s.Reads > before.Reads+100 })
	must.Eq(t, before.Errors, s.Errors)
	t.Log(s)
	must.Less(t, 250*time.Millisecond, s.Slowest)
}

func TestAtFiveThousandReadsASecondNoneIsSlow(t *testing.T) {
	d := startDaemon(t)
	put(t, "fast", "user", "x")
	all := d.startReaders(5, "secret/fast", "rate", "1000", "OUT", "/secrets/user")
	measure := func(what string) {
		before := map[*reader]stats{}
		for _, r := range all {
			before[r] = r.until("reads", 10*time.Second, func(s stats) bool { return s.Reads > 100 })
		}
		begin := time.Now()
		<-time.After(time.Duration(times(1, 30)) * time.Second) // the time that is measured
		var now []stats
		n := 0
		for _, r := range all {
			s := r.until("reads", 10*time.Second, func(s stats) bool { return s.Reads > before[r].Reads+100 })
			must.Zero(t, s.Errors, must.Sprint(s.FirstError))
			n += s.Reads - before[r].Reads
			now = append(now, s)
		}
		t.Logf("%s: %.0f reads a second; up to now %s", what, float64(n)/time.Since(begin).Seconds(), sum(now))
		must.Less(t, 250*time.Millisecond, sum(now).Slowest)
	}
	measure("all is well")
	must.NoError(t, lab.Vault.Pause())
	measure("the server hangs")
	must.NoError(t, lab.Vault.Resume())
	must.NoError(t, d.signal(syscall.SIGSTOP))
	measure("the volume driver hangs")
	must.NoError(t, d.signal(syscall.SIGCONT))
	d.stop(syscall.SIGKILL)
	measure("the volume driver is away")
	d.start()
	measure("it is back")
	must.NoError(t, lab.engine.Kill(t.Context()))
	measure("the Docker engine is away")
	must.NoError(t, lab.engine.Start(t.Context()))
}

func TestErrorsAreToldByDocker(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "-allow", "secret/*")
	put(t, "errors", "user", "x")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"not allowed": {[]string{"volume", "create", "-d", d.name, "database/creds/x"}, "start the volume driver with -allow database/creds/x"},
		"dot dot":     {[]string{"volume", "create", "-d", d.name, "-o", "path=secret/../x", "x"}, `".." is not allowed`},
		"not there":   {[]string{"volume", "create", "-d", d.name, "secret/none"}, "nothing is there"},
		"option":      {[]string{"volume", "create", "-d", d.name, "-o", "user=x", "secret/errors"}, `unknown option "user"`},
		"run":         {[]string{"run", "--rm", "--volume-driver", d.name, "-v", "secret/none:/secrets", busyboxImage, "true"}, "nothing is there"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := docker(t, c.args...)
			must.ErrorContains(t, err, c.want, must.Sprint(out))
		})
	}
	must.Eq(t, "", mustDocker(t, "volume", "ls", "-q", "-f", "driver="+d.name))
	r := d.startReader(busyboxImage, "secret/errors", nil, "rate", "10", "OUT", "/secrets/user")
	_, err := docker(t, "volume", "rm", "secret/errors")
	must.ErrorContains(t, err, "in use")
	_, err = docker(t, "volume", "create", "-d", d.name, "-o", "path=secret/errors", "-o", "mode=0400", "other-name")
	must.NoError(t, err)
	mustDocker(t, "rm", "-f", r.name)
	mustDocker(t, "volume", "rm", "secret/errors/", "other-name")
	must.SliceEmpty(t, d.leftovers())
	must.Eq(t, "", mustDocker(t, "volume", "ls", "-q", "-f", "driver="+filepath.Base(d.name)))
}
