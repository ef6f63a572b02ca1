package leakscan

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// writings are ways in which a program may write a value, by the form that a hit should name.
var writings = []struct {
	form  string
	write func(v string) string
}{
	{"plain", func(v string) string { return v }},
	{"JSON", func(v string) string { return mustJSON(map[string]string{"k": v}) }},
	{"JSON within JSON", func(v string) string { return mustJSON(mustJSON(map[string]string{"k": v})) }},
	{"Go string", func(v string) string { return fmt.Sprintf("%q", []string{v}) }},
	{"Go string", func(v string) string { return fmt.Sprintf("%+q", v) }},
	{"URL", func(v string) string { return "http://x/?" + url.Values{"k": {v}}.Encode() }},
	{"URL", func(v string) string { return "http://x/" + url.PathEscape(v) }},
	{"hex", func(v string) string { return hex.EncodeToString([]byte(v)) }},
	{"hex", func(v string) string { return fmt.Sprintf("%X", v) }},
	{"base64", func(v string) string { return base64.StdEncoding.EncodeToString([]byte(v)) }},
	{"base64", func(v string) string { return base64.StdEncoding.EncodeToString([]byte("x" + v + "y")) }},
	{"base64", func(v string) string { return base64.StdEncoding.EncodeToString([]byte("xx" + v + "yy")) }},
	{"base64", func(v string) string { return base64.URLEncoding.EncodeToString([]byte(v)) }},
	{"base64", func(v string) string { return base64.RawURLEncoding.EncodeToString([]byte("x" + v + "y")) }},
	{"base64", func(v string) string { return base64.RawURLEncoding.EncodeToString([]byte("xx" + v)) }},
	{"base64 of JSON", func(v string) string { return base64.StdEncoding.EncodeToString([]byte(mustJSON(v))) }},
	{"hex of URL", func(v string) string { return hex.EncodeToString([]byte(url.QueryEscape(v))) }},
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func scan(t testing.TB, s *Scanner, sources ...Source) Report {
	t.Helper()
	report, err := s.Scan(context.Background(), sources...)
	must.NoError(t, err)
	return report
}

func newScanner(t testing.TB, values ...string) *Scanner {
	t.Helper()
	var canaries []Canary
	for i, v := range values {
		canaries = append(canaries, Canary{Name: fmt.Sprint("canary-", i), Value: v})
	}
	s, err := New(canaries...)
	must.NoError(t, err)
	return s
}

func TestForms(t *testing.T) {
	odd := `q"u\o<t>e&d /+=~é` + "\n\x00\xff" + rand.Text()
	s := newScanner(t, odd, rand.Text())
	// What is no UTF-8 is lost in JSON, and so is the value.
	valid := strings.ToValidUTF8(odd, "?")
	ofValid := newScanner(t, valid, rand.Text())
	for _, w := range writings {
		s, written := s, "some "+w.write(odd)+" text"
		if strings.Contains(w.form, "JSON") {
			s, written = ofValid, "some "+w.write(valid)+" text"
		}
		report := scan(t, s, Text("memory", "here", []byte(written)))
		must.SliceNotEmpty(t, report.Hits, must.Sprint(w.form, " not found in ", written))
		var forms []string
		for _, h := range report.Hits {
			must.EqOp(t, "canary-0", h.Canary)
			forms = append(forms, h.Form)
		}
		must.SliceContains(t, forms, w.form, must.Sprint("in ", written))
	}
	must.SliceEmpty(t, scan(t, s, Text("memory", "here", []byte(rand.Text()))).Hits)
	// Half of a value is none.
	must.SliceEmpty(t, scan(t, s, Text("memory", "here", []byte(odd[:len(odd)/2]))).Hits)
}

// A report is printed and kept, so it must not be a leak itself.
func TestReportShowsNoValue(t *testing.T) {
	value := rand.Text()
	s := newScanner(t, value)
	dir := filepath.Join(t.TempDir(), "of-"+hex.EncodeToString([]byte(value)))
	must.NoError(t, os.Mkdir(dir, 0o700))
	must.NoError(t, os.WriteFile(filepath.Join(dir, value), []byte(value), 0o600))
	must.NoError(t, os.Symlink("/nowhere/"+value, filepath.Join(dir, "link")))
	report, err := s.Scan(context.Background(), Tree("tree", dir, TreeOptions{}),
		Command("command", "sh", "-c", "exit 1", value), URLs("url", "http://127.0.0.1:1/"+value))
	must.Error(t, err)
	must.SliceNotEmpty(t, report.Hits)
	must.EqOp(t, -1, report.Hits[0].Offset, must.Sprint("in the name"))
	printed := fmt.Sprintf("%v %+v %#v %s %v", report, report, report.Hits, err, s.canaries)
	must.SliceEmpty(t, scan(t, s, Text("report", "report", []byte(printed))).Hits, must.Sprint(printed))
}

func TestShortValueIsRefused(t *testing.T) {
	_, err := New(Canary{Name: "pin", Value: "1234567"})
	must.ErrorContains(t, err, "canary pin")
}

// Of a long value parts are found: a log or an error may have cut it.
func TestLongValue(t *testing.T) {
	for _, long := range []string{strings.Repeat(rand.Text()+"\n", 2000), strings.Repeat("日本語", 50)} {
		s := newScanner(t, long)
		for _, cut := range []string{long, long[:99], long[len(long)-99:], long[len(long)/2-99 : len(long)/2+99]} {
			must.SliceNotEmpty(t, scan(t, s, Text("memory", "here", []byte(strconv.Quote(cut)))).Hits)
		}
	}
}

// Wherever a stream is cut into reads, and however long it is, the value is found at its place.
func TestStreams(t *testing.T) {
	value := rand.Text()
	s := newScanner(t, value, value[:len(value)-1]+"!", "longer than "+value)
	noise := make([]byte, 3<<20)
	_, _ = rand.Read(noise)
	content := append(append(bytes.Clone(noise), value[:20]+value...), noise...)
	for name, r := range map[string]io.Reader{
		"whole": bytes.NewReader(content), "halves": iotest.HalfReader(bytes.NewReader(content)),
		"bytes": iotest.OneByteReader(bytes.NewReader(content)),
	} {
		report := Report{Places: map[string]int{}, Bytes: map[string]int64{}}
		v := &visitor{scanner: s, report: &report, source: name}
		must.NoError(t, v.visit("stream", r))
		must.Len(t, 1, report.Hits)
		must.EqOp(t, int64(len(noise)+20), report.Hits[0].Offset)
		must.EqOp(t, int64(len(content)), report.Bytes[name])
	}
}

func TestTree(t *testing.T) {
	value := rand.Text()
	s := newScanner(t, value)
	dir, elsewhere := t.TempDir(), t.TempDir()
	write := func(path string) {
		must.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must.NoError(t, os.WriteFile(path, []byte(value), 0o000))
	}
	write(filepath.Join(dir, "a/b/c/deep"))
	write(filepath.Join(dir, "kept"))
	write(filepath.Join(elsewhere, "linked"))
	must.NoError(t, os.Symlink(elsewhere, filepath.Join(dir, "link")))
	must.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600)) // reading it would wait for ever
	must.NoError(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
	root := filepath.Join(t.TempDir(), "root")
	must.NoError(t, os.Symlink(dir, root))

	found := func(opts TreeOptions) (places []string) {
		for _, h := range scan(t, s, Tree("tree", root, opts)).Hits {
			rel, err := filepath.Rel(dir, h.Place)
			must.NoError(t, err)
			places = append(places, rel)
		}
		return places
	}
	must.SliceContainsAll(t, found(TreeOptions{}), []string{"a/b/c/deep", "kept"})
	must.Eq(t, []string{"a/b/c/deep"}, found(TreeOptions{Skip: []string{"kept"}}))

	mount := filepath.Join(dir, "a/tmpfs")
	must.NoError(t, os.Mkdir(mount, 0o700))
	must.NoError(t, unix.Mount("tmpfs", mount, "tmpfs", 0, ""))
	t.Cleanup(func() { must.NoError(t, unix.Unmount(mount, 0)) })
	write(filepath.Join(mount, "in-memory"))
	must.SliceContains(t, found(TreeOptions{}), "a/tmpfs/in-memory")
	for _, mounts := range []Mounts{NoTmpfs, NoMounts} {
		must.SliceNotContains(t, found(TreeOptions{Mounts: mounts}), "a/tmpfs/in-memory")
		report := scan(t, s, Tree("tree", root, TreeOptions{Mounts: mounts}))
		must.Eq(t, []string{mount + ": in memory"}, report.Skipped)
	}
	must.SliceNotEmpty(t, scan(t, s, Tree("itself", mount, TreeOptions{Mounts: NoMounts})).Hits, must.Sprint("the root is no mount below the root"))

	// A file that is mounted on a file, and one that is a namespace.
	for _, what := range []string{filepath.Join(elsewhere, "linked"), "/proc/self/ns/net"} {
		on := filepath.Join(dir, "a/"+filepath.Base(what))
		must.NoError(t, os.WriteFile(on, nil, 0o600))
		must.NoError(t, unix.Mount(what, on, "", unix.MS_BIND, ""))
		t.Cleanup(func() { must.NoError(t, unix.Unmount(on, 0)) })
	}
	must.SliceContains(t, found(TreeOptions{}), "a/linked")

	_, err := s.Scan(context.Background(), Tree("tree", filepath.Join(dir, "nowhere"), TreeOptions{}))
	must.Error(t, err)
}

func TestCommandsURLsAndProcesses(t *testing.T) {
	value := rand.Text()
	s := newScanner(t, value)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, mustJSON(map[string]string{"error": value}))
	}))
	defer server.Close()

	must.Len(t, 1, scan(t, s, URLs("url", server.URL+"/found")).Hits)
	for name, source := range map[string]Source{
		"status":  URLs("url", server.URL+"/missing"),
		"command": Command("command", "sh", "-c", "cat >&2; exit 3", value),
	} {
		report, err := s.Scan(context.Background(), source)
		must.Error(t, err, must.Sprint(name))
		must.SliceNotEmpty(t, report.Hits, must.Sprint(name))
	}

	inArgs := exec.Command("sleep", "infinity", "--"+value)
	inArgs.Args = []string{"sleep", "infinity"}
	inArgs.Env = []string{"SECRET=" + value}
	must.NoError(t, inArgs.Start())
	t.Cleanup(func() {
		_ = inArgs.Process.Kill()
		_ = inArgs.Wait()
	})
	must.SliceEmpty(t, scan(t, s, Processes("processes")).Hits)
	hits := scan(t, s, Processes("processes", inArgs.Process.Pid)).Hits
	must.Len(t, 1, hits)
	must.EqOp(t, fmt.Sprintf("/proc/%d/environ", inArgs.Process.Pid), hits[0].Place)
	shown := exec.Command("sh", "-c", "echo; read -r _", value)
	in, err := shown.StdinPipe()
	must.NoError(t, err)
	out, err := shown.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, shown.Start())
	_, err = out.Read(make([]byte, 1)) // it has its arguments now
	must.NoError(t, err)
	must.Len(t, 1, scan(t, s, Processes("processes")).Hits)
	must.NoError(t, in.Close())
	_ = shown.Wait()
}

// A canary in any form, anywhere in anything, is found; and nothing is found where there is none.
func FuzzScan(f *testing.F) {
	f.Add("a value to be found", "before", "after", uint8(0))
	f.Add("\x00\xff\"\\<>&%+/ é", "", "==", uint8(9))
	f.Add("aaaaaaaaaaaaaaaa", "aaaaaaa", "aaaaaaa", uint8(1))
	f.Fuzz(func(t *testing.T, value, before, after string, how uint8) {
		w := writings[int(how)%len(writings)]
		if strings.Contains(w.form, "JSON") {
			value = strings.ToValidUTF8(value, "?")
		}
		if len(value) < MinValue {
			t.Skip()
		}
		s := newScanner(t, value)
		report := scan(t, s, Text("memory", "here", []byte(before+w.write(value)+after)))
		if len(report.Hits) == 0 {
			t.Fatalf("%q as %s is not found", value, w.form)
		}
		if clean := strings.Repeat("\x01", 500); !strings.Contains(clean, value) && len(scan(t, s, Text("memory", "here", []byte(clean))).Hits) != 0 {
			t.Fatalf("%q is found where it is not", value)
		}
	})
}
